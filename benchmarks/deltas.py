"""Weight-aware deltas between two bundles against zstd --patch-from, xdelta3 and bsdiff4, on the same pairs in one run.

python benchmarks/deltas.py            writes benchmarks/results/deltas.json; about ten minutes, most of them bsdiff4's

Needs `pip install bsdiff4`, and takes `zstd` and `xdelta3` along where they are installed. The network
is an MLP of 6.4 million weights that is trained on scikit-learn's digits; sizes are per cent of the new bundle.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import bsdiff4
import torch
from sklearn.datasets import load_digits
from torch import nn

from edgehone.bundle.build import pack
from edgehone.bundle.delta import make_delta
from edgehone.exporters import EXPORTERS
from edgehone.graph.fold import deploy
from edgehone.graph.trace import trace
from edgehone.graph.twin import quantize
from edgehone.measure.machine import describe_machine
from edgehone_agent.delta import apply_delta
from edgehone_agent.wire.manifest import Manifest, Part, Values

RESULTS = Path(__file__).parent / "results"
SEED, REPEATS = 0, 5


def network() -> nn.Sequential:
    """64 → 2048 → 2048 → 1024 → 10."""
    return nn.Sequential(
        nn.Linear(64, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 1024), nn.ReLU(),
        nn.Linear(1024, 10),
    )  # fmt: skip


def trained(net: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, rate: float, seed: int) -> nn.Module:
    """A copy, trained further."""
    net, order = deepcopy(net), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net


def noisy(net: nn.Module, share: float, layers: slice = slice(None)) -> nn.Module:
    """A copy whose weights are moved by a share of their spread."""
    net, dice = deepcopy(net), torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for layer in [m for m in net.modules() if isinstance(m, nn.Linear)][layers]:
            layer.weight += share * layer.weight.std() * torch.randn(layer.weight.shape, generator=dice)
    return net


def bundle(path: Path, net: nn.Module, x: torch.Tensor) -> Path:
    """The network as an int8 .tflite file in a bundle."""
    content = EXPORTERS.get("tflite").export(quantize(deploy(trace(net.eval(), x[:2])), x.split(256)))
    part = Part("models/litert/model.tflite", "model", hashlib.sha256(content).hexdigest(), len(content), "litert")
    manifest = Manifest(
        "digits", "classification", 1, "m", "2026-01-01T00:00:00+00:00", (part,), Values("x", (64,)), Values("y", (10,))
    )
    path.write_bytes(pack(manifest, {part.path: content}))
    return path


def timed(work: Callable[[], object], repeats: int) -> float:
    """Median milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def ours(old: Path, new: Path, folder: Path) -> dict[str, float | None]:
    """Size and times of a delta of ours; `size_percent` is None where none is worth it."""
    delta, made, digest = folder / "ours", folder / "made", hashlib.sha256(new.read_bytes()).hexdigest()
    content = make_delta(old, new)
    make_ms = timed(lambda: make_delta(old, new), REPEATS)
    if content is None:
        return {"size_percent": None, "make_ms": make_ms, "apply_ms": None}
    delta.write_bytes(content)
    apply_ms = timed(lambda: apply_delta(old, delta, made, digest), REPEATS)
    return {"size_percent": 100 * len(content) / new.stat().st_size, "make_ms": make_ms, "apply_ms": apply_ms}


def others(old: Path, new: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Sizes and times of the tools people use."""
    found = {}
    commands = {
        "zstd -3 --patch-from": ["zstd", "-qf", "-3", "--long=27", f"--patch-from={old}", str(new), "-o"],
        "zstd -19 --patch-from": ["zstd", "-qf", "-19", "--long=27", f"--patch-from={old}", str(new), "-o"],
        "xdelta3 -9": ["xdelta3", "-f", "-9", "-e", "-s", str(old), str(new)],
    }
    for name, command in commands.items():
        if shutil.which(command[0]):
            target = folder / "theirs"
            make_ms = timed(lambda c=command, t=target: subprocess.run([*c, str(t)], check=True), 1)
            found[name] = {"size_percent": 100 * target.stat().st_size / new.stat().st_size, "make_ms": make_ms}
    before, after = old.read_bytes(), new.read_bytes()
    start = time.perf_counter()
    size = len(bsdiff4.diff(before, after))
    found["bsdiff4"] = {"size_percent": 100 * size / len(after), "make_ms": 1e3 * (time.perf_counter() - start)}
    return found


def main() -> None:
    """Run and write the result."""
    torch.manual_seed(SEED)
    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    base = trained(network(), x, y, 5, 1e-3, SEED)
    head = deepcopy(base)
    for parameter in list(head.parameters())[:-2]:
        parameter.requires_grad = False
    torch.manual_seed(SEED + 1)
    cases = {
        "head only, 1 epoch": trained(head, x, y, 1, 1e-3, 1),
        "noise of 0.4 % on all weights": noisy(base, 0.004),
        "noise of 2 % on all weights": noisy(base, 0.02),
        "1 epoch at rate 1e-4": trained(base, x, y, 1, 1e-4, 1),
        "5 epochs at rate 1e-4": trained(base, x, y, 5, 1e-4, 1),
        "trained anew": trained(network(), x, y, 5, 1e-3, SEED + 1),
    }
    rows: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old = bundle(folder / "old", base, x)
        for case, net in cases.items():
            new = bundle(folder / "new", net, x)
            rows[case] = {"edgehone": ours(old, new, folder), **others(old, new, folder)}
            print(case, json.dumps(rows[case]), flush=True)
        size = old.stat().st_size
    result = {
        "what": "delta between two bundles, size in per cent of the new one, times in milliseconds",
        "command": "python benchmarks/deltas.py",
        "seed": SEED,
        "bundle_bytes": size,
        "rows": rows,
        "machine": describe_machine(),
    }
    RESULTS.joinpath("deltas.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
