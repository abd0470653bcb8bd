"""The card: what a model's inputs and answers looked like on validation data, in at most 6 kB.

Per channel: the edges of its bins and how many validation rows fell into each. The rows that the edges come from are
not among those that are counted, else the counts would flatter the card. A card belongs to one model file, by digest:
another compression of the same network answers differently and needs its own.

The layout is in docs/formats/card.md; `struct`, little endian, never pickle. Reading refuses what is cut off, damaged,
of a newer version, or inconsistent.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import BundleError

LEVELS = np.array([0.001, 0.01, *(np.arange(1, 16) / 16), 0.99, 0.999])
"""Quantile levels of a channel's edges: sixteenths, and the tails at 1 and 0.1 % on both sides."""
BINS = len(LEVELS) + 2
"""Bin 0 takes missing values (NaN); bin k the values from edge k - 1 up to edge k."""
MISSING = 0
MAX_CHANNELS = 32
MAX_CARD_BYTES = 6000
KINDS = ("classification", "regression", "anomaly")

_MAGIC = b"EHCD"
_VERSION = 1
_HEAD = struct.Struct("<4sHBBB32sQffIIIBBH")
_MAX_AXES = 4


class Origin(IntEnum):
    """What a channel looks at."""

    FEATURE = 0
    MEAN = 1
    SPREAD = 2
    LOWEST = 3
    HIGHEST = 4
    ROUGHNESS = 5
    PLANE = 6
    PROJECTION = 7
    DISTANCE = 8
    CONFIDENCE = 9
    ENTROPY = 10
    PREDICTED = 11
    OUTPUT = 12
    RECONSTRUCTION = 13


STATISTICS = (Origin.MEAN, Origin.SPREAD, Origin.LOWEST, Origin.HIGHEST, Origin.ROUGHNESS, Origin.PLANE)
"""Of a reading that is too long to watch value by value."""
INPUTS = frozenset((Origin.FEATURE, *STATISTICS))
"""What looks at readings alone."""

_NAMES = {
    Origin.FEATURE: "input {}",
    Origin.MEAN: "input mean",
    Origin.SPREAD: "input spread",
    Origin.LOWEST: "input minimum",
    Origin.HIGHEST: "input maximum",
    Origin.ROUGHNESS: "input roughness",
    Origin.PLANE: "input mean of plane {}",
    Origin.PROJECTION: "projection {}",
    Origin.DISTANCE: "distance",
    Origin.CONFIDENCE: "confidence",
    Origin.ENTROPY: "entropy",
    Origin.PREDICTED: "predicted class",
    Origin.OUTPUT: "output {}",
    Origin.RECONSTRUCTION: "reconstruction error",
}


@dataclass(frozen=True)
class Channel:
    """One stream of numbers that is watched: what it looks at, and which of its kind."""

    origin: Origin
    index: int = 0

    @property
    def name(self) -> str:
        """For people: "input 3", "projection 0", "confidence"."""
        return _NAMES[self.origin].format(self.index)


