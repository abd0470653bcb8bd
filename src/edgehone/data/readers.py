"""Readers of examples one by one, and the one pass that loads them into memory when they fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from edgehone.data.encode import Array, encode_inputs, encode_targets, to_array
from edgehone.data.examples import Examples, Reader
from edgehone.errors import DataError, EdgehoneError
from edgehone.task import Kind


class ItemReader:
    """Reads examples one at a time through a function and sees to it that all are alike.

    Args:
        length: number of examples.
        item: index → one example, without a batch axis.
        origin: what the examples come from, for messages.

    Raises:
        DataError: there is no example, or the first one cannot be used.
    """

    def __init__(self, length: int, item: Callable[[int], Array], origin: str) -> None:
        if not length:
            raise DataError("there are no examples", where=origin, do="give a split with at least one example")
        self._length = length
        self._item = item
        self._origin = origin
        first = self._one(0)
        self.shape = tuple(first.shape)
        self.dtype = first.dtype

    def __len__(self) -> int:
        return self._length

    @property
    def size_bytes(self) -> int:
        """Memory that all examples would take."""
        return self._length * torch.Size(self.shape).numel() * self.dtype.itemsize

    def one(self, index: int) -> Tensor:
        """Example `index` in the stored type. Raises DataError when it is unlike the first one."""
        example = self._one(index)
        if tuple(example.shape) != self.shape:
            raise DataError(
                f"example {index} has shape {tuple(example.shape)}, the first one {self.shape}",
                where=self._origin,
                do="bring all examples to one shape",
            )
        return example.to(self.dtype)

    def read(self, indices: list[int]) -> Tensor:
        """The examples at `indices`, (n, ...)."""
        return torch.stack([self.one(index) for index in indices])

    def load(self) -> Tensor:
        """All examples, (N, ...), read once in order."""
        held = torch.empty(self._length, *self.shape, dtype=self.dtype)
        for index in range(self._length):
            held[index] = self.one(index)
        return held

    def _one(self, index: int) -> Tensor:
        # The message of encode_inputs would call every example "example 0", so the place is told here.
        return encode_inputs(self._item(index)[None], f"{self._origin}, example {index}")[0]


def open_reader(reader: ItemReader, memory_limit_bytes: int) -> Tensor | Reader:
    """The examples in memory when they fit, else the reader itself."""
    return reader.load() if reader.size_bytes <= memory_limit_bytes else reader


def open_dataset(
    dataset: Dataset[Any],
    kind: Kind,
    *,
    origin: str,
    class_names: tuple[str, ...] | None,
    memory_limit_bytes: int,
) -> Examples:
    """Examples of a map-style torch Dataset whose items are pairs (x, y), or x alone for an anomaly task.

    It is read through once: into memory when it fits, else for the targets, and then again batch by batch in this
    process. It is never pickled. x and y are tensors, arrays or numbers; x has no batch axis. What a dataset does at
    random may thus be done only once: augmentation belongs in the task's `augment`.

    Raises:
        DataError: an iterable dataset, an item that is no pair, or an example or target that cannot be used.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise DataError(
            "the dataset has no length or cannot be read in any order",
            where=origin,
            do="give a map-style Dataset with __len__ and __getitem__",
        )
    targets: dict[int, Array] = {}

    def item(index: int) -> Array:
        x, y = _pair(_get(dataset, index, origin), kind, f"{origin}, example {index}")
        targets[index] = to_array(y, origin, "targets")
        return to_array(x, f"{origin}, example {index}", "examples")

    reader = ItemReader(len(dataset), item, origin)
    x = open_reader(reader, memory_limit_bytes)
    if not isinstance(x, Tensor):
        for index in range(len(reader)):
            reader.one(index)
    y = to_array([targets[index] for index in range(len(reader))], origin, "targets")
    encoded, names = encode_targets(y, kind, origin, class_names)
    return Examples(x, encoded, class_names=names, origin=origin)


def _get(dataset: Dataset[Any], index: int, origin: str) -> object:
    try:
        return dataset[index]
    except EdgehoneError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise DataError(
            f"the dataset raised {type(error).__name__}: {error}",
            where=f"{origin}, example {index}",
            do="make dataset[index] work for every index from 0 to len(dataset) - 1",
        ) from error


def _pair(item: object, kind: Kind, where: str) -> tuple[object, object]:
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return item[0], item[1]
    if kind == "anomaly" and not isinstance(item, (tuple, list, dict)):
        return item, 0
    found = f"{type(item).__name__} of {len(item)}" if isinstance(item, (tuple, list, dict)) else type(item).__name__
    raise DataError(f"an item is a {found}, not a pair (x, y)", where=where, do="return (x, y) from __getitem__")
