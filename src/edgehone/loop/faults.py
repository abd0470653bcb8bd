"""What reports of a node say about a broken sensor, now and since when. Pure.

Rules:
- A report counts rows since its watch began. What is looked at is the difference of two reports: a sensor that hangs
  after a good year shows within some minutes, and not after another year.
- The window of a report begins at the newest one before it with `FAULT_ROWS` rows fewer. Where counts fall, the watch
  began anew between the two, and the window begins there.
- That a window is not what validation was like is proven (evidence of 1e5) by the channel's stake, which follows the
  present: less the log of its rows it is an e-value. Or it is by all rows since the start.
- Trouble is a channel that stands still or is missing, or one with nearly all readings far out. Whether that is a fault
  depends on the other nodes: see `diagnosis`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from edgehone.fleet.heartbeat import EVIDENCE_EVERY_S
from edgehone_agent.wire.card import BINS, MISSING

OUTPUTS = ("confidence", "entropy", "predicted class", "output", "reconstruction")
STUCK_SHARE = 0.95  # of the rows of a channel in one bin that is no outer one: a sensor that has stopped
MISSING_SHARE = 0.5
BEYOND_SHARE = 0.95  # of the rows of a channel on one side of 99.8 % of what the reference counted
FAULT_ROWS = 64
TOGETHER_S = 2 * EVIDENCE_EVERY_S  # what begins on two nodes within this time may well be one event
_PROOF = math.log(1e5)  # what the watch's second level asks for, too


@dataclass(frozen=True)
class Report:
    """A row of `evidence`: when it came, and what it says."""

    time_s: float
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Trouble:
    """A sensor that looks broken.

    Attributes:
        fault: a channel that stands still or is missing, in words; "" for none.
        beyond: readings that lie far out, in words; "" for none.
        since_s: when the first of the last reports in a row that say so came; None for no trouble.
        reports: how many these are.
        is_whole: a report before them says otherwise, or there is none; else it may have begun earlier.
    """

    fault: str = ""
    beyond: str = ""
    since_s: float | None = None
    reports: int = 0
    is_whole: bool = True


def together_s(fault_after_s: float) -> float:
    """How far apart trouble may begin on two nodes and still count as one event."""
    return max(fault_after_s, TOGETHER_S)


def asked_from_s(newest_s: float, fault_after_s: float) -> float:
    """From when on reports are asked about trouble: enough to tell how long it lasts, and beside what it began."""
    return newest_s - fault_after_s - 3 * together_s(fault_after_s)


def trouble_of(reports: Iterable[Report], from_s: float) -> Trouble:
    """What the newest report says about a broken sensor, and since when reports say so.

    Args:
        reports: of one node about one bundle, the newest first; read as far as is needed.
        from_s: reports before this time are not asked, unless a window has to begin there.
    """
    known = _Behind(reports)
    fault = beyond = ""
    since_s: float | None = None
    count = 0
    while (report := known.at(count)) is not None:
        recent = known.window(count)
        found = fault_of(recent), beyond_of(recent)
        if not any(found):
            break
        if since_s is not None and report.time_s < from_s:
            return Trouble(fault, beyond, since_s, count, is_whole=False)
        if since_s is None:
            fault, beyond = found
        since_s, count = report.time_s, count + 1
    return Trouble(fault, beyond, since_s, count)


class _Behind:
    """Reports that are read when they are needed."""

    def __init__(self, reports: Iterable[Report]) -> None:
        self._rest: Iterator[Report] = iter(reports)
        self._read: list[Report] = []

    def at(self, index: int) -> Report | None:
        """The report so many before the newest; None where there is none."""
        while len(self._read) <= index:
            report = next(self._rest, None)
            if report is None:
                return None
            self._read.append(report)
        return self._read[index]

    def window(self, index: int) -> Sequence[Mapping[str, Any]]:
        """Channels of a report with the counts of its window."""
        now = _channels(self._read[index].content)
        rows, behind = _rows(now), index
        while rows >= FAULT_ROWS and (older := self.at(behind := behind + 1)) is not None:
            before = _channels(older.content)
            less = _less(now, before)
            if less is None:  # the watch began anew
                break
            if rows - _rows(before) >= FAULT_ROWS:
                return less
        return now


def fault_of(channels: Iterable[Mapping[str, Any]]) -> str:
    """What counts say about a broken sensor: a channel of the readings that stands still, or is missing. Pure.

    A reading that has only moved lies in many bins or in the outermost one; one that stands still lies in one bin, and
    most likely in one of the others.
    """
    for channel, name, counts, rows in _inputs(channels):
        if counts[MISSING] >= MISSING_SHARE * rows:
            return f"{name} is missing in {counts[MISSING]} of {rows} readings"
        fullest = max(range(BINS), key=counts.__getitem__)
        if counts[fullest] >= STUCK_SHARE * rows and 1 < fullest < BINS - 1 and _is_proven(channel):
            return f"{name} stands still: {counts[fullest]} of {rows} readings lie in one of {BINS - 1} bins"
    return ""


def beyond_of(channels: Iterable[Mapping[str, Any]]) -> str:
    """What counts say about readings far out: nearly all of a channel lie on one side of the whole reference. Pure.

    On one node that is a gain, an offset or a broken wire; on all nodes of a place it is the place.
    """
    for channel, name, counts, rows in _inputs(channels):
        for side, words in ((1, "below"), (BINS - 1, "above")):
            if counts[side] >= BEYOND_SHARE * rows and _is_proven(channel):
                return f"{name} is {words} nearly all that was seen before: {counts[side]} of {rows} readings"
    return ""


def _inputs(channels: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str, list[int], int]]:
    """Channels that look at readings and have enough rows: each with its name, counts and rows."""
    for channel in channels:
        counts, name = _counts(channel.get("counts")), str(channel.get("channel", ""))
        if sum(counts) >= FAULT_ROWS and not name.startswith((*OUTPUTS, "projection", "distance")):
            yield channel, name, counts, sum(counts)


def _less(now: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """Channels with what was counted between two reports; None where the later one does not continue the other."""
    if [one.get("channel") for one in now] != [one.get("channel") for one in before]:
        return None
    found: list[Mapping[str, Any]] = []
    for new, old in zip(now, before, strict=True):
        counts = [a - b for a, b in zip(_counts(new.get("counts")), _counts(old.get("counts")), strict=False)]
        if len(counts) != BINS or min(counts) < 0:
            return None
        found.append({**new, "counts": counts, "all": sum(_counts(new.get("counts")))})
    return found


def _is_proven(channel: Mapping[str, Any]) -> bool:
    """Whether a channel differs from the reference: at present, or since the start.

    The stake is a Shiryaev-Roberts sum, whose mean is at most the number of rows while nothing changes.
    """
    stakes = channel.get("log_e")
    now = stakes.get("tolerant") if isinstance(stakes, Mapping) else None
    rows = channel.get("all", sum(_counts(channel.get("counts"))))
    proofs = (channel.get("log_e_all_rows"), now - math.log(rows) if _is_number(now) and rows else None)
    return any(_is_number(one) and one >= _PROOF for one in proofs)


def _channels(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = content.get("channels")
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _rows(channels: Sequence[Mapping[str, Any]]) -> int:
    return max((sum(_counts(one.get("counts"))) for one in channels), default=0)


def _counts(found: Any) -> list[int]:
    """Rows by bin; empty for what is none."""
    is_list = isinstance(found, list) and len(found) == BINS
    return list(found) if is_list and all(type(one) is int and one >= 0 for one in found) else []


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
