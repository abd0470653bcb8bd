"""What a node has learnt, as one small file: STATE/learn/TASK.delta. The layout is in docs/formats/learnt.md.

Rules:
- It names the bundle that it belongs to, and the kind of learning; with another one it is void.
- `struct` and float32, little endian, with a checksum; never pickle. Reading refuses what is damaged, of another
  version, of another size, or holds values that cannot be; then the node starts anew.
- What was dropped is kept without its values: only that it was, and why.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgehone_agent.errors import StateError
from edgehone_agent.learn import KINDS, Kind
from edgehone_agent.learn.last_layer import MAX_WEIGHTS, Head
from edgehone_agent.learn.statistics import MAX_GAIN, Scale

State = Literal["active", "dropped"]
Change = Scale | Head

MAX_BYTES = 4 * MAX_WEIGHTS + (1 << 12)
LONGEST_WHY = 400
_MAGIC, _VERSION = b"EHLT", 1
_HEAD = struct.Struct("<4sHBB32sQfB3xIIHH")
_STATES: tuple[State, ...] = ("active", "dropped")


@dataclass(frozen=True, eq=False)
class Kept:
    """The file's content.

    Attributes:
        digest: of the bundle, hex.
        kind: of learning.
        state: what answers, or what was dropped.
        change: None when it was dropped.
        label_error: that was counted in.
        verdict: state of the comparison.
        why: it was dropped, for people.
    """

    digest: str
    kind: Kind
    state: State
    change: Change | None
    label_error: float
    verdict: bytes
    why: str = ""

    def to_bytes(self) -> bytes:
        """The file; the same content gives the same bytes."""
        change = self.change
        if isinstance(change, Scale):
            values = np.stack([change.gain, change.offset], axis=1)
        elif isinstance(change, Head):
            values = np.concatenate([change.weights, change.bias[:, None]], axis=1)
        else:
            values = np.zeros((0, 0), np.float32)
        why = self.why.encode()[:LONGEST_WHY].decode(errors="ignore").encode()
        head = _HEAD.pack(
            _MAGIC, _VERSION, KINDS.index(self.kind), _STATES.index(self.state), bytes.fromhex(self.digest),
            0 if change is None else change.rows, self.label_error,
            isinstance(change, Head) and change.probabilities, *values.shape, len(self.verdict), len(why),
        )  # fmt: skip
        content = head + values.astype("<f4").tobytes() + self.verdict + why
        return content + struct.pack("<I", zlib.crc32(content))

    @classmethod
    def from_bytes(cls, content: bytes) -> Kept:
        """Read it back. Raises StateError for what is no such file, or a damaged one."""
        body = content[:-4]
        if not _HEAD.size <= len(body) <= MAX_BYTES or content[-4:] != struct.pack("<I", zlib.crc32(body)):
            raise _useless("is damaged")
        head = _HEAD.unpack_from(body)
        magic, version, kind, state, digest, rows, label_error, probabilities, height, width, *lengths = head
        if magic != _MAGIC or version != _VERSION:
            raise _useless("has another form")
        size = 4 * height * width
        if kind >= len(KINDS) or state >= len(_STATES) or len(body) != _HEAD.size + size + sum(lengths):
            raise _useless("is damaged")
        values = np.frombuffer(body, "<f4", height * width, _HEAD.size).reshape(height, width).astype(np.float32)
        verdict = body[_HEAD.size + size :][: lengths[0]]
        why = body[_HEAD.size + size + lengths[0] :].decode(errors="replace")
        change: Change | None = None
        if _STATES[state] == "active":
            change = _change(KINDS[kind], values, rows, bool(probabilities))
        if not 0 <= label_error <= 0.5 or (change is None and size):
            raise _useless("holds values that cannot be")
        return cls(digest.hex(), KINDS[kind], _STATES[state], change, label_error, verdict, why)


def _change(kind: Kind, values: np.ndarray[tuple[int, int], np.dtype[np.float32]], rows: int, share: bool) -> Change:
    height, width = values.shape
    if not values.size or not np.isfinite(values).all() or not 0 < rows < 1 << 62:
        raise _useless("holds values that cannot be")
    if kind == "statistics":
        gain, offset = (np.ascontiguousarray(column) for column in values.T) if width == 2 else (values, values)
        if width != 2 or not ((gain >= 0.99 / MAX_GAIN) & (gain <= 1.01 * MAX_GAIN)).all():
            raise _useless("holds values that cannot be")
        return Scale(gain, offset, rows)
    if height < 2 or width < 2 or values.size > MAX_WEIGHTS:
        raise _useless("holds values that cannot be")
    return Head(np.ascontiguousarray(values[:, :-1]), values[:, -1].copy(), share, rows)


def _useless(what: str) -> StateError:
    return StateError(f"what the node had learnt {what}", where="learn", do="it starts anew")
