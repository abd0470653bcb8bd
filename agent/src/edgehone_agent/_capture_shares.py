"""Which samples are kept: three shares of the bytes, each with pools, each pool with a threshold. Pure decisions.

    share         part   pools              rank of a sample (low ranks stay)
    informative   60 %   one                minus its informativeness
    stratified    30 %   one per stratum    a random number
    uniform       10 %   one                another random number

- A sample goes into every pool whose threshold is above its rank, and stays while one pool holds it; it counts in each.
- A share that is over its bytes drops the highest rank of its largest pool, and that rank is the pool's threshold from
  then on. So strata come to equal bytes, and small ones keep everything.
- A pool that has shrunk, since samples grew old or left, lets in more again: twice the threshold below half of its fair
  bytes, no threshold when it is empty.
- The random numbers are uniform on [0, 1), so a sample of the uniform or stratified share was kept with a probability
  that is known: the least threshold of its pool since it came. (Adaptive threshold sampling: Ting 2022, "Adaptive
  Threshold Sampling", SIGMOD; with one size and one pool it is bottom-k sampling, Cohen and Kaplan 2007.)
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

PARTS = {"informative": 0.6, "stratified": 0.3, "uniform": 0.1}
LABELLED_RANK = -1e300  # of a sample that feedback has labelled: it is worth more than any score
MOST_STRATA = 256
OTHER = "other"  # the stratum of those beyond that
_HIGHEST_SCORE = 1e299
_RAISE_BELOW = 0.5  # of a pool's fair bytes
_LEAST = 1e-9


class WrongValueError(sqlite3.DatabaseError):
    """A database that is whole holds a value that was never written there: a bit of it has turned."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class PoolName(NamedTuple):
    """A pool: its share and its stratum ("" where there is only one)."""

    share: str
    stratum: str


INFORMATIVE = PoolName("informative", "")
UNIFORM = PoolName("uniform", "")


class Place(NamedTuple):
    """A sample's place in a pool; `propensity` is the pool's threshold when it came, None where ranks are scores."""

    pool: PoolName
    rank: float
    propensity: float | None


@dataclass
class Pool:
    """What a pool holds, and the rank below which it lets samples in."""

    threshold: float
    size_bytes: int = 0
    samples: int = 0


class Raised(NamedTuple):
    """A pool that lets in more from now on."""

    pool: PoolName
    before: float
    after: float


def no_threshold(share: str) -> float:
    """The threshold of a pool that lets everything in."""
    return math.inf if share == "informative" else 1.0


def clean_score(informativeness: float) -> float:
    """A number that ranks: NaN counts as nothing, and infinity as much."""
    score = float(informativeness)
    return 0.0 if math.isnan(score) else max(-_HIGHEST_SCORE, min(score, _HIGHEST_SCORE))


class Shares:
    """The pools of a store. One thread changes them; `choose` may run in any."""

    def __init__(self, max_bytes: int) -> None:
        self.budgets = {share: int(part * max_bytes) for share, part in PARTS.items()}
        self.pools: dict[PoolName, Pool] = {}

    def choose(self, stratum: str, score: float, draws: tuple[float, float], size_bytes: int) -> list[Place]:
        """The places of a new sample: empty when it is not kept.

        Args:
            stratum: what it is like, such as the predicted class.
            score: how much it would teach, from `clean_score`.
            draws: two independent random numbers from [0, 1).
            size_bytes: what it takes; a share that it does not fit into does not hold it.
        """
        names = (INFORMATIVE, PoolName("stratified", stratum), UNIFORM)
        places = []
        for name, rank in zip(names, (-score, *draws), strict=True):
            if size_bytes <= self.budgets[name.share] and (place := self.admit(name, rank)) is not None:
                places.append(place)
        return places

    def admit(self, name: PoolName, rank: float, propensity: float = 1.0) -> Place | None:
        """The place of a sample in a pool as it is now; None when its rank is too high."""
        pool = self.pools.get(name)
        if pool is None:
            name = self._known(name)
            pool = self.pools.get(name)
        threshold = no_threshold(name.share) if pool is None else pool.threshold
        if not rank < threshold:
            return None
        return Place(name, rank, None if name.share == "informative" else min(propensity, threshold))

    def add(self, name: PoolName, size_bytes: int) -> None:
        """Count a sample in."""
        pool = self.pools.setdefault(name, Pool(no_threshold(name.share)))
        pool.size_bytes += size_bytes
        pool.samples += 1

    def remove(self, name: PoolName, size_bytes: int) -> None:
        """Count a sample out."""
        pool = self.pools[name]
        pool.size_bytes -= size_bytes
        pool.samples -= 1

    def limit(self, name: PoolName, threshold: float) -> None:
        """Set a pool's threshold to the one that was in force."""
        self.pools.setdefault(name, Pool(threshold)).threshold = threshold

    def used_bytes(self, share: str) -> int:
        """What a share takes."""
        return sum(pool.size_bytes for name, pool in self.pools.items() if name.share == share)

    def overfull(self) -> PoolName | None:
        """The pool that must drop its highest rank next; None when every share keeps to its bytes."""
        for share, budget in self.budgets.items():
            if self.used_bytes(share) > budget:
                names = [name for name in self.pools if name.share == share]
                return max(names, key=lambda name: (self.pools[name].size_bytes, name))
        return None

    def dropped(self, name: PoolName, rank: float, size_bytes: int) -> None:
        """A pool has dropped its highest rank for want of bytes."""
        self.remove(name, size_bytes)
        self.pools[name].threshold = min(self.pools[name].threshold, rank)

    def raise_thresholds(self) -> Iterator[Raised]:
        """Let the pools that have shrunk take in more, and forget the empty ones."""
        for name, pool in list(self.pools.items()):
            peers = sum(1 for other, held in self.pools.items() if other.share == name.share and held.samples)
            fair = self.budgets[name.share] / max(peers, 1)
            free, before = no_threshold(name.share), pool.threshold
            if before < free and pool.size_bytes < _RAISE_BELOW * fair:
                probable = pool.samples and name.share != "informative"
                pool.threshold = min(free, max(2 * before, _LEAST)) if probable else free
                yield Raised(name, before, pool.threshold)
            if not pool.samples:
                del self.pools[name]

    def _known(self, name: PoolName) -> PoolName:
        """The pool itself, or the one for all strata that are too many."""
        too_many = len(self.pools) >= MOST_STRATA and name.share == "stratified"
        return PoolName("stratified", OTHER) if too_many else name
