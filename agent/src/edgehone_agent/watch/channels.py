"""From what a model saw and answered to the numbers that are watched, one per channel.

The core measures validation data with this same code when it builds a card, so both sides agree by construction.
A value that is missing (NaN) makes every channel that needs it missing; infinities fall into the outer bins.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import InputError
from edgehone_agent.watch.coins import coins
from edgehone_agent.wire.card import MISSING, STATISTICS, Card, Origin

Array = NDArray[np.float32]


class Channels:
    """Measures the channels of one card."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self._signs = sign_matrix(card.seed, card.embedding_size or len(card.center), card.count(Origin.PROJECTION))
        self._origins = tuple(dict.fromkeys(channel.origin for channel in card.channels))
        self._transform = np.ascontiguousarray(card.whitening / card.scale[:, None])

    def values(self, x: Array, y: Array, embedding: Array | None = None) -> Array:
        """The channels' values.

        Args:
            x: (N, *input shape).
            y: (N, *output shape).
            embedding: (N, embedding size), when the card uses one.

        Returns:
            (N, channels) float32, NaN where missing.

        Raises:
            InputError: a shape is not the card's.
        """
        x, y, embedding = self.check(x, y, embedding)
        with np.errstate(all="ignore"):  # infinities and NaN are answers here
            return self._values(x.astype(np.float32, copy=False), y.astype(np.float32, copy=False), embedding)

    def check(self, x: Array, y: Array, embedding: Array | None) -> tuple[Array, Array, Array | None]:
        """The same arrays, with a batch axis. Raises InputError when a shape is not the card's."""
        card = self.card
        x, y = _batch(x, card.input_shape, "input"), _batch(y, card.output_shape, "answer")
        if card.embedding_size:
            if embedding is None:
                raise InputError("the card watches the embedding and none was given", do="run the model with it")
            embedding = _batch(embedding, (card.embedding_size,), "embedding")
        else:
            embedding = None
        if len(y) != len(x) or (embedding is not None and len(embedding) != len(x)):
            raise InputError(f"{len(x)} inputs and {len(y)} answers do not belong together", do="give one per input")
        return x, y, embedding

    def start(self, x: Array, y: Array, embedding: Array | None = None) -> Array:
        """(N, d): the vector that `Card.center` belongs to; projections of a table and the distance come from it."""
        x, y, embedding = self.check(x, y, embedding)
        with np.errstate(all="ignore"):
            return self._start(x, self._inputs(x, embedding))

    def _inputs(self, x: Array, embedding: Array | None) -> dict[Origin, Array]:
        """Channels of the reading and the embedding that need no whitening."""
        parts: dict[Origin, Array] = {}
        if Origin.FEATURE in self._origins:
            parts[Origin.FEATURE] = x
        for origin in STATISTICS:
            if origin in self._origins:
                parts[origin] = _MEASURES[origin](x).reshape(len(x), -1)
        if embedding is not None:
            parts[Origin.PROJECTION] = embedding @ self._signs
        return parts

    def _start(self, x: Array, parts: dict[Origin, Array]) -> Array:
        if Origin.FEATURE in parts:
            return x
        if Origin.PROJECTION in parts:
            return parts[Origin.PROJECTION]
        return np.concatenate([parts[origin] for origin in STATISTICS if origin in parts], axis=1, dtype=np.float32)

    def _values(self, x: Array, y: Array, embedding: Array | None) -> Array:
        parts = self._inputs(x, embedding)
        white: Array = (self._start(x, parts) - self.card.center) @ self._transform
        if Origin.PROJECTION not in parts and Origin.PROJECTION in self._origins:
            parts[Origin.PROJECTION] = white @ self._signs
        parts[Origin.DISTANCE] = np.einsum("nd,nd->n", white, white)[:, None]
        parts.update(self._answers(x, y))
        return np.concatenate([parts[origin] for origin in self._origins], axis=1, dtype=np.float32)

    def _answers(self, x: Array, y: Array) -> dict[Origin, Array]:
        wanted = self._origins
        if Origin.CONFIDENCE in wanted:
            return _confidence(y, self.card.probabilities)
        if Origin.RECONSTRUCTION in wanted:
            return {Origin.RECONSTRUCTION: np.square(x - y).reshape(len(x), -1).mean(1, keepdims=True)}
        flat = y.reshape(len(y), -1)
        return {Origin.OUTPUT: flat[:, : self.card.count(Origin.OUTPUT)]}


def bins_of(values: Array, edges: Array) -> NDArray[np.uint8]:
    """The bin of each value: (N, channels) with edges (channels, BINS - 2) to (N, channels); NaN goes to bin 0."""
    found = np.ones(values.shape, dtype=np.uint8)
    for edge in edges.T:
        found += values >= edge
    found[np.isnan(values)] = MISSING
    return found


def sign_matrix(seed: int, size: int, projections: int) -> Array:
    """(size, projections) of +1 and -1 over sqrt(size), from the seed alone (as the coins)."""
    if not projections:
        return np.zeros((size, 0), dtype=np.float32)
    signs: Array = np.where(coins(seed, 0, size, projections) < 0.5, -1.0, 1.0).astype(np.float32)
    return signs / np.float32(np.sqrt(size))


def _confidence(y: Array, probabilities: bool) -> dict[Origin, Array]:
    scores = y.reshape(len(y), -1)
    if scores.shape[1] == 1:  # one score: the probability of class 1, or its logit
        one = scores if probabilities else 1 / (1 + np.exp(-scores))
        share = np.concatenate([1 - one, one], axis=1)
    elif probabilities:
        share = scores
    else:
        power = np.exp(scores - scores.max(1, keepdims=True))
        share = power / power.sum(1, keepdims=True)
    top = share.max(1, keepdims=True)  # NaN when any score is
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum(1, keepdims=True)
    predicted = np.where(np.isnan(top), np.nan, share.argmax(1, keepdims=True)).astype(np.float32)
    return {Origin.CONFIDENCE: top, Origin.ENTROPY: entropy, Origin.PREDICTED: predicted}


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


_MEASURES: dict[Origin, Callable[[Array], Array]] = {
    Origin.MEAN: lambda x: _flat(x).mean(1),
    Origin.SPREAD: lambda x: _flat(x).std(1),
    Origin.LOWEST: lambda x: _flat(x).min(1),
    Origin.HIGHEST: lambda x: _flat(x).max(1),
    Origin.ROUGHNESS: lambda x: _flat(np.abs(np.diff(x, axis=-1))).mean(1),  # of neighbours: falls when a picture blurs
    Origin.PLANE: lambda x: x.reshape(len(x), x.shape[1], -1).mean(2),
}


def measure_of(origin: Origin, x: Array) -> Array:
    """What a channel, or several, measure of readings (N, ...) alone: (N, columns)."""
    return _flat(x) if origin is Origin.FEATURE else _MEASURES[origin](x).reshape(len(x), -1)


def _batch(values: Array, shape: tuple[int, ...], what: str) -> Array:
    if values.shape == shape:
        return values[None]
    if values.shape[1:] != shape:
        raise InputError(
            f"the watch expects an {what} of shape {shape} or a batch of such, got {values.shape}",
            do="give what the model was given and what it answered",
        )
    return values
