"""One model under watch: takes what it saw and answered, says how sure it is that something changed.

    watcher = Watcher(card, saved)        # `saved` from the last run, or None
    watcher.observe(x, y)                 # after each call of the model, or each batch
    watcher.level                         # 0 nothing; 1, 2, 3: at most T/A false alarms in T rows, A = 1e3, 1e5, 1e6
    watcher.evidence()                    # JSON: what changed, which way, on how many rows
    saved = watcher.to_bytes()

Rules: one thread at a time. `observe` copies what it keeps and puts work off until BLOCK rows are there, so a single
row costs next to nothing; reading the level or anything else does the work first.
"""

from __future__ import annotations

import secrets
from collections.abc import Container
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import InputError, StateError
from edgehone_agent.watch import bets
from edgehone_agent.watch.channels import Channels, bins_of
from edgehone_agent.watch.detector import BLOCK, VARIANTS, Detector, State
from edgehone_agent.watch.levels import THRESHOLDS
from edgehone_agent.watch.state import Saved
from edgehone_agent.wire.card import MISSING, Card, Origin

_HELD_BYTES = 1 << 20  # most that may wait for a full block
_WORD = 0xFFFFFFFFFFFFFFFF
_LOUD = THRESHOLDS[1] / 10  # where level 2 goes off
Array = NDArray[np.float32]


