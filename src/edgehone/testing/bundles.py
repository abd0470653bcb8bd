"""Small bundles for tests of whatever takes a bundle: one linear layer, whose answer tells which version gave it.

write_bundle(tmp_path / "1.bundle", version=1)
write_bundle(tmp_path / "bad.bundle", version=2, wrong_probe=True)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehone.bundle.archive import Content, bundle_bytes
from edgehone_agent.model import open_model
from edgehone_agent.probe import Probe
from edgehone_agent.wire.manifest import Fit, Manifest, Role, Values

FEATURES, LABELS = 20, ("rest", "swipe", "tap", "shake")


@dataclass(frozen=True)
class Made:
    """A bundle that was written, a reading, and the answer it gives to it."""

    path: Path
    digest: str
    version: int
    x: NDArray[np.float32]
    y: NDArray[np.float32]


def write_bundle(
    path: Path,
    *,
    version: int,
    task: str = "gestures",
    member: str = "linear",
    widths: tuple[int, ...] = (FEATURES, len(LABELS)),
    seed: int | None = None,
    latency_us: float | None = None,
    wrong_probe: bool = False,
    model: bytes | None = None,
    labels: tuple[str, ...] = LABELS,
    extra: tuple[tuple[str, Role, bytes], ...] = (),
) -> Made:
    """Write a bundle with a float32 .tflite file of linear layers.

    Args:
        path: of the file.
        version, task, member, labels: for the manifest.
        widths: of the layers, the input's first.
        seed: of the weights; the version when None.
        latency_us: bound of the manifest's fit.
        wrong_probe: let the golden answers be off.
        model: these bytes as the model file instead; the probe still is that of the linear layers.
        extra: more parts as (path, role, content).
    """
    from edgehone.testing.hosts import write_linear

    path.parent.mkdir(parents=True, exist_ok=True)
    file = write_linear(path.with_suffix(".tflite"), widths, version if seed is None else seed)
    x = np.random.default_rng(0).standard_normal((8, widths[0]), np.float32)
    with open_model(file) as opened:
        y = opened.predict(x)
    content = file.read_bytes() if model is None else model
    file.unlink()
    probe = Probe(x, y + np.float32(wrong_probe), 1e-4)
    contents = [
        Content("models/litert/model.tflite", "model", content, "litert"),
        Content("probe.npz", "probe", probe.to_bytes()),
        *(Content(*part) for part in extra),
    ]
    manifest = Manifest(
        task=task,
        kind="classification",
        version=version,
        member=member,
        created="2026-01-01T00:00:00Z",
        parts=(),
        input=Values("reading", (widths[0],)),
        output=Values("scores", (widths[-1],)),
        labels=labels,
        fit=Fit(runtimes=("litert",), latency_us=latency_us),
    )
    path.write_bytes(bundle_bytes(manifest, contents))
    return Made(path, hashlib.sha256(path.read_bytes()).hexdigest(), version, x[0], y[0])
