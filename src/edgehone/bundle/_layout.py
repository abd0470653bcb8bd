"""Cut the new bundle into stretches, each with its counterpart in the old one.

Members are matched by path, weights inside a model file by `_tensors`. Around the weights are tables, names and
numbers, which mostly stay what they are or move as a whole; there only equal bytes count.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from edgehone.bundle._tensors import align_tensors, find_tensors

_MEMBER = "member "
_LOCAL_BYTES = 30  # of a member's header, without its name
_RUN_BYTES = 64  # the shortest run of equal bytes that is worth an operation of its own

Span = tuple[int, int]
"""Start and end."""


@dataclass(frozen=True)
class Stretch:
    """A stretch of the new bundle, in order, without gaps.

    Attributes:
        start, end: in the new bundle.
        old: where its counterpart of the same length begins in the old bundle; None when it has none.
        width: bytes of a weight; 0 where there are none, and the counterpart, if any, is equal.
        near: of plain bytes without a counterpart, the span of the old bundle that may resemble them.
    """

    start: int
    end: int
    old: int | None
    width: int = 0
    near: Span = (0, 0)


def stretches(old: bytes, new: bytes) -> Iterator[Stretch]:
    """The new bundle from its first byte to its last; both are archives of stored members."""
    theirs, ours = _sections(old), _sections(new)
    for name, span in sorted(ours.items(), key=lambda item: item[1]):
        yield from _section(name, old, new, theirs.get(name), span)


def _sections(content: bytes) -> dict[str, Span]:
    """Headers, members and the directory by name; together they are the whole file."""
    found: dict[str, Span] = {}
    at = 0
    with zipfile.ZipFile(BytesIO(content)) as archive:
        for info in archive.infolist():
            start = info.header_offset + _LOCAL_BYTES + len(info.filename)
            found[f"header {info.filename}"] = at, start
            at = start + info.file_size
            found[f"{_MEMBER}{info.filename}"] = start, at
    found["directory"] = at, len(content)
    return found


def _section(name: str, old: bytes, new: bytes, theirs: Span | None, ours: Span) -> Iterator[Stretch]:
    if theirs is None:
        yield Stretch(*ours, None)
        return
    before, after = memoryview(old)[slice(*theirs)], memoryview(new)[slice(*ours)]
    same = np.array_equal(np.frombuffer(before, np.uint8), np.frombuffer(after, np.uint8))
    read = name.startswith(_MEMBER) and not same
    tensors = (find_tensors(name, before), find_tensors(name, after)) if read else ((), ())
    at, reached = ours[0], theirs[0]
    for one, two in align_tensors(*tensors, before, after):
        start, counterpart = ours[0] + two.offset, theirs[0] + one.offset
        yield from _plain(old, new, (reached, max(reached, counterpart)), (at, start))
        at, reached = start + two.length, counterpart + one.length
        yield Stretch(start, at, counterpart, one.width)
    yield from _plain(old, new, (reached, max(reached, theirs[1])), (at, ours[1]))


def _plain(old: bytes, new: bytes, theirs: Span, ours: Span) -> Iterator[Stretch]:
    """Equal runs at the same places; in spans of unequal length, only those at both ends."""
    before, after = np.frombuffer(old, np.uint8)[slice(*theirs)], np.frombuffer(new, np.uint8)[slice(*ours)]
    moved = len(before) - len(after)
    if moved == 0:
        runs = [(start, end, start) for start, end in _runs(before == after)]
    else:
        shortest = min(len(before), len(after))
        head = _count(before[:shortest] == after[:shortest])
        tail = _count(before[::-1][: shortest - head] == after[::-1][: shortest - head])
        runs = [(0, head, 0), (len(after) - tail, len(after), len(before) - tail)]
    at = 0
    for start, end, counterpart in [*runs, (len(after), len(after), 0)]:
        if at < start:
            yield Stretch(ours[0] + at, ours[0] + start, None, near=theirs)
        if start < end:
            yield Stretch(ours[0] + start, ours[0] + end, theirs[0] + counterpart)
        at = end


def _count(same: NDArray[np.bool_]) -> int:
    """How many are true from the first one on."""
    return len(same) if same.all() else int(same.argmin())


def _runs(same: NDArray[np.bool_]) -> list[Span]:
    """Where long runs of true start and end; a short one counts when it is everything."""
    places = np.flatnonzero(~same)
    starts, ends = np.append(0, places + 1), np.append(places, len(same))
    long = ends - starts >= min(_RUN_BYTES, len(same))
    return list(zip(starts[long].tolist(), ends[long].tolist(), strict=True))