@dataclass(frozen=True, eq=False)
class Card:
    """A drift reference. Build it with `edgehone.bundle.card.build_card`.

    Attributes:
        model_digest: sha256 of the model file that answered, 64 hex digits.
        kind: of the task: "classification", "regression" or "anomaly".
        seed: of the projections.
        tolerance: how much the field may differ, as |P(field > validation) - 1/2|; 0.02 is an AUC of 0.52.
        gap: one row in so many is looked at, because neighbours resemble each other.
        correlation: the largest autocorrelation of a channel from one row to the next, before thinning.
        rows: validation rows that are counted, after thinning.
        probabilities: answers of a classifier are probabilities already; else scores that need a softmax.
        input_shape, output_shape: of one example.
        embedding_size: values of an embedding; 0 when the card uses none.
        channels: what is watched, at most MAX_CHANNELS.
        center, scale: (d,) of the vector that projections and distance start from: the features of a table; for other
            tasks the projections of the embedding or, without one, the input statistics.
        whitening: (d, d) lower triangular; `(vector - center) / scale @ whitening` has unit covariance.
        edges: (channels, BINS - 2), rising.
        counts: (channels, BINS); every row sums to `rows`.
    """

    model_digest: str
    kind: str
    seed: int
    tolerance: float
    gap: int
    correlation: float
    rows: int
    probabilities: bool
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    embedding_size: int
    channels: tuple[Channel, ...]
    center: NDArray[np.float32]
    scale: NDArray[np.float32]
    whitening: NDArray[np.float32]
    edges: NDArray[np.float32]
    counts: NDArray[np.uint16]

    @property
    def digest(self) -> str:
        """sha256 of the card's bytes, hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def count(self, origin: Origin) -> int:
        """How many channels look at one thing."""
        return sum(channel.origin is origin for channel in self.channels)

    def check_model(self, digest: str) -> None:
        """Refuse to watch another model file than the card was built from.

        Raises:
            BundleError: the digests differ.
        """
        if digest != self.model_digest:
            raise BundleError(
                f"the card belongs to model {self.model_digest[:12]} and not to {digest[:12]}",
                where="card",
                do="build the bundle again: the card comes from the answers of its own model file",
            )

    def to_bytes(self) -> bytes:
        """The card as a file: the same card gives the same bytes."""
        size = len(self.center)
        parts = [
            _HEAD.pack(
                _MAGIC, _VERSION, KINDS.index(self.kind), self.probabilities, 0, bytes.fromhex(self.model_digest),
                self.seed, self.tolerance, self.correlation, self.gap, self.rows, self.embedding_size,
                len(self.input_shape), len(self.output_shape), size,
            ),
            np.array([*self.input_shape, *self.output_shape], dtype="<u4").tobytes(),
            struct.pack("<B", len(self.channels)),
            b"".join(struct.pack("<BB", channel.origin, channel.index) for channel in self.channels),
            *(np.asarray(values, dtype="<f4").tobytes() for values in (self.center, self.scale)),
            np.asarray(self.whitening, dtype="<f4")[np.tril_indices(size)].tobytes(),
            np.asarray(self.edges, dtype="<f4").tobytes(),
            np.asarray(self.counts, dtype="<u2").tobytes(),
        ]  # fmt: skip
        content = b"".join(parts)
        return content + struct.pack("<I", zlib.crc32(content))

    @classmethod
    def from_bytes(cls, content: bytes) -> Card:
        """Read a card back.

        Raises:
            BundleError: not a card, damaged, of a newer version, or with values that cannot be.
        """
        if len(content) < _HEAD.size + 4 or content[:4] != _MAGIC:
            raise _damaged("this is no card")
        if len(content) > MAX_CARD_BYTES or zlib.crc32(content[:-4]) != struct.unpack("<I", content[-4:])[0]:
            raise _damaged("the card is damaged")
        head = _HEAD.unpack_from(content)
        if head[1] != _VERSION:
            raise BundleError(
                f"the card has version {head[1]} and this agent reads {_VERSION}", where="card", do="update the agent"
            )
        try:
            card = cls._body(head, content)
        except (ValueError, IndexError, struct.error) as error:
            raise _damaged("the card is damaged") from error
        card._check()
        return card

    @classmethod
    def _body(cls, head: tuple[Any, ...], content: bytes) -> Card:
        (
            kind,
            probabilities,
            _,
            digest,
            seed,
            tolerance,
            correlation,
            gap,
            rows,
            embedding_size,
            axes_in,
            axes_out,
            size,
        ) = head[2:]
        read = _Reader(content[:-4], _HEAD.size)
        if axes_in > _MAX_AXES or axes_out > _MAX_AXES:
            raise ValueError("too many axes")
        shape_in, shape_out = read.integers("<u4", axes_in), read.integers("<u4", axes_out)
        pairs = read.integers("u1", 2 * int(read.integers("u1", 1)[0])).reshape(-1, 2)
        center, scale = read.floats(size), read.floats(size)
        whitening = np.zeros((size, size), dtype=np.float32)
        whitening[np.tril_indices(size)] = read.floats(size * (size + 1) // 2)
        edges = read.floats(len(pairs) * (BINS - 2)).reshape(len(pairs), BINS - 2)
        counts = read.integers("<u2", len(pairs) * BINS).reshape(len(pairs), BINS).astype(np.uint16)
        read.end()
        return cls(
            model_digest=digest.hex(), kind=KINDS[kind], seed=seed, tolerance=tolerance, gap=gap,
            correlation=correlation, rows=rows, probabilities=bool(probabilities),
            input_shape=tuple(map(int, shape_in)), output_shape=tuple(map(int, shape_out)),
            embedding_size=embedding_size,
            channels=tuple(Channel(Origin(int(origin)), int(index)) for origin, index in pairs),
            center=center, scale=scale, whitening=whitening, edges=edges, counts=counts,
        )  # fmt: skip

    def _check(self) -> None:
        finite = all(np.isfinite(values).all() for values in (self.center, self.scale, self.whitening))
        numbers = (self.tolerance, self.correlation)
        if not (
            finite
            and all(map(math.isfinite, numbers))
            and 0 <= self.tolerance < 0.5
            and self.gap >= 1
            and self.rows >= 1
            and 1 <= len(self.channels) <= MAX_CHANNELS
            and (self.scale > 0).all()
            and not np.isnan(self.edges).any()
            and (self.edges[:, 1:] >= self.edges[:, :-1]).all()
            and (self.counts.sum(1) == self.rows).all()
            and self._consistent()
        ):
            raise _damaged("the card holds values that cannot be")

    def _consistent(self) -> bool:
        """Whether shapes and channels belong together, so that measuring them cannot fail."""
        expected: list[Channel] = []
        for origin in dict.fromkeys(channel.origin for channel in self.channels):
            expected += [Channel(origin, index) for index in range(self.count(origin))]
        features, planes, projections = map(self.count, (Origin.FEATURE, Origin.PLANE, Origin.PROJECTION))
        statistics = sum(self.count(origin) for origin in STATISTICS)
        return (
            list(self.channels) == expected
            and len(self.input_shape) > 0
            and len(self.output_shape) > 0
            and min(*self.input_shape, *self.output_shape) > 0
            and len(self.center) == (features or (projections if self.embedding_size else statistics)) > 0
            and (not features or self.input_shape == (features,))
            and (not planes or (len(self.input_shape) > 1 and self.input_shape[0] == planes))
            and (projections > 0 or not self.embedding_size)
            and self.count(Origin.OUTPUT) <= math.prod(self.output_shape)
            and (not self.count(Origin.RECONSTRUCTION) or self.input_shape == self.output_shape)
        )


class _Reader:
    """Takes arrays off a run of bytes, one after the other."""

    def __init__(self, content: bytes, offset: int) -> None:
        self._content = content
        self._offset = offset

    def integers(self, dtype: str, count: int) -> NDArray[np.int64]:
        return self._take(dtype, count).astype(np.int64)

    def floats(self, count: int) -> NDArray[np.float32]:
        return self._take("<f4", count).astype(np.float32)

    def _take(self, dtype: str, count: int) -> NDArray[Any]:
        values: NDArray[Any] = np.frombuffer(self._content, dtype, count, self._offset)
        self._offset += values.nbytes
        return values

    def end(self) -> None:
        if self._offset != len(self._content):
            raise ValueError("bytes left over")


def _damaged(what: str) -> BundleError:
    return BundleError(what, where="card", do="copy or build the bundle again")
