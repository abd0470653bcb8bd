"""The models that nodes without processes share: real answers of the real file, each asked for once.

A reading is an example of the pool under an effect. Where those two say all, the file is asked once for each example
and effect, and the answer is remembered; a hundred nodes then cost hardly more than one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehone.simulate.streams import Block
from edgehone_agent.bundle import open_bundle
from edgehone_agent.loading import Loaded, load_bundle

Array = NDArray[np.float32]


class Model:
    """One loaded bundle with the answers that it gave.

    Args:
        loaded: the bundle.
        examples: how many the pool has.
    """

    def __init__(self, loaded: Loaded, examples: int) -> None:
        self.loaded = loaded
        self._model = loaded.models[0]
        self._model.take_embedding()  # those of the probe
        self._examples = examples
        self._known: dict[tuple[str, float], tuple[NDArray[np.bool_], Array, Array | None]] = {}

    def answers(self, block: Block) -> tuple[Array, Array | None]:
        """Answers (N, *output shape) to readings, and their embeddings (N, E) where the file has them."""
        kinds = dict.fromkeys(block.effects)
        if len(kinds) == 1:
            return self._of_kind(block, next(iter(kinds)))
        places = [np.flatnonzero([one == kind for one in block.effects]) for kind in kinds]
        parts = [self._of_kind(_taken(block, rows), kind) for rows, kind in zip(places, kinds, strict=True)]
        order = np.concatenate(places).argsort()
        embeddings = [embedding for _, embedding in parts if embedding is not None]
        return np.concatenate([y for y, _ in parts])[order], np.concatenate(embeddings)[order] if embeddings else None

    def close(self) -> None:
        """Free it."""
        self.loaded.close()

    def _of_kind(self, block: Block, kind: tuple[str, float] | None) -> tuple[Array, Array | None]:
        if kind is None:
            return self._ask(block.x)
        found = self._known.get(kind)
        new = np.arange(len(block)) if found is None else np.flatnonzero(~found[0][block.numbers])
        if len(new):
            y, embedding = self._ask(block.x[new])
            if found is None:
                wide = None if embedding is None else np.zeros((self._examples, embedding.shape[1]), np.float32)
                found = (np.zeros(self._examples, np.bool_), np.zeros((self._examples, *y.shape[1:]), np.float32), wide)
                self._known[kind] = found
            numbers = block.numbers[new]
            found[0][numbers], found[1][numbers] = True, y
            if found[2] is not None and embedding is not None:
                found[2][numbers] = embedding
        if found is None:
            return self._ask(block.x)
        return found[1][block.numbers], None if found[2] is None else found[2][block.numbers]

    def _ask(self, x: Array) -> tuple[Array, Array | None]:
        y = self._model.predict(x)
        embedding = self._model.take_embedding()
        return y, None if embedding is None else embedding.reshape(len(x), -1)


class Models:
    """Models by version and member, loaded when they are first asked for. Close it.

    Args:
        fetch: (version, member) → the file of a release.
        folder: for unpacked files.
        examples: how many the pool has.
    """

    def __init__(self, fetch: Callable[[int, str], Path], folder: Path, examples: int) -> None:
        self._fetch, self._folder, self._examples = fetch, folder, examples
        self._models: dict[tuple[int, str], Model] = {}
        self._latency_us: dict[str, float | None] = {}

    def get(self, version: int, member: str) -> Model:
        """A model. Raises EdgehoneError where it cannot be loaded here."""
        found = self._models.get((version, member))
        if found is None:
            found = self._models[version, member] = Model(self.load(version, member), self._examples)
        return found

    def load(self, version: int, member: str) -> Loaded:
        """A bundle loaded for whoever asks, who closes it. Raises EdgehoneError."""
        with open_bundle(self._fetch(version, member)) as opened:
            folder = self._folder / opened.digest
            if not folder.is_dir():
                folder.mkdir(parents=True)
                opened.unpack(folder)
            return load_bundle(opened.digest, opened.manifest, folder, threads=1, sessions=1, measure=False)

    def latency_us(self, version: int, member: str) -> float | None:
        """Median of a member in its study, of the first version that was asked for; None where none was measured.

        Later versions have the same form. Their own figures were taken while the simulation ran, and would make it
        another one each time.
        """
        if member not in self._latency_us:
            manifest = self.get(version, member).loaded.manifest
            found = [one["value"] for name, one in manifest.measured.items() if name.startswith("latency_us ")]
            self._latency_us[member] = min(found, default=None)
        return self._latency_us[member]

    def close(self) -> None:
        """Free all of them."""
        for model in self._models.values():
            model.close()
        self._models.clear()


def _taken(block: Block, rows: NDArray[np.intp]) -> Block:
    return Block(
        block.x[rows], block.y[rows], block.numbers[rows], tuple(block.phases[row] for row in rows),
        block.strengths[rows], tuple(block.effects[row] for row in rows),
    )  # fmt: skip
