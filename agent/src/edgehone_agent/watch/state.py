"""The watch's state as bytes: survives a restart, and merges with the states of other nodes at the core.

Rules:
- A state belongs to one card, by digest. With another card it is refused, not reinterpreted.
- `merge(a, b)` equals `merge(b, a)` bit for bit: counts, rows, stakes and alarms add. The bound of the merged state
  is over the rows of all its nodes. Merging three states in another order may differ in the last bit of a stake.
- A merged state can be looked at and merged again. Stakes add as averages do; to multiply the evidence of independent
  nodes, the core uses the counts (`Watcher.evidence`, "log_e_all_rows").

The layout is in docs/formats/card.md; `struct`, little endian, with a checksum.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from edgehone_agent.errors import InputError, StateError
from edgehone_agent.watch.bets import BETS
from edgehone_agent.watch.detector import State
from edgehone_agent.watch.levels import THRESHOLDS, Levels
from edgehone_agent.wire.card import BINS, MAX_CHANNELS

MAX_STATE_BYTES = 6000
_MAGIC = b"EHWS"
_VERSION = 1
_LEVEL = "?IQ" * len(THRESHOLDS)  # on, alarms, first row
_HEAD = struct.Struct(f"<4sHB32sQQQId{_LEVEL}")
_MOST = 0xFFFFFFFF


@dataclass(frozen=True)
class Saved:
    """A state and what it is about.

    Attributes:
        card_digest: hex.
        offered: rows that passed by, before thinning.
        state: of the detector.
    """

    card_digest: str
    offered: int
    state: State

    def to_bytes(self) -> bytes:
        """At most MAX_STATE_BYTES; the same state gives the same bytes."""
        state, levels = self.state, self.state.levels
        flat = (
            value for k in range(len(THRESHOLDS)) for value in (levels.on[k], levels.alarms[k], levels.first_row[k])
        )
        digest = bytes.fromhex(self.card_digest)
        head = _HEAD.pack(
            _MAGIC, _VERSION, len(state.counts), digest, self.offered, state.rows, state.seed, state.nodes,
            levels.index, *flat,
        )  # fmt: skip
        arrays = (
            state.counts.astype("<u4"), state.stakes.astype("<f4"), state.last.astype("<i4"),
            state.steps.astype("<i8"),
        )  # fmt: skip
        content = head + b"".join(array.tobytes() for array in arrays)
        return content + struct.pack("<I", zlib.crc32(content))

    @classmethod
    def from_bytes(cls, content: bytes) -> Saved:
        """Read a state back.

        Raises:
            StateError: not a state, cut off, damaged, or of a newer version.
        """
        if len(content) < _HEAD.size or content[:4] != _MAGIC or content[4:6] != struct.pack("<H", _VERSION):
            raise _damaged("this is no state of the watch, or one of another version")
        _, _, channels, digest, offered, rows, seed, nodes, index, *flat = _HEAD.unpack_from(content)
        layout = (("<u4", channels * BINS), ("<f4", 2 * channels * BETS), ("<i4", channels), ("<i8", channels))
        size = _HEAD.size + sum(count * int(kind[-1]) for kind, count in layout) + 4
        if len(content) != size or zlib.crc32(content[:-4]) != struct.unpack("<I", content[-4:])[0]:
            raise _damaged("the state of the watch is damaged")
        offset, arrays = _HEAD.size, []
        for kind, count in layout:
            arrays.append(np.frombuffer(content, kind, count, offset))
            offset += arrays[-1].nbytes
        counts = arrays[0].reshape(channels, BINS).astype(np.uint32)
        stakes = arrays[1].reshape(2, channels, BETS).astype(np.float32)
        if not (1 <= channels <= MAX_CHANNELS and np.isfinite(stakes).all() and (stakes >= 0).all() and index >= 0):
            raise _damaged("the state of the watch holds values that cannot be")
        last, steps = (array.astype(np.int64) for array in arrays[2:])
        levels = Levels(index, flat[0::3], flat[1::3], flat[2::3])
        state = State(rows, seed, counts, stakes, last, steps, levels, nodes)
        return cls(digest.hex(), offered, state)


def merge(a: bytes, b: bytes) -> bytes:
    """The state of two nodes, or groups of nodes, together. Symmetric, bit for bit.

    Raises:
        StateError: one of them is damaged.
        InputError: they belong to different cards.
    """
    first, second = Saved.from_bytes(a), Saved.from_bytes(b)
    if first.card_digest != second.card_digest:
        raise InputError(
            f"states of cards {first.card_digest[:12]} and {second.card_digest[:12]} cannot be merged",
            do="merge states of nodes that run the same model with the same card",
        )
    x, y = first.state, second.state
    levels = Levels(
        x.levels.index + y.levels.index,  # an upper bound; the next row, or a Watcher, works it out
        [p or q for p, q in zip(x.levels.on, y.levels.on, strict=True)],
        [min(p + q, _MOST) for p, q in zip(x.levels.alarms, y.levels.alarms, strict=True)],
        [min(p or q, q or p) for p, q in zip(x.levels.first_row, y.levels.first_row, strict=True)],
    )
    counts = np.minimum(x.counts.astype(np.uint64) + y.counts, _MOST).astype(np.uint32)
    state = State(
        x.rows + y.rows, x.seed ^ y.seed, counts, x.stakes + y.stakes, np.zeros_like(x.last), x.steps + y.steps,
        levels, x.nodes + y.nodes,
    )  # fmt: skip
    return Saved(first.card_digest, first.offered + second.offered, state).to_bytes()


def _damaged(what: str) -> StateError:
    return StateError(what, where="watch", do="the watch starts anew; delete the file if this comes back")
