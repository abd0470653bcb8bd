"""Bundles of classifiers that are as good and as slow as a test says, without training.

world = Classes(seed=1)
world.write(folder / "1.bundle", task="moves", version=1)
world.write(folder / "2.bundle", task="moves", version=2, loss=0.05)    # 5 points worse on the world's readings
world.write(folder / "3.bundle", task="moves", version=3, layers=5)     # twice as slow, the same answers
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehone.bundle.archive import Content, bundle_bytes
from edgehone.testing.bundles import FEATURES, LABELS, Made
from edgehone_agent.model import open_model
from edgehone_agent.probe import Probe
from edgehone_agent.wire.manifest import Fit, Manifest, Values

Floats = NDArray[np.float32]
_JUDGED = 20_000  # readings that a loss is measured on
_HIDDEN = 1024
_STEPS = 30


@dataclass(frozen=True)
class Classes:
    """Readings of classes that lie around centres of their own, with normal noise; the best classifier is linear.

    Attributes:
        seed: of everything.
        spread: of the centres; it decides how often the best classifier errs.
    """

    seed: int = 0
    spread: float = 0.9

    @cached_property
    def centres(self) -> Floats:
        """(classes, features)."""
        rng = np.random.default_rng(self.seed)
        return (self.spread * rng.normal(size=(len(LABELS), FEATURES))).astype(np.float32)

    def draw(self, count: int, seed: int) -> tuple[Floats, NDArray[np.int64]]:
        """Readings (count, features) and their classes."""
        rng = np.random.default_rng([self.seed, seed])
        y = rng.integers(0, len(LABELS), count)
        return (self.centres[y] + rng.normal(size=(count, FEATURES))).astype(np.float32), y

    def weights(self, loss: float = 0.0) -> tuple[Floats, Floats]:
        """(classes, features) and (classes): of the best classifier, or of one that errs so much more often."""
        best = self.centres, (-0.5 * (self.centres**2).sum(1)).astype(np.float32)
        if not loss:
            return best
        noise = np.random.default_rng([self.seed, 1]).normal(size=self.centres.shape).astype(np.float32)
        target = self.accuracy(best) - loss
        low, high = 0.0, 10.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            found = (best[0] + np.float32(middle) * noise, best[1])
            low, high = (middle, high) if self.accuracy(found) > target else (low, middle)
        return best[0] + np.float32(low) * noise, best[1]

    def accuracy(self, weights: tuple[Floats, Floats]) -> float:
        """Share of right answers over many readings."""
        x, y = self.draw(_JUDGED, 0)
        return float(((x @ weights[0].T + weights[1]).argmax(1) == y).mean())

    def write(self, path: Path, *, version: int, task: str, loss: float = 0.0, layers: int = 3) -> Made:
        """Write a bundle.

        Args:
            path: of the file.
            version, task: for the manifest.
            loss: how much less accurate than the best it is.
            layers: that pass the reading on unchanged, 1024 wide; each but the first takes some 45 µs.
        """
        from edgehone.exporters import EXPORTERS
        from edgehone.testing.graphs import GraphBuilder

        build = GraphBuilder((1, FEATURES))
        x, width = build.input, FEATURES
        for _ in range(layers):
            eye = np.eye(_HIDDEN, width, dtype=np.float32)
            x, width = build.node("linear", x, params={"weight": eye, "bias": np.zeros(_HIDDEN, np.float32)}), _HIDDEN
        weight, bias = self.weights(loss)
        wide = np.zeros((len(LABELS), width), np.float32)
        wide[:, :FEATURES] = weight
        y = build.node("linear", x, params={"weight": wide, "bias": bias})
        content = EXPORTERS.get("tflite").export(build.graph(y))
        return _write(path, content, version, task)


def _write(path: Path, model: bytes, version: int, task: str) -> Made:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_suffix(".tflite")
    file.write_bytes(model)
    x = np.random.default_rng(0).standard_normal((8, FEATURES), np.float32)
    with open_model(file) as opened:
        y = opened.predict(x)
    file.unlink()
    contents = [
        Content("models/litert/model.tflite", "model", model, "litert"),
        Content("probe.npz", "probe", Probe(x, y, 1e-3).to_bytes()),
    ]
    manifest = Manifest(
        task=task, kind="classification", version=version, member="classes", created="2026-01-01T00:00:00Z", parts=(),
        input=Values("reading", (FEATURES,)), output=Values("scores", (len(LABELS),)), labels=LABELS,
        fit=Fit(runtimes=("litert",)),
    )  # fmt: skip
    path.write_bytes(bundle_bytes(manifest, contents))
    return Made(path, hashlib.sha256(path.read_bytes()).hexdigest(), version, x[0], y[0])
