"""A gain and an offset that make a node's readings look like validation data again. Pure; no labels are needed.

    reference = reference_of(card)
    found = estimate(measure(x, reference), reference)     # a Scale, or in words why there is none

Rules:
- Medians and quartiles only: a few odd readings move nothing. The reference is the card's own, at its quantile levels.
- A table (features) gets a gain and an offset per feature, from the feature's median and quartiles. Any other reading
  gets one gain, from the median spread within a reading, and an offset per plane where the card has planes, else one.
- What may be chance stays: a gain or an offset below `_CHANCE` standard errors is 1 or 0.
- What is left goes `n / (n + _SHRINK)` of the way, n being the number of readings, and a gain at most by `MAX_GAIN`.
- Readings that hardly vary, or lie far outside of all that was seen, are a fault of a sensor: nothing is adapted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgehone_agent.fast import FastModel
from edgehone_agent.watch.channels import measure_of
from edgehone_agent.wire.card import LEVELS, Card, Origin

MIN_ROWS = 32
MAX_GAIN = 4.0
_CHANCE = 3.0
_SHRINK = 8.0
_MOST_SPREADS = 10.0  # that the middle may have to move
_LEAST_SPREAD = 0.05  # of the reference's
_MEDIAN_ERROR = 1.2533 / 1.349  # standard error of a median, in quartile distances over the root of the rows
_QUARTILES_ERROR = 1.166  # of the distance of the quartiles, relative
_MIDDLE, _LOW, _HIGH = (int(np.argmin(np.abs(LEVELS - level))) for level in (0.5, 0.25, 0.75))

Array = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reference:
    """What readings looked like on validation data.

    Attributes:
        origins: what is measured of a reading, each a column or, of features and planes, several.
        center, spread: (G,) of features, of planes, or of the whole.
        rows: how many validation rows these come from.
    """

    origins: tuple[Origin, ...]
    center: Floats
    spread: Floats
    rows: int


@dataclass(frozen=True, eq=False)
class Scale:
    """What is done to a reading before the model sees it: `gain * x + offset`.

    Attributes:
        gain, offset: (G,) per feature, per plane, or for the whole.
        rows: how many readings they come from.
    """

    gain: Array
    offset: Array
    rows: int

    def apply(self, x: Array, rank: int) -> Array:
        """Readings (..., *example) with examples of `rank` axes; infinity where float32 has no room."""
        along = (-1, *(1,) * (rank - 1))
        with np.errstate(over="ignore", invalid="ignore"):
            found: Array = x * self.gain.reshape(along)
            found += self.offset.reshape(along)
        return found

    def ask(self, model: FastModel, x: ArrayLike) -> Array:
        """The model's answer to readings, as `FastModel.predict`, which refuses what is no reading."""
        array = x if isinstance(x, np.ndarray) else np.asarray(x)
        rank = next((len(s) for s in model.examples if s in (array.shape, array.shape[1:])), 0)
        if not rank or array.dtype.kind not in "fiub":
            return model.predict(x)
        return model.predict(self.apply(array.astype(np.float32, copy=False), rank))

    @property
    def words(self) -> str:
        """For people."""
        place = int(np.argmax(np.abs(np.log(self.gain)) + np.abs(self.offset) / (1 + np.abs(self.offset))))
        which = f" (channel {place} of {len(self.gain)})" if len(self.gain) > 1 else ""
        return f"gain {self.gain[place]:.3g}, offset {self.offset[place]:.3g}{which} from {self.rows} readings"


def reference_of(card: Card) -> Reference | str:
    """What a card says of readings, or in words why it says too little."""
    at = {channel: place for place, channel in enumerate((c.origin, c.index) for c in card.channels)}

    rows = max(1, card.rows // 2)  # a card counts two thirds of its rows; the others placed the edges

    def edges(origin: Origin) -> Floats:
        return card.edges[[place for (of, _), place in at.items() if of is origin]].astype(np.float64)

    if Origin.FEATURE in {origin for origin, _ in at}:
        found = edges(Origin.FEATURE)
        return Reference((Origin.FEATURE,), found[:, _MIDDLE], found[:, _HIGH] - found[:, _LOW], rows)
    if (Origin.SPREAD, 0) not in at or (Origin.MEAN, 0) not in at:
        return "the card does not say how readings are spread"
    place = Origin.PLANE if (Origin.PLANE, 0) in at else Origin.MEAN
    center = edges(place)[:, _MIDDLE]
    spread = np.repeat(edges(Origin.SPREAD)[:, _MIDDLE], len(center))
    if not (spread > 0).all():
        return "readings had no spread on validation data"
    return Reference((Origin.SPREAD, place), center, spread, rows)


def measure(x: Array, reference: Reference) -> Array:
    """What `estimate` needs of readings (N, ...): (N, columns)."""
    return np.concatenate([measure_of(origin, x) for origin in reference.origins], axis=1, dtype=np.float32)


def estimate(measured: NDArray[Any], reference: Reference) -> Scale | str:
    """A scale that is worth while, or in words why there is none.

    Args:
        measured: (N, columns) of `measure`.
        reference: of the card.
    """
    rows = len(measured)
    if rows < MIN_ROWS:
        return f"{rows} of {MIN_ROWS} readings"
    low, middle, high = np.quantile(measured.astype(np.float64), (0.25, 0.5, 0.75), axis=0)
    quartiles = high - low
    root = (1 / rows + 1 / reference.rows) ** -0.5  # of the rows that a difference to the card rests on
    if reference.origins[0] is Origin.FEATURE:
        center, spread = middle, quartiles
        unsure = np.full(len(center), _QUARTILES_ERROR / root)
        center_error = _MEDIAN_ERROR * quartiles / root
        counts = reference.spread > 0  # a feature that never varied says nothing about its gain
    else:
        center, spread = middle[1:], np.repeat(middle[0], len(middle) - 1)
        unsure = _MEDIAN_ERROR * np.repeat(quartiles[0], len(center)) / np.maximum(spread, 1e-30) / root
        center_error = _MEDIAN_ERROR * quartiles[1:] / root
        counts = np.ones(len(center), bool)
    width = np.where(counts, reference.spread, 1.0)
    if (counts & (spread < _LEAST_SPREAD * width)).any():
        return "readings hardly vary: that is a fault of a sensor, not a change of light or gain"
    log_gain = np.where(counts, np.log(width / np.where(counts, spread, 1.0)), 0.0)
    log_gain = np.where(np.abs(log_gain) < _CHANCE * unsure, 0.0, log_gain)
    gain = np.exp(np.clip(log_gain, -np.log(MAX_GAIN), np.log(MAX_GAIN)))
    offset = np.where(counts, reference.center - gain * center, 0.0)
    if (np.abs(offset + (gain - 1) * center) > _MOST_SPREADS * width).any():
        return "readings lie far outside of all that was seen: that is a fault of a sensor"
    offset = np.where(np.abs(offset) < _CHANCE * gain * center_error, 0.0, offset)
    if not offset.any() and (gain == 1).all():
        return "readings look like validation data"
    share = rows / (rows + _SHRINK)
    return Scale((1 + share * (gain - 1)).astype(np.float32), (share * offset).astype(np.float32), rows)
