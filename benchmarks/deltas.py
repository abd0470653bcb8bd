"""Weight-aware deltas between two bundles against zstd --patch-from, xdelta3 and bsdiff4, on the same pairs in one run.

Networks: an MLP of 8 million weights and a ResNet-20, both trained on scikit-learn's digits and exported as int8
.tflite files. Cases: only the head was trained; noise on all weights, as a share of their spread; one and five more
epochs of real training; a network that was trained anew. Sizes are per cent of the new bundle.

Times are medians in milliseconds. Ours are calls in this process, from file to file, with all digests checked and the
result synced to disk; bsdiff4's are calls in this process in memory; zstd's and xdelta3's are whole processes, which
neither check a digest nor sync. What takes long runs less often, see `runs`.

    python benchmarks/deltas.py            writes benchmarks/results/deltas.json, in about 15 minutes

Needs bsdiff4, zstd and xdelta3.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import bsdiff4
import torch
from sklearn.datasets import load_digits
from torch import nn

from edgehone.bundle.archive import Content, bundle_bytes
from edgehone.bundle.delta import make_delta
from edgehone.exporters import EXPORTERS
from edgehone.graph.fold import deploy
from edgehone.graph.trace import trace
from edgehone.graph.twin import quantize
from edgehone.measure.machine import describe_machine
from edgehone.testing.networks import ResNet
from edgehone_agent.delta import apply_delta
from edgehone_agent.wire.manifest import Manifest, Values

RESULTS = Path(__file__).parent / "results"
SEED, RUNS, PATIENCE_S = 0, 7, 10.0
Row = dict[str, float | int | None]


def mlp() -> nn.Sequential:
    """64 → 2048 → 2560 → 1024 → 10."""
    widths = (64, 2048, 2560, 1024)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], 10))


def resnet() -> nn.Module:
    """ResNet-20 over (N, 1, 8, 8)."""
    return ResNet(3, channels=1)


def trained(network: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, rate: float, seed: int) -> nn.Module:
    """A copy, trained further with Adam at a batch size of 64."""
    network, order = deepcopy(network).train(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return network.eval()


def noisy(network: nn.Module, share: float) -> nn.Module:
    """A copy whose weights are moved by a share of their spread."""
    network, dice = deepcopy(network), torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight += share * weight.std() * torch.randn(weight.shape, generator=dice)
    return network


def head_only(network: nn.Module) -> nn.Module:
    """A copy of which only the last layer learns."""
    network = deepcopy(network)
    for parameter in list(network.parameters())[:-2]:
        parameter.requires_grad = False
    return network


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A network whose first weights come from a seed."""
    torch.manual_seed(seed)
    return build()


def bundle(path: Path, network: nn.Module, x: torch.Tensor) -> Path:
    """The network as an int8 .tflite file in a bundle."""
    body = EXPORTERS.get("tflite").export(quantize(deploy(trace(network.eval(), x[:2])), x.split(256)))
    manifest = Manifest(
        "digits", "classification", 1, "m", "2026-01-01T00:00:00+00:00", (), Values("x", x[0].shape),
        Values("y", (10,)), labels=tuple("0123456789"),
    )  # fmt: skip
    path.write_bytes(bundle_bytes(manifest, [Content("models/litert/model.tflite", "model", body, "litert")]))
    return path


def timed(work: Callable[[], object]) -> tuple[float, int]:
    """Median milliseconds, and of how many runs."""
    times: list[float] = []
    while len(times) < RUNS and sum(times) < 1e3 * PATIENCE_S:
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times), len(times)


def row(make: Callable[[], object], apply: Callable[[], object], size: Callable[[], int], new: Path) -> Row:
    """Size and times of one way; `apply` must have made the new file."""
    make_ms, runs = timed(make)
    apply_ms, _ = timed(apply)
    return {
        "size_percent": 100 * size() / new.stat().st_size, "make_ms": make_ms, "apply_ms": apply_ms, "runs": runs,
    }  # fmt: skip


def ours(old: Path, new: Path, folder: Path) -> Row:
    """A delta of ours; all but the time is None where none is worth it."""
    content, made = make_delta(old, new), folder / "made"
    if content is None:
        make_ms, runs = timed(lambda: make_delta(old, new))
        return {"size_percent": None, "make_ms": make_ms, "apply_ms": None, "runs": runs}
    delta, digest = folder / "ours", hashlib.sha256(new.read_bytes()).hexdigest()
    delta.write_bytes(content)
    found = row(
        lambda: make_delta(old, new), lambda: apply_delta(old, delta, made, digest), lambda: len(content), new
    )  # fmt: skip
    assert made.read_bytes() == new.read_bytes()
    return found


