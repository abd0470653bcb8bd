"""The drift card of a bundle: what the compressed file saw and answered on validation data, for nodes to compare with.

Built from the answers of the file that ships, never from the network it was made from: compression changes answers a
little, and that must not read as drift. The channels are measured with the node's own code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import InputError
from edgehone_agent.watch.channels import Channels, bins_of
from edgehone_agent.watch.coins import coins
from edgehone_agent.wire.card import BINS, KINDS, LEVELS, Card, Channel, Origin

MIN_ROWS = 60
TABLE_FEATURES = 20  # a longer reading is watched by its statistics
_PROJECTIONS = {True: 8, False: 16}  # of a table, and of everything else
_OUTPUTS = 3
_PLANES = 4
_COUNTED = 65_535  # most that a count in the card can hold
_CORRELATED = 0.05  # autocorrelation that is left alone: measured to keep the false alarms within their bound
_CHANCE = 3.5  # standard errors of an autocorrelation that is nothing
Array = NDArray[np.float32]


def build_card(
    x: NDArray[Any],
    y: NDArray[Any],
    embedding: NDArray[Any] | None,
    *,
    kind: str,
    model_digest: str,
    seed: int = 0,
    tolerance: float = 0.02,
    in_order: bool = True,
) -> Card:
    """Build the reference that a node compares with.

    A third of the rows places the edges, the others are counted: a card that counted its own edges' rows would promise
    too much.

    Args:
        x: (N, *input shape) raw validation readings, N of at least MIN_ROWS; thousands are better.
        y: (N, *output shape) what the compressed file answered.
        embedding: (N, E) its penultimate values, or None when the file gives none.
        kind: "classification", "regression" or "anomaly".
        model_digest: sha256 of the model file, hex.
        seed: of the projections and of the choice of rows.
        tolerance: how much the field may differ before the tolerant detector minds, as |P(field > validation) - 1/2|.
        in_order: rows follow each other as they were read, so that their autocorrelation says how to thin. False for
            rows in no order of time, such as pictures sorted by class.

    Raises:
        InputError: too few rows, arrays that do not belong together, an unknown kind, or a tolerance out of range.
    """
    x, y = np.asarray(x, dtype=np.float32), np.asarray(y, dtype=np.float32)
    hidden = None if embedding is None else np.asarray(embedding, dtype=np.float32).reshape(len(embedding), -1)
    _check(x, y, hidden, kind, model_digest, tolerance)
    card = _plan(x, y, hidden, kind, model_digest, seed, tolerance)
    card = _fit(card, x, y, hidden)
    if in_order:
        gap, correlation = autocorrelation_gap(Channels(card).values(x, y, hidden))
        card = replace(card, gap=gap, correlation=correlation)
        x, y, hidden = x[::gap], y[::gap], None if hidden is None else hidden[::gap]
    order = coins(seed, 1, len(x), 1)[:, 0].argsort(kind="stable")
    placing, counted = np.split(order, [len(x) // 3])
    counted = counted[:_COUNTED]
    card = _fit(card, x[placing], y[placing], None if hidden is None else hidden[placing])
    channels = Channels(card)
    values = channels.values(x, y, hidden)
    edges = np.stack([_edges(column) for column in values[placing].T])
    bins = bins_of(values[counted], edges)
    counts = np.stack([np.bincount(column, minlength=BINS) for column in bins.T]).astype(np.uint16)
    return replace(card, edges=edges, counts=counts, rows=len(counted))


def autocorrelation_gap(values: Array) -> tuple[int, float]:
    """How far apart rows must be to count as independent: `(gap, correlation from one row to the next)`.

    The smallest lag at which no channel's autocorrelation is above 0.05 or what chance gives in so few rows. At most
    one row in a hundred is kept; where that is not enough, the node's evidence says so (`correlation_left`).

    Args:
        values: (N, channels) in order of time, NaN where missing.
    """
    rows = len(values)
    with np.errstate(all="ignore"):
        known = np.where(np.isfinite(values), values, np.nan)
        center = np.nanmedian(np.where(np.isnan(known).all(0), 0, known), axis=0)
        known = np.where(np.isnan(known), center, known).astype(np.float64)
    spread = known.std(0)
    z = np.clip((known - known.mean(0)) / np.where(spread > 0, spread, 1), -4, 4)
    z = (z - z.mean(0))[:, spread > 0]
    if not z.shape[1]:
        return 1, 0.0
    z /= z.std(0)
    limit = max(_CORRELATED, _CHANCE / np.sqrt(rows))
    most = max(1, rows // 100)
    first = 0.0
    for gap in range(1, most + 1):
        found = float(np.abs((z[:-gap] * z[gap:]).mean(0)).max())
        first = first or found
        if found < limit:
            return gap, first
    return most, first


def _plan(
    x: Array, y: Array, embedding: Array | None, kind: str, model_digest: str, seed: int, tolerance: float
) -> Card:
    """A card that says what is watched and holds no figures yet."""
    table = x.ndim == 2 and x.shape[1] <= TABLE_FEATURES
    channels = _of(Origin.FEATURE, x.shape[1]) if table else _statistics(x.shape[1:])
    start = len(channels)
    if embedding is not None or table:
        channels += _of(Origin.PROJECTION, _PROJECTIONS[table])
        start = start if table else _PROJECTIONS[table]
    channels += (Channel(Origin.DISTANCE), *_answers(x, y, kind))
    return Card(
        model_digest=model_digest, kind=kind, seed=seed, tolerance=tolerance, gap=1, correlation=0.0, rows=0,
        probabilities=_are_probabilities(y), input_shape=x.shape[1:], output_shape=y.shape[1:],
        embedding_size=0 if embedding is None else embedding.shape[1], channels=channels,
        center=np.zeros(start, dtype=np.float32), scale=np.ones(start, dtype=np.float32),
        whitening=np.eye(start, dtype=np.float32), edges=np.zeros((len(channels), len(LEVELS)), dtype=np.float32),
        counts=np.zeros((len(channels), BINS), dtype=np.uint16),
    )  # fmt: skip


def _of(origin: Origin, count: int) -> tuple[Channel, ...]:
    return tuple(Channel(origin, index) for index in range(count))


def _statistics(shape: tuple[int, ...]) -> tuple[Channel, ...]:
    plain = (Origin.MEAN, Origin.SPREAD, Origin.LOWEST, Origin.HIGHEST)
    rough = (Origin.ROUGHNESS,) if shape[-1] > 1 else ()
    planes = shape[0] if len(shape) > 1 and 1 < shape[0] <= _PLANES else 0
    return (*map(Channel, (*plain, *rough)), *_of(Origin.PLANE, planes))


def _answers(x: Array, y: Array, kind: str) -> tuple[Channel, ...]:
    if kind == "classification":
        return tuple(map(Channel, (Origin.CONFIDENCE, Origin.ENTROPY, Origin.PREDICTED)))
    if kind == "anomaly" and x.shape == y.shape:
        return (Channel(Origin.RECONSTRUCTION),)
    return _of(Origin.OUTPUT, min(_OUTPUTS, int(np.prod(y.shape[1:]))))


def _are_probabilities(y: Array) -> bool:
    flat = y.reshape(len(y), -1)
    inside = bool(((flat >= 0) & (flat <= 1)).all())
    return inside and (flat.shape[1] == 1 or bool(np.abs(flat.sum(1) - 1).max() < 0.02))  # int8 answers sum up roughly


def _fit(card: Card, x: Array, y: Array, embedding: Array | None) -> Card:
    """The card with center, scale and whitening from these rows."""
    start = Channels(card).start(x, y, embedding)
    start = start[np.isfinite(start).all(1)].astype(np.float64)
    if len(start) < 2:
        return card
    center, scale = start.mean(0), start.std(0)
    scale = np.where(scale > 1e-6 * np.maximum(np.abs(center), 1e-6), scale, 1.0)
    z = (start - center) / scale
    size = z.shape[1]
    covariance = z.T @ z / len(z) + 1e-3 * np.eye(size)  # the ridge keeps a constant or doubled value harmless
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    return replace(
        card,
        center=center.astype(np.float32),
        scale=scale.astype(np.float32),
        whitening=np.tril(whitening).astype(np.float32),
    )


def _edges(column: Array) -> Array:
    known = column[~np.isnan(column)]
    if not len(known):
        return np.zeros(len(LEVELS), dtype=np.float32)
    edges: Array = np.quantile(known, LEVELS, method="inverted_cdf").astype(np.float32)
    return edges


def _check(x: Array, y: Array, embedding: Array | None, kind: str, model_digest: str, tolerance: float) -> None:
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not known", where="card", do=f"choose one of: {', '.join(KINDS)}")
    if len(model_digest) != 64 or not set(model_digest) <= set("0123456789abcdef"):
        raise InputError("the model digest is no sha256", where="card", do="give 64 hex digits")
    if not 0 <= tolerance < 0.5:
        raise InputError(f"a tolerance of {tolerance} is out of range", do="choose 0 or more, and less than 0.5")
    if x.ndim < 2 or y.ndim < 2 or len(y) != len(x) or (embedding is not None and len(embedding) != len(x)):
        raise InputError("inputs, answers and embeddings do not belong together", where="card", do="give one per row")
    if len(x) < MIN_ROWS:
        raise InputError(
            f"{len(x)} validation rows are too few for a card", where="card", do=f"give {MIN_ROWS}, better thousands"
        )
