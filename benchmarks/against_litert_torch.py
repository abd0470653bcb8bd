"""Latency and size of our int8 .tflite against the official converter's, on the same networks, in one run.

The official converter weighs 1.3 GB and lives in an environment of its own, so this is run by hand:

    python -m venv /tmp/official && /tmp/official/bin/pip install torch==2.13.0 litert-torch==0.10.0 \\
        ai-edge-quantizer==0.10.0 ai-edge-litert==2.3.0 onnx onnxruntime scipy rich jinja2 pillow
    /tmp/official/bin/pip install --no-deps -e agent -e .
    /tmp/official/bin/python benchmarks/against_litert_torch.py
"""

from __future__ import annotations

import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

from edgehone.exporters import EXPORTERS
from edgehone.graph.fold import deploy
from edgehone.graph.trace import trace
from edgehone.graph.twin import quantize
from edgehone.measure.machine import describe_machine
from edgehone.testing.networks import NETWORKS, example_shape
from edgehone_agent.measure.latency import measure_latency, ratio
from edgehone_agent.runtimes import RUNTIMES

RESULTS = Path(__file__).parent / "results"
NAMES = ("resnet8", "resnet20", "mobilenet")
OFFICIAL = ("litert-torch", "litert-converter", "ai-edge-quantizer")
ROUNDS = 80


def official(network: torch.nn.Module, x: torch.Tensor) -> bytes:
    """int8 by litert-torch and ai-edge-quantizer, channels-last input, int8 input and output."""
    import litert_torch
    from ai_edge_quantizer import quantizer, recipe

    last = litert_torch.to_channel_last_io(network.eval(), args=[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.tflite"
        litert_torch.convert(last, (x[:1].permute(0, 2, 3, 1).contiguous(),)).export(str(path))
        tool = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        samples = [{"args_0": row[None].permute(0, 2, 3, 1).contiguous().numpy()} for row in x]
        return bytes(tool.quantize(tool.calibrate({"serving_default": samples})).quantized_model)


def main() -> None:
    """Convert both ways, measure interleaved, write benchmarks/results/against_litert_torch.json."""
    torch.set_num_threads(1)
    rows = {}
    for name in NAMES:
        torch.manual_seed(0)
        network, x = NETWORKS[name](), torch.rand(64, *example_shape(name)[1:])
        start = time.perf_counter()
        ours = EXPORTERS.get("tflite").export(quantize(deploy(trace(network, x[:2])), x.split(32)))
        between = time.perf_counter()
        theirs = official(network, x)
        seconds = (between - start, time.perf_counter() - between)
        with tempfile.TemporaryDirectory() as folder:
            sessions = {}
            for kind, content in (("ours", ours), ("official", theirs)):
                path = Path(folder) / f"{kind}.tflite"
                path.write_bytes(content)
                sessions[kind] = RUNTIMES.get("litert").load(path)
            found = measure_latency(sessions, rounds=ROUNDS)
        compared = ratio(found["ours"], found["official"])
        rows[name] = {
            "ours_us": found["ours"].median_us, "official_us": found["official"].median_us,
            "ratio": compared.value, "ratio_low": compared.low, "ratio_high": compared.high,
            "ours_bytes": len(ours), "official_bytes": len(theirs),
            "ours_convert_s": seconds[0], "official_convert_s": seconds[1],
        }  # fmt: skip
        print(name, json.dumps(rows[name]))
    result = {
        "what": "int8 .tflite, ours against litert-torch + ai-edge-quantizer, LiteRT, 1 thread, interleaved",
        "command": "python benchmarks/against_litert_torch.py",
        "rounds": ROUNDS,
        "seed": 0,
        "rows": rows,
        "versions": {name: version(name) for name in (*OFFICIAL, "torch", "ai-edge-litert", "numpy")},
        "machine": describe_machine(),
    }
    RESULTS.joinpath("against_litert_torch.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