def theirs(old: Path, new: Path, folder: Path) -> dict[str, Row]:
    """The tools people use."""
    found: dict[str, Row] = {}
    delta, made = folder / "theirs", folder / "made"
    zstd = ["zstd", "-qf", "--long=27", f"--patch-from={old}"]
    unpack = [*zstd, "-d", str(delta), "-o", str(made)]
    commands = {
        "zstd -3 --patch-from": ([*zstd, "-3", str(new), "-o", str(delta)], unpack),
        "zstd -19 --patch-from": ([*zstd, "-19", str(new), "-o", str(delta)], unpack),
        "xdelta3 -9": (
            ["xdelta3", "-f", "-9", "-e", "-s", str(old), str(new), str(delta)],
            ["xdelta3", "-f", "-d", "-s", str(old), str(delta), str(made)],
        ),
        "zstd -3, no old file": (
            ["zstd", "-qf", "-3", str(new), "-o", str(delta)], ["zstd", "-qf", "-d", str(delta), "-o", str(made)],
        ),
    }  # fmt: skip
    for name, (make, apply) in commands.items():
        made.unlink(missing_ok=True)
        found[name] = row(
            lambda command=make: subprocess.run(command, check=True),
            lambda command=apply: subprocess.run(command, check=True),
            lambda: delta.stat().st_size,
            new,
        )
        assert made.read_bytes() == new.read_bytes()
    before, after, patches, results = old.read_bytes(), new.read_bytes(), [b""], [b""]

    def make_patch() -> None:
        patches[0] = bsdiff4.diff(before, after)

    def apply_patch() -> None:
        results[0] = bsdiff4.patch(before, patches[0])

    found["bsdiff4"] = row(make_patch, apply_patch, lambda: len(patches[0]), new)
    assert results[0] == after
    return found


def cases(build: Callable[[], nn.Module], base: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, nn.Module]:
    """What may become of a network."""
    return {
        "head only, 1 epoch": trained(head_only(base), x, y, 1, 1e-3, 1),
        "noise of 0.4 % on all weights": noisy(base, 0.004),
        "noise of 2 % on all weights": noisy(base, 0.02),
        "1 epoch at rate 1e-4": trained(base, x, y, 1, 1e-4, 1),
        "5 epochs at rate 1e-4": trained(base, x, y, 5, 1e-4, 1),
        "trained anew": trained(seeded(build, SEED + 1), x, y, 5, 1e-3, SEED + 1),
    }


def versions() -> dict[str, str]:
    """Of the tools."""
    said = {
        name: subprocess.run([name, "-V"], capture_output=True, text=True, check=True) for name in ("zstd", "xdelta3")
    }
    lines = {name: (result.stdout + result.stderr).strip().splitlines()[0] for name, result in said.items()}
    return {**lines, "bsdiff4": version("bsdiff4"), "backports.zstd": version("backports.zstd")}


def main() -> None:
    """Run and write the result."""
    torch.set_num_threads(1)
    data = load_digits()
    x, y = torch.tensor(data.images / 16, dtype=torch.float32)[:, None], torch.tensor(data.target)
    networks: dict[str, dict[str, object]] = {}
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, build in {"MLP": mlp, "ResNet-20": resnet}.items():
            base = trained(seeded(build, SEED), x, y, 5, 1e-3, SEED)
            old, rows = bundle(folder / "old", base, x), {}
            for case, network in cases(build, base, x, y).items():
                new = bundle(folder / "new", network, x)
                rows[case] = {"edgehone": ours(old, new, folder), **theirs(old, new, folder)}
                loads.append(os.getloadavg()[0])
                print(title, case, json.dumps(rows[case]), file=sys.stderr, flush=True)
            networks[title] = {"bundle_bytes": old.stat().st_size, "cases": rows}
    result = {
        "what": "deltas between two bundles: size in % of the new one, medians in ms to make and to apply, 1 thread",
        "command": "python benchmarks/deltas.py",
        "seed": SEED,
        "most_runs": RUNS,
        "networks": networks,
        "tools": versions(),
        "load_1min_between_cases": loads,
        "machine": describe_machine(),
    }
    RESULTS.joinpath("deltas.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
