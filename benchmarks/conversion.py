"""How long a ResNet-20 takes from torch to int8 .tflite in a fresh process, imports included.

`file_s` is from starting the process until the file is on disk, `process_s` until the process has ended.

python benchmarks/conversion.py        writes benchmarks/results/conversion.json
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
REPEATS = 5
WORK = """
import pathlib, sys, time; start = time.perf_counter()
import torch; torch.set_num_threads(1)
from edgehone.exporters import EXPORTERS
from edgehone.graph.fold import deploy
from edgehone.graph.trace import trace
from edgehone.graph.twin import quantize
from edgehone.testing.networks import NETWORKS, example_shape
imported = time.perf_counter()
network = NETWORKS["resnet20"](); x = torch.rand(256, *example_shape("resnet20")[1:])
begun = time.perf_counter()
graph = deploy(trace(network, x[:2])); traced = time.perf_counter()
integers = quantize(graph, x.split(64)); calibrated = time.perf_counter()
content = EXPORTERS.get("tflite").export(integers); pathlib.Path(sys.argv[1]).write_bytes(content)
written = time.perf_counter()
print(time.time(), imported - start, traced - begun, calibrated - traced, written - calibrated, len(content))
"""


def main() -> None:
    """Run and write the result."""
    rows = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", WORK, f"{folder}/model.tflite"]
            start = time.time()
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            ended = time.time()
        there, imports, trace, calibrate, write, size = map(float, out.split())
        rows.append(
            {"file_s": there - start, "process_s": ended - start, "import_s": imports, "trace_s": trace,
             "calibrate_s": calibrate, "write_s": write, "size_bytes": int(size)}
        )  # fmt: skip
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    from edgehone.measure.machine import describe_machine

    result = {
        "what": "ResNet-20 (3x32x32), torch to int8 .tflite in a fresh process, calibrated on 256 inputs, 1 thread",
        "command": "python benchmarks/conversion.py",
        "repeats": REPEATS,
        "median": median,
        "runs": rows,
        "machine": describe_machine(),
    }
    RESULTS.joinpath("conversion.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(median, indent=1))


if __name__ == "__main__":
    main()
