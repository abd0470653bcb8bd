"""Which nodes try a release first: chosen by the rollout's id, so that asking again gives the same. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from edgehone.fleet.observed import NodeView


def position(rollout: str, node: str) -> float:
    """Where a node stands in the order of a rollout, in [0, 1), evenly spread: a stage of 25 % has those below 0.25."""
    digest = hashlib.sha256(f"{rollout}\0{node}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def most(share: float, least: int, count: int) -> int:
    """How many of `count` nodes a share is, rounded down; at least `least`."""
    return min(count, max(least, int(share * count + 1e-9)))


def spread(rollout: str, candidates: Iterable[NodeView], count: int, *, first: Sequence[str] = ()) -> list[NodeView]:
    """Pick nodes, one from each kind in turn, a kind being a cohort with the same tags.

    Args:
        rollout: its id, which shuffles kinds and nodes.
        candidates: to pick from.
        count: how many at most.
        first: cohorts whose nodes come before all others.

    Returns:
        Up to `count` nodes.
    """
    kinds: dict[tuple[str, str], list[NodeView]] = {}
    for view in candidates:
        kinds.setdefault((view.cohort, repr(sorted(view.tags.items()))), []).append(view)
    order = sorted(kinds, key=lambda kind: (kind[0] not in first, position(rollout, "\0".join(kind))))
    turns: list[tuple[bool, int, int, NodeView]] = []
    for place, kind in enumerate(order):
        members = sorted(kinds[kind], key=lambda view: (position(rollout, view.id), view.id))
        turns += [(kind[0] not in first, turn, place, view) for turn, view in enumerate(members)]
    turns.sort(key=lambda found: found[:3])
    return [view for *_, view in turns[:count]]
