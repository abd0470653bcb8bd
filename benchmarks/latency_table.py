"""Latency of ResNet-8, ResNet-20 and MobileNet, float32 and int8, in LiteRT and ONNX Runtime, all in one run.

python benchmarks/latency_table.py     writes benchmarks/results/latency_table.json
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from edgehone.exporters import EXPORTERS
from edgehone.graph.fold import deploy
from edgehone.graph.trace import trace
from edgehone.graph.twin import quantize
from edgehone.measure.machine import describe_machine
from edgehone.testing.networks import NETWORKS, example_shape
from edgehone_agent.measure.latency import measure_latency
from edgehone_agent.runtimes import RUNTIMES

RESULTS = Path(__file__).parent / "results"
NAMES = ("resnet8", "resnet20", "mobilenet")
FORMATS = {"tflite": "litert", "onnx": "onnxruntime"}
ROUNDS = 60


def main() -> None:
    """Run and write the result."""
    torch.set_num_threads(1)
    sessions, sizes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            shape = example_shape(name)
            graph = deploy(trace(NETWORKS[name](), torch.rand(2, *shape[1:])))
            integers = quantize(graph, torch.rand(64, *shape[1:]).split(32))
            for format_name, runtime in FORMATS.items():
                for kind, source in (("float32", graph), ("int8", integers)):
                    path = Path(folder) / f"{name}-{kind}.{format_name}"
                    path.write_bytes(EXPORTERS.get(format_name).export(source))
                    key = f"{name} {kind} {runtime}"
                    sessions[key], sizes[key] = RUNTIMES.get(runtime).load(path), path.stat().st_size
        found = measure_latency(sessions, rounds=ROUNDS)
    rows = {
        key: {"median_us": r.median_us, "low_us": r.low_us, "high_us": r.high_us, "size_bytes": sizes[key]}
        for key, r in found.items()
    }
    result = {
        "what": "median latency in µs, 1 thread, batch 1, 3x32x32, interleaved in one run",
        "command": "python benchmarks/latency_table.py",
        "rounds": ROUNDS,
        "noise": max(r.noise.spread for r in found.values()),
        "rows": rows,
        "machine": describe_machine(),
    }
    RESULTS.joinpath("latency_table.json").write_text(json.dumps(result, indent=1) + "\n")
    for key, row in rows.items():
        print(f"{key:32s} {row['median_us']:8.1f} µs  {row['size_bytes']:9,d} B")


if __name__ == "__main__":
    main()
