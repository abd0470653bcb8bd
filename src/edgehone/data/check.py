"""What is wrong or suspicious in the splits of a task, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from edgehone.data.examples import Examples
from edgehone.data.prepare import Prepared

Level = Literal["error", "warning", "ok"]

_SMALL_CLASS = 10
_IMBALANCE = 20
_LEAK_ERROR_SHARE = 0.01
_RANGE_RATIO = 20
_SCALED_LIMIT = 20.0  # what normalised readings hardly exceed, and raw 8-bit ones always do


@dataclass(frozen=True)
class Finding:
    """One line of a check.

    Attributes:
        level: "error" (the task cannot be used so), "warning" (it can, but look at it) or "ok".
        what: what was found, in plain words.
        where: the split, module or line it is about.
        do: what to do next; empty for "ok".
    """

    level: Level
    what: str
    where: str
    do: str = ""


def check_splits(prepared: Prepared) -> Iterator[Finding]:
    """Everything that the data alone can tell. Reads every split once more when it is streamed."""
    splits = {"training split": prepared.train, "validation split": prepared.validation, "test split": prepared.test}
    ranges = {name: _range(split) for name, split in splits.items()}
    for name, split in splits.items():
        low, high = ranges[name]
        yield Finding("ok", f"{len(split):,} examples of shape {split.x_shape}, values {low:g} to {high:g}", name)
        if low == high:
            yield Finding("error", f"every value of every example is {low:g}", name, "check how the data is read")
    if prepared.task.kind == "classification":
        yield from _check_classes(prepared, splits)
    yield from _check_layout(prepared)
    yield from _check_ranges(prepared, ranges)
    yield from _check_leaks(splits)
    if prepared.task.kind == "classification":
        yield from _check_contradictions(prepared.train)


def _range(split: Examples) -> tuple[float, float]:
    extremes = [(float(chunk.min()), float(chunk.max())) for chunk in split.chunks()]
    return min(low for low, _ in extremes), max(high for _, high in extremes)


def _check_classes(prepared: Prepared, splits: dict[str, Examples]) -> Iterator[Finding]:
    labels = prepared.labels
    for name, split in splits.items():
        counts = split.y.bincount(minlength=len(labels)).tolist()
        empty = [label for label, count in zip(labels, counts, strict=True) if not count]
        if empty:
            do = "add examples, or take the class out of the labels" if split is prepared.train else "add examples"
            yield Finding("warning", f"no example of {_some(empty)}", name, do)
        if split is not prepared.train:
            continue
        few = [label for label, count in zip(labels, counts, strict=True) if 0 < count < _SMALL_CLASS]
        if few:
            yield Finding(
                "warning", f"fewer than {_SMALL_CLASS} examples of {_some(few)}", name, "collect more of them"
            )
        present = [count for count in counts if count]
        if max(present) >= _IMBALANCE * min(present) and prepared.task.metric_name == "accuracy":
            yield Finding(
                "warning",
                f"the largest class has {max(present):,} examples, the smallest {min(present):,}",
                name,
                "judge by metric='balanced-accuracy': accuracy hardly notices the small class",
            )


def _check_layout(prepared: Prepared) -> Iterator[Finding]:
    shape = prepared.train.x_shape
    if len(shape) == 3 and shape[-1] in (1, 3, 4) and shape[0] > 4:
        yield Finding(
            "warning",
            f"examples of shape {shape} look like (H, W, C); torch order is (C, H, W)",
            "training split",
            "hand in x.transpose(0, 3, 1, 2) if so",
        )


def _check_ranges(prepared: Prepared, ranges: dict[str, tuple[float, float]]) -> Iterator[Finding]:
    reach = {name: max(abs(low), abs(high)) for name, (low, high) in ranges.items()}
    trained = reach["training split"]
    for name, value in reach.items():
        if max(value, trained) > _RANGE_RATIO * min(value, trained):
            yield Finding(
                "warning",
                f"values reach {value:g} here and {trained:g} in the training split",
                name,
                "scale all splits alike: raw readings everywhere, scaling in the task's preprocess",
            )
    if prepared.task.preprocess is None and len(prepared.input_shape) > 2 and trained > _SCALED_LIMIT:
        yield Finding(
            "warning",
            f"values up to {trained:g} go into the network as they are: the task has no preprocess",
            "training split",
            "if the network was trained on scaled values, set preprocess, for example edgehone.data.Scale(1 / 255)",
        )


def _check_leaks(splits: dict[str, Examples]) -> Iterator[Finding]:
    prints = {name: split.fingerprints() for name, split in splits.items()}
    clean = True
    for first, second in combinations(splits, 2):
        known = set(prints[first])
        shared = [index for index, fingerprint in enumerate(prints[second]) if fingerprint in known]
        if not shared:
            continue
        clean = False
        much = len(shared) > _LEAK_ERROR_SHARE * len(prints[second])
        yield Finding(
            "error" if much else "warning",
            f"{len(shared):,} of {len(prints[second]):,} examples are also in the {first}, the first one is example "
            f"{shared[0]}",
            second,
            "remove them from one of the two, or every figure measured on them flatters",
        )
    if clean:
        yield Finding("ok", "no example is in two splits", "splits")


def _check_contradictions(train: Examples) -> Iterator[Finding]:
    seen: dict[bytes, int] = {}
    wrong = 0
    for fingerprint, label in zip(train.fingerprints(), train.y.tolist(), strict=True):
        wrong += seen.setdefault(fingerprint, label) != label
    if wrong:
        yield Finding(
            "warning",
            f"{wrong:,} examples equal another one that has another label",
            "training split",
            "fix the labels",
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
