"""A model for the call that is made most: one float32 example, answered without a needless array.

`FastModel.predict` gives the very answer of `Model.predict`, bit for bit, for every input that one takes; what its
short way does not cover goes the long one. It keeps its arrays between calls, so it belongs to one thread at a time.

Of an example of a few thousand values most time goes into entering numpy, so an integer file is filled in few steps:
- clipping comes before rounding, which changes nothing: the limits are whole numbers;
- adding 1.5 * 2^23 rounds, half to even, as `np.rint` does: float32 has no room for fractions there. The lowest byte of
  the sum is the integer as the file wants it. An even zero point may be a part of that number, an odd one may not: it
  would turn halves to the other side;
- these bytes are copied into the file's order channel by channel, which numpy does twice as fast as all at once.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgehone_agent.errors import InputError
from edgehone_agent.model import Array, Model, from_file
from edgehone_agent.runtimes import Layout, Session, TensorInfo

_FLOAT32 = np.dtype(np.float32)
_ROUNDING = 3 << 22  # 1.5 * 2^23
_LOWEST_BYTE = 0 if sys.byteorder == "little" else 3
_FEW_CHANNELS = 8  # a loop over them is faster than one copy that turns them
_LEAST_SCALE = 1e-18  # what the short way takes is below 2e19 and must not overflow when it is divided


class _Tap:
    """A session that keeps the embeddings of its calls until they are taken."""

    def __init__(self, session: Session) -> None:
        self.input, self.output, self.embedding = session.input, session.output, session.embedding
        self.layout: Layout = session.layout
        self.taken: list[NDArray[Any]] = []
        self.describe, self.close = session.describe, session.close
        self.run_with_embedding = session.run_with_embedding

    def run(self, x: NDArray[Any]) -> NDArray[Any]:
        answer, embedding = self.run_with_embedding(x)
        self.taken.append(embedding)
        return answer


class FastModel(Model):
    """A loaded file, see the module.

    Args:
        session: the loaded file.
        tap: keep the embedding of every call for `take_embedding`; the file must have one.

    Raises:
        InputError: `tap` for a file without an embedding.
    """

    def __init__(self, session: Session, *, tap: bool = False) -> None:
        if tap and session.embedding is None:
            raise InputError("the file has no embedding", do="use it without a tap")
        self.bare = session
        """The session without the tap: for timing, which wants no embeddings."""
        self._tap = _Tap(session) if tap else None
        self._kept: Array | None = None
        super().__init__(self._tap or session)
        info, shape = session.input, self._shapes[0]
        self._shape = shape
        self._feed = np.empty(info.shape, info.dtype)
        self._is_real = info.dtype == "float32"
        self._short = info.shape[0] == 1 and _is_covered(info) and _has_scale(session.output)
        self._is_vector = len(session.output.shape) == 2
        if self._short:
            self._prepare(info, session.layout)
        self._reals: Array | None = None
        if self._short and self._is_vector and session.output.dtype in ("int8", "uint8"):
            every = np.arange(256, dtype=np.uint8).view(session.output.dtype)  # in the order of their bits
            self._reals = from_file(session, every)

    def _prepare(self, info: TensorInfo, layout: Layout) -> None:
        """What `_fill` needs."""
        turned = layout == "channels_last" and len(self._shape) in (2, 3)
        # The feed as seen in torch order: writing there turns.
        place: NDArray[Any] = np.moveaxis(self._feed[0], -1, 0) if turned else self._feed[0]
        self._by_channel = turned and 1 < len(place) <= _FEW_CHANNELS
        self._place, self._channels = place, tuple(place) if self._by_channel else ()
        if info.scale is None or info.zero_point is None:
            return
        limits, self._odd = np.iinfo(info.dtype), np.array(info.zero_point % 2, np.uint8)
        self._scale = np.array(info.scale, np.float32)
        self._low, self._high = (np.array(end - info.zero_point, np.float32) for end in (limits.min, limits.max))
        self._rounding = np.array(_ROUNDING + info.zero_point - info.zero_point % 2, np.float32)
        self._real = np.empty(place.size, np.float32)
        lowest = self._real.view(info.dtype).reshape(*self._shape, 4)[..., _LOWEST_BYTE]
        self._levels = tuple(zip(self._channels, lowest, strict=True)) if self._by_channel else ((place, lowest),)
        self._bytes = self._feed.reshape(-1).view(np.uint8)

    @property
    def example(self) -> tuple[int, ...]:
        """Shape of one example in torch order."""
        return self._shape

    def predict(self, x: ArrayLike) -> Array:
        """As `Model.predict`.

        Raises:
            InputError: as `Model.predict`.
        """
        if self._short and isinstance(x, np.ndarray) and x.shape == self._shape and x.dtype is _FLOAT32:
            flat = x.ravel()
            # As `Model.predict` does; what is large but good goes the long way. (`flat.dot` would warn of an overflow.)
            if math.isfinite(np.vdot(flat, flat)):
                self._fill(x, flat)
                y = self.session.run(self._feed)
                if self._reals is not None:
                    answer: Array = self._reals.take(y[0].view(np.uint8))
                    return answer
                if self._is_vector and y.dtype is _FLOAT32:
                    row: Array = y[0]
                    return row
                real: Array = from_file(self.session, y, rank=len(self._shape))[0]
                return real
        return super().predict(x)

    def _fill(self, x: Array, flat: Array) -> None:
        """Write one example into the array that the file is fed with; see the module for how.

        Args:
            x: in torch order.
            flat: the same values, (size,), without gaps.
        """
        if self._is_real:
            if self._by_channel:
                for channel, values in zip(self._channels, x, strict=True):
                    channel[...] = values
            else:
                self._place[...] = x
            return
        real = self._real
        np.divide(flat, self._scale, real)
        real.clip(self._low, self._high, real)
        np.add(real, self._rounding, real)
        for place, levels in self._levels:
            place[...] = levels
        if self._odd:
            np.add(self._bytes, self._odd, self._bytes)

    @property
    def examples(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of one example that are taken, in torch order."""
        return self._shapes

    def keep_embedding(self, embedding: Array) -> None:
        """Put back what was taken, for the next take."""
        self._kept = embedding

    def take_embedding(self) -> Array | None:
        """The embedding (N, ...) of the calls since the last take, as real values; None without a tap or a call."""
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return kept
        if self._tap is None or not self._tap.taken:
            return None
        taken, self._tap.taken = self._tap.taken, []
        info = self._tap.embedding
        raw = taken[0] if len(taken) == 1 else np.concatenate(taken)
        if info is None or info.scale is None or info.zero_point is None:
            return raw.astype(np.float32, copy=False)
        real: Array = (raw.astype(np.float32) - np.float32(info.zero_point)) * np.float32(info.scale)
        return real


def _is_covered(info: TensorInfo) -> bool:
    """Whether the short way takes this input."""
    if info.dtype == "float32":
        return True
    return info.dtype in ("int8", "uint8") and _has_scale(info) and info.scale is not None and info.scale > _LEAST_SCALE


def _has_scale(info: TensorInfo) -> bool:
    return info.dtype == "float32" or (info.scale is not None and info.zero_point is not None)
