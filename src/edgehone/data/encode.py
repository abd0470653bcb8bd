"""From what people hand in to what a split holds: x in uint8 or float32, targets in int64 or float32, all checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgehone.errors import DataError
from edgehone.task import Kind

Array: TypeAlias = NDArray[Any]

_LAYOUTS = "(N, F) features, (N, C, L) signals or (N, C, H, W) pictures"


def to_array(values: object, origin: str, what: str) -> Array:
    """A numpy array of a tensor, an array, a number, or nested lists of numbers.

    Raises:
        DataError: anything else.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype is torch.bfloat16 else values).numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{what} are of different lengths", where=origin, do="give all of them one shape") from error
    if array.dtype == object and not all(isinstance(value, str) for value in array.flat):
        kind = type(values).__name__
        raise DataError(f"{what} hold {kind} objects, not numbers", where=origin, do="convert them to numpy arrays")
    return array


def encode_inputs(x: Array, origin: str) -> Tensor:
    """Check and store x: uint8 stays, every other number becomes float32.

    Args:
        x: (N, F), (N, C, L) or (N, C, H, W).
        origin: what x came from, for messages.

    Returns:
        A contiguous tensor of the same shape.

    Raises:
        DataError: not numbers, another number of axes, no example, or a value that is not finite.
    """
    if x.dtype.kind not in "biuf":
        raise DataError(f"x holds {x.dtype}, not numbers", where=origin, do="convert it to uint8 or float32")
    if not 2 <= x.ndim <= 4:
        raise DataError(f"x has shape {x.shape}", where=origin, do=f"give {_LAYOUTS}")
    if not x.size:
        empty = "there are no examples" if not len(x) else f"the examples are empty, shape {x.shape[1:]}"
        raise DataError(empty, where=origin, do="give a split with at least one example")
    if x.dtype.kind == "b" or x.dtype == np.uint8:
        return torch.from_numpy(np.array(x, np.uint8, order="C"))
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is reported below
        stored = torch.from_numpy(np.array(x, np.float32, order="C"))
    finite = torch.isfinite(stored.flatten(1)).all(1)
    if not finite.all():
        index = int((~finite).nonzero()[0])
        wrong = "NaN" if torch.isnan(stored[index]).any() else "an infinite value"
        raise DataError(
            f"example {index} holds {wrong} ({int((~finite).sum())} of {len(x)} examples do)",
            where=origin,
            do="drop these examples or fill the gaps before handing them in",
        )
    return stored


def encode_targets(
    y: Array, kind: Kind, origin: str, class_names: Sequence[str] | None
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Check and store targets.

    Args:
        y: (N) class ids or class names, (N) anomaly marks 0 and 1, or (N) or (N, K) numbers for regression.
        kind: the kind of the task.
        origin: what y came from, for messages.
        class_names: names by id that names in y must be among; None takes the sorted names in y.

    Returns:
        The targets (int64, or float32 for regression) and the names by id when y holds names.

    Raises:
        DataError: a target that does not fit the kind.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]  # (N, 1) → (N)
    if kind == "regression":
        return _numbers(y, origin), None
    if y.ndim != 1:
        raise DataError(
            f"targets have shape {y.shape}, one class id per example is needed", where=origin, do="use y.argmax(1)"
        )
    if y.dtype.kind in "UO" and kind == "classification":
        return _named(y, origin, class_names)
    return _ids(y, kind, origin), None


def _numbers(y: Array, origin: str) -> Tensor:
    if y.dtype.kind not in "biuf" or y.ndim not in (1, 2):
        raise DataError(f"targets are {y.dtype} of shape {y.shape}", where=origin, do="give numbers, (N) or (N, K)")
    targets = torch.from_numpy(np.array(y, np.float32, order="C"))
    finite = torch.isfinite(targets)
    if not finite.all():
        raise DataError(f"target {int((~finite).nonzero()[0, 0])} is not finite", where=origin, do="drop that example")
    return targets


def _named(y: Array, origin: str, class_names: Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
    names = tuple(class_names) if class_names is not None else tuple(sorted({str(name) for name in y}))
    ids = {name: identity for identity, name in enumerate(names)}
    unknown = sorted({str(name) for name in y} - set(ids))
    if unknown:
        raise DataError(
            f"class {unknown[0]!r} is not among the classes {', '.join(names)}",
            where=origin,
            do="add it to the training split or to the task's labels, or remove its examples",
        )
    return torch.tensor([ids[str(name)] for name in y], dtype=torch.int64), names


def _ids(y: Array, kind: Kind, origin: str) -> Tensor:
    if y.dtype.kind not in "biuf" or (y.dtype.kind == "f" and not np.array_equal(y, np.floor(y))):
        raise DataError(
            f"targets are no class ids: {y.dtype}, for example {y[0]!s}" if len(y) else f"targets are {y.dtype}",
            where=origin,
            do="give integers from 0 up, or set kind='regression' when the targets are measurements",
        )
    wrong = (y < 0) if kind == "classification" else (y != 0) & (y != 1)
    if wrong.any():
        index = int(wrong.argmax())
        wanted = "ids from 0 up" if kind == "classification" else "0 for normal and 1 for anomalous"
        raise DataError(f"example {index} has the label {y[index]:g}", where=origin, do=f"use {wanted}")
    return torch.from_numpy(np.array(y, np.int64))