class Watcher:
    """Watches one model against its card.

    Args:
        card: of the model that answers; check it with `Card.check_model`.
        state: what `to_bytes` gave, or None to start anew.
        seed: of the coin that breaks ties; every node needs its own, so it is drawn when None. Ignored with a state.
        tolerance: instead of the card's, in units of |P(field > validation) - 1/2|, 0 to below 0.5.
        gap: look at one row in so many, instead of the card's; for readings that come denser than validation rows did.

    Raises:
        StateError: the state is damaged or belongs to another card. Start anew with None.
        InputError: a tolerance or gap outside its range.
    """

    def __init__(
        self,
        card: Card,
        state: bytes | None = None,
        *,
        seed: int | None = None,
        tolerance: float | None = None,
        gap: int | None = None,
    ) -> None:
        if tolerance is not None and not 0 <= tolerance < 0.5:
            raise InputError(f"a tolerance of {tolerance} is out of range", do="choose 0 or more, and less than 0.5")
        if gap is not None and gap < 1:
            raise InputError(f"a gap of {gap} is out of range", do="choose 1 to look at every row, or more")
        self.card = card
        self._gap = card.gap if gap is None else gap
        self._card_digest = card.digest
        self._offered = 0
        if state is None:
            kept = State.fresh(len(card.channels), secrets.randbits(64) if seed is None else seed & _WORD)
        else:
            saved = Saved.from_bytes(state)
            if saved.card_digest != self._card_digest:
                raise StateError(
                    f"this state belongs to card {saved.card_digest[:12]} and not to {self._card_digest[:12]}",
                    where="watch",
                    do="start anew: evidence against one card says nothing about another",
                )
            kept, self._offered = saved.state, saved.offered
        self._channels = Channels(card)
        self._detector = Detector(card, kept, tolerance=tolerance)
        self._waiting: list[tuple[Array, Array, Array | None]] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0

    def observe(self, x: Array, y: Array, embedding: Array | None = None) -> None:
        """Take in what the model saw and answered, in the order in which it happened.

        Args:
            x: (N, *input shape) raw readings, or one without a batch axis.
            y: (N, *output shape) answers.
            embedding: (N, embedding size); needed when the card has `embedding_size`.

        Raises:
            InputError: a shape is not the card's; nothing is taken in.
        """
        x, y, embedding = self._channels.check(x, y, embedding)
        first = -self._offered % self._gap
        self._offered += len(x)
        if first >= len(x):
            return
        kept = slice(first, None, self._gap)
        row = (x[kept].copy(), y[kept].copy(), None if embedding is None else embedding[kept].copy())
        self._waiting.append(row)
        self._waiting_rows += len(row[0])
        self._waiting_bytes += row[0].nbytes + row[1].nbytes + (0 if row[2] is None else row[2].nbytes)
        if self._waiting_rows >= BLOCK or self._waiting_bytes >= _HELD_BYTES:
            self._work()

    @property
    def level(self) -> int:
        """The highest level that is on: 0 none, 1, 2 or 3 for THRESHOLDS."""
        self._work()
        return self._detector.state.levels.level

    def is_loud(self, origins: Container[Origin]) -> bool:
        """Whether channels that look at `origins` are enough by themselves to hold level 2."""
        self._work()
        detector = self._detector
        if detector.state.levels.level < 2:
            return False
        watched = np.array([channel.origin in origins for channel in self.card.channels])
        stakes = detector.state.stakes * watched[None, :, None].astype(np.float32)
        return bool(detector.indices(stakes[None]).max() >= _LOUD)

    def reset(self) -> None:
        """Start anew, after somebody looked at an alarm; keep `evidence` before if it is to be kept.

        A level also goes off by itself when rows look like the card's again for long enough; the exact variant learns
        the rows of an alarm, so after a long one that takes long.
        """
        self._work()
        self._offered = 0
        self._detector.state = State.fresh(len(self.card.channels), (self._detector.state.seed + 1) & _WORD)

    def to_bytes(self) -> bytes:
        """The state, at most 6 kB."""
        self._work()
        return Saved(self._card_digest, self._offered, self._detector.state).to_bytes()

    def evidence(self) -> dict[str, Any]:
        """What is known, as JSON values.

        `log_e` is the natural logarithm of a channel's mean stake, now; `log_e_all_rows` that of the tolerant bets over
        all rows since the start, which adds up over independent nodes as counts do. `correlation_left` says whether the
        gap is wide enough: above 0 the rows looked at still resemble their neighbours, and the bounds are too good.
        """
        self._work()
        detector = self._detector
        state, levels = detector.state, detector.state.levels
        correlation = state.correlation()
        return {
            "schema": 1,
            "model": self.card.model_digest,
            "card": self._card_digest,
            "nodes": state.nodes,
            "rows": self._offered,
            "effective_rows": int(state.rows * (1 - correlation) / (1 + correlation)),
            "gap": self._gap,
            "rows_looked_at": state.rows,
            "correlation_left": correlation,
            "level": levels.level,
            "index": levels.index,
            "levels": [
                {
                    "level": k + 1,
                    "threshold": threshold,
                    "on": levels.on[k],
                    "alarms": levels.alarms[k],
                    "first_row": levels.first_row[k] or None,
                    "most_false_alarms": state.rows / threshold,
                }
                for k, threshold in enumerate(THRESHOLDS)
            ],
            "tolerance": detector.tolerance,
            "reference_error": self._reference_error,
            **{name: self._top(variant) for variant, name in enumerate(VARIANTS)},
            "channels": self._channel_rows(),
        }

    @cached_property
    def _reference_error(self) -> float:
        """Of the card, which does not change: it takes longer than all the rest of `evidence`."""
        return bets.reference_error(self.card.edges, self.card.counts)

    def _top(self, variant: int) -> dict[str, Any]:
        """The channel that says most in a variant, which way, and how much that is of an index."""
        detector = self._detector
        stakes = detector.state.stakes
        channel = int((stakes[variant].mean(1) * detector.shares).argmax())
        return {
            "index": float(detector.indices(stakes[None])[0, variant]),
            "channel": self.card.channels[channel].name,
            "direction": bets.DIRECTIONS[bets.DIRECTION[stakes[variant, channel].argmax()]],
        }

    def _channel_rows(self) -> list[dict[str, Any]]:
        state = self._detector.state
        log_e = self._detector.channel_log_e()
        sums = np.einsum("cb,cbk->ck", state.counts.astype(np.float64), self._detector.log_factors)
        all_rows = np.logaddexp.reduce(sums, axis=1) - np.log(bets.BETS)
        return [
            {
                "channel": channel.name,
                "log_e": {name: float(log_e[variant, j]) for variant, name in enumerate(VARIANTS)},
                "log_e_all_rows": float(all_rows[j]),
                "direction": bets.DIRECTIONS[bets.DIRECTION[state.stakes[:, j].sum(0).argmax()]],
                "missing": int(state.counts[j, MISSING]),
                "counts": state.counts[j].tolist(),
            }
            for j, channel in enumerate(self.card.channels)
        ]

    def _work(self) -> None:
        """Take in the rows that wait."""
        if not self._waiting:
            return
        x, y, embedding = zip(*self._waiting, strict=True)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
        hidden = None if embedding[0] is None else np.concatenate(embedding)
        values = self._channels.values(np.concatenate(x), np.concatenate(y), hidden)
        self._detector.update(bins_of(values, self.card.edges))
