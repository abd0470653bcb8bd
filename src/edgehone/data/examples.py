"""One split of a task: examples and targets, in memory or streamed.

Rules:
- x keeps the type it is stored in and becomes float32 batch by batch: 60,000 pictures of 28x28 in uint8 take 47 MB.
- Targets always stay in memory: int64 (N) for class ids and anomaly marks, float32 (N) or (N, K) for regression.
- Order is the order handed in; anything random takes a seed and depends on nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgehone.data.splits import draw
from edgehone.errors import DataError

MEMORY_LIMIT_BYTES = 1 << 30
_CHUNK = 1024

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Reader(Protocol):
    """Examples that are too big to hold: read on demand, in any order."""

    def __len__(self) -> int: ...

    def read(self, indices: list[int]) -> Tensor:
        """The examples at `indices`, (n, ...) in the stored type. Raises DataError."""
        ...


class Examples:
    """A split: `len(examples)` pairs of an example x and a target y.

    Args:
        x: (N, ...) uint8 or float32, or a reader of such examples.
        y: (N) int64, or (N) or (N, K) float32.
        class_names: names of the classes by id, where the data itself carries names.
        origin: what the examples came from, for messages.

    Raises:
        DataError: x and y differ in length.
    """

    def __init__(
        self,
        x: Tensor | Reader,
        y: Tensor,
        *,
        class_names: tuple[str, ...] | None = None,
        origin: str | Path = "",
    ) -> None:
        if len(x) != len(y):
            raise DataError(f"there are {len(x)} examples and {len(y)} targets", where=str(origin))
        self._x = x
        self.y = y
        self.class_names = class_names
        self.origin = str(origin)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def in_memory(self) -> bool:
        """Whether x is held in memory; otherwise each batch is read again."""
        return isinstance(self._x, Tensor)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of one example: (C, H, W), (C, L) or (F). Raises DataError when the split is empty."""
        if not len(self):
            raise DataError("the split is empty", where=self.origin)
        if isinstance(self._x, Tensor):
            return tuple(self._x.shape[1:])
        return tuple(self._x.read([0]).shape[1:])

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32] | NDArray[np.int64]]:
        """Everything at once: x (N, ...) float32 and y.

        Raises:
            DataError: the split is streamed because it is too big to hold.
        """
        if not isinstance(self._x, Tensor):
            raise DataError("the split is too big to hold in memory", where=self.origin, do="read it with batches()")
        return self._x.to(torch.float32).numpy(), self.y.numpy()

    def batches(
        self, batch_size: int, *, seed: int | None = None, augment: Augment | None = None, drop_last: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through the split once.

        Args:
            batch_size: examples per batch; the last one may be smaller.
            seed: shuffles and drives `augment`; None keeps the order.
            augment: changes each batch of x, see `edgehone.data.augment`.
            drop_last: leave out a last batch that is smaller.

        Yields:
            x (n, ...) float32, a fresh tensor each time, and y.
        """
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        order = None if seed is None else torch.randperm(len(self), generator=generator)
        end = len(self) - len(self) % batch_size if drop_last else len(self)
        for start in range(0, end, batch_size):
            stop = min(start + batch_size, end)
            chosen = slice(start, stop) if order is None else order[start:stop]
            x = self._take(chosen).to(torch.float32, copy=True)
            yield (x if augment is None else augment(x, generator)), self.y[chosen]

    def subset(self, indices: Tensor | NDArray[np.int64] | list[int]) -> Examples:
        """The examples at `indices`, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        x = self._x[chosen] if isinstance(self._x, Tensor) else _Selection(self._x, chosen.tolist())
        return Examples(x, self.y[chosen], class_names=self.class_names, origin=self.origin)

    def sample(self, n: int, seed: int, stratified: bool = True) -> Examples:
        """`n` examples drawn without replacement (all of them when there are fewer), in their original order.

        Stratified means that each class keeps its share; targets that are no class ids are drawn uniformly.
        """
        classes = self.y if stratified and not self.y.is_floating_point() else torch.zeros(len(self), dtype=torch.int64)
        return self.subset(draw(classes, n, seed))

    def stored(self, start: int, stop: int) -> Tensor:
        """Examples from `start` up to `stop` in the type they are stored in."""
        return self._take(slice(start, stop))

    def chunks(self) -> Iterator[Tensor]:
        """All of x in order, in the type it is stored in, about a thousand at a time."""
        for start in range(0, len(self), _CHUNK):
            yield self.stored(start, min(start + _CHUNK, len(self)))

    def digest(self) -> str:
        """SHA-256 (hex) over the shapes, types and bytes of all examples and targets, in order."""
        sha = hashlib.sha256()
        for parts in (self.chunks(), [self.y]):
            for index, part in enumerate(parts):
                array = np.ascontiguousarray(part.numpy())
                if index == 0:
                    sha.update(f"{array.dtype.str}{array.shape[1:]}".encode())
                sha.update(array.data)
        return sha.hexdigest()

    def fingerprints(self) -> list[bytes]:
        """16 bytes for each example that are equal exactly when x is (BLAKE2b over its bytes)."""
        return [
            hashlib.blake2b(row.data, digest_size=16).digest()
            for part in self.chunks()
            for row in np.ascontiguousarray(part.numpy())
        ]

    @overload
    def _take(self, chosen: slice) -> Tensor: ...
    @overload
    def _take(self, chosen: Tensor) -> Tensor: ...
    def _take(self, chosen: slice | Tensor) -> Tensor:
        if isinstance(self._x, Tensor):
            return self._x[chosen]
        indices = range(len(self))[chosen] if isinstance(chosen, slice) else chosen.tolist()
        return self._x.read(list(indices))


class _Selection:
    """Some of the examples of a reader."""

    def __init__(self, reader: Reader, indices: list[int]) -> None:
        self._reader = reader
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, indices: list[int]) -> Tensor:
        return self._reader.read([self._indices[index] for index in indices])
