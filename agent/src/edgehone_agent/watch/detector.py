"""The detector: evidence that a stream of rows differs from a card, with a bound on false alarms.

Two variants run side by side on the same bins.

- **exact**: a row's rank among the validation rows *and all rows seen since*, with ties broken by a seeded coin, is
  uniform and independent from row to row as long as rows are exchangeable (conformal p-values: Vovk et al.,
  "Testing randomness online", 2021). No tolerance, no assumption on the reference's size. Each channel is a fair game
  by itself, so the largest is compared with the threshold times the number of channels (union bound).
- **tolerant**: factors by bin from the frozen card, with a tolerance (see `bets.tolerant_factors`). Small differences
  are not reported, and a slow change is not learnt away. Channels share one reference, so their mean may be taken.

Each gets half of the false alarms: the index is the larger of the two, halved.

State: counts of the rows seen, and one stake per variant, channel and bet. Counts add over nodes and stakes do, so
`merge` of two states is a state, and the bound then speaks of the rows of both together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.watch import bets
from edgehone_agent.watch.coins import coins
from edgehone_agent.watch.levels import Levels, grow
from edgehone_agent.wire.card import BINS, Card, Origin

Bins = NDArray[np.uint8]
Floats = NDArray[np.float64]

BLOCK = 64  # rows worked on at a time: fits the cache, and a count within fits uint8
VARIANTS = ("exact", "tolerant")
_DISTANCE_SHARE = 4.0  # of the false alarms, against 1 for another channel: it sees changes that no single one shows
_UNIT = 2**16  # ranks as integers, so that their sums do not depend on the cut into blocks
_NOISE = 4.0  # standard errors; a correlation below this is chance among 32 channels
_AFTER = (np.arange(BINS + 1) > np.arange(BINS)[:, None]).astype(np.uint8)  # (bin, k): 1 where k is above the bin


@dataclass
class State:
    """What the detector has seen.

    Attributes:
        rows: looked at, after thinning.
        seed: of the coin that breaks ties.
        counts: (channels, BINS) rows of the field.
        stakes: (2, channels, BETS): exact, tolerant.
        levels: what is on.
        last: (channels,) ranks of the last row, in units of 2**-16 around the middle.
        steps: (channels,) sums of the squared differences of neighbouring ranks, in those units squared.
        nodes: how many states were merged into this one.
    """

    rows: int
    seed: int
    counts: NDArray[np.uint32]
    stakes: NDArray[np.float32]
    last: NDArray[np.int64]
    steps: NDArray[np.int64]
    levels: Levels = field(default_factory=Levels)
    nodes: int = 1

    @classmethod
    def fresh(cls, channels: int, seed: int) -> State:
        """Nothing seen yet."""
        counts = np.zeros((channels, BINS), dtype=np.uint32)
        stakes = np.zeros((2, channels, bets.BETS), dtype=np.float32)
        return cls(0, seed, counts, stakes, np.zeros(channels, dtype=np.int64), np.zeros(channels, dtype=np.int64))

    def correlation(self) -> float:
        """The largest correlation of a channel's ranks from one row to the next, beyond what chance gives; 0 to 1.

        From squared differences of neighbours (von Neumann's ratio), which a change of level does not touch much.
        """
        pairs = self.rows - self.nodes
        if pairs < 1:
            return 0.0
        largest = 1 - 6 * float(self.steps.min()) / _UNIT**2 / pairs  # independent uniform ranks: 1/6
        return min(largest, 1.0) if largest > _NOISE / np.sqrt(pairs) else 0.0


class Detector:
    """Takes in rows of bins and keeps a `State`. Not for several threads at once.

    Args:
        card: the reference.
        state: to go on from.
        tolerance: instead of the card's.
    """

    def __init__(self, card: Card, state: State, *, tolerance: float | None = None) -> None:
        self.card = card
        self.state = state
        self.tolerance = card.tolerance if tolerance is None else tolerance
        factors = bets.tolerant_factors(card.edges, card.counts, self.tolerance)
        self.log_factors = np.log(factors)  # (channels, BINS, BETS)
        self._factors = factors.astype(np.float32).reshape(-1, bets.BETS)
        self._offsets = np.arange(len(card.channels)) * BINS
        share = np.array([_DISTANCE_SHARE if c.origin is Origin.DISTANCE else 1.0 for c in card.channels])
        self.shares = share / share.sum()
        if state.rows:  # a merged state does not know its index yet; for another this changes nothing
            state.levels.follow(self.indices(state.stakes[None]).max(1), state.rows - 1)

    def update(self, bins: Bins) -> None:
        """Take in rows (N, channels) of bins. Cutting them into several calls changes nothing, bit for bit."""
        for start in range(0, len(bins), BLOCK):
            self._block(bins[start : start + BLOCK])

    def _block(self, bins: Bins) -> None:
        state = self.state
        factors = np.empty((len(bins), 2, bins.shape[1], bets.BETS), dtype=np.float32)
        factors[:, 0] = bets.exact_factors(self._ranks(bins))
        factors[:, 1] = self._factors.take(bins + self._offsets, axis=0)
        history = grow(state.stakes, factors, state.rows)
        state.levels.follow(self.indices(history).max(1), state.rows)
        state.rows += len(bins)

    def indices(self, stakes: NDArray[np.float32]) -> Floats:
        """The index of either variant: stakes (N, 2, channels, BETS) to (N, 2); levels follow the larger one."""
        total = stakes[..., 0].astype(np.float64)
        for bet in range(1, bets.BETS):  # the same order of additions whatever N is
            total += stakes[..., bet]
        share = total * (self.shares / bets.BETS)  # (N, 2, channels)
        return np.stack([share[:, 0].max(1), share[:, 1].sum(1)], axis=1) / 2

    def _ranks(self, bins: Bins) -> NDArray[np.float32]:
        """Ranks in (0, 1) of each value among the card's rows, the rows before and itself; adds the rows to the counts.

        Exact integers until the last division, so the cut into blocks does not matter.
        """
        n, channels = bins.shape
        state = self.state
        # `seen`: how many values before this block lie below bin k. `within`: how many in it, up to and with a row.
        seen = np.zeros((channels, BINS + 1), dtype=np.int64)
        np.cumsum(self.card.counts.astype(np.int64) + state.counts, axis=1, out=seen[:, 1:])
        within = _AFTER.take(bins, axis=0)  # (n, channels, BINS + 1)
        for i in range(1, n):  # a running sum; four times as fast as cumsum along the first axis
            within[i] += within[i - 1]
        here = np.arange(channels) * (BINS + 1) + bins
        flat = np.arange(n)[:, None] * (channels * (BINS + 1)) + here
        less = seen.take(here) + within.take(flat)  # a row is not below its own bin
        equal = seen.take(here + 1) + within.take(flat + 1) - less  # but counts in it
        state.counts += np.diff(within[-1]).astype(np.uint32)
        total = seen[0, -1] + np.arange(1, n + 1)
        ranks: Floats = (less + coins(state.seed, state.rows, n, channels) * equal) / total[:, None]
        self._correlate((ranks * _UNIT).astype(np.int64) - _UNIT // 2)
        rounded: NDArray[np.float32] = ranks.astype(np.float32)
        return rounded

    def _correlate(self, ranks: NDArray[np.int64]) -> None:
        state = self.state
        before = ranks[:1] if not state.rows else state.last[None]
        state.steps += np.square(np.diff(ranks, axis=0, prepend=before)).sum(0)
        state.last = ranks[-1]

    def channel_log_e(self) -> Floats:
        """(2, channels): log of each channel's mean stake, exact and tolerant."""
        log_e: Floats = np.log(np.maximum(self.state.stakes.mean(2, dtype=np.float64), 1e-30))
        return log_e
