"""Which nodes try a release first: chosen by the rollout's id, so that asking again gives the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nsmallest

from edgehone.fleet.observed import NodeView, position


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
    tags: dict[int, str] = {}  # → as text; many nodes share the same tags
    kinds: dict[tuple[str, str], list[NodeView]] = {}
    for view in candidates:
        told = tags.get(id(view.tags))
        if told is None:
            told = tags[id(view.tags)] = repr(sorted(view.tags.items()))
        kinds.setdefault((view.cohort, told), []).append(view)
    order = sorted(kinds, key=lambda kind: (kind[0] not in first, position(rollout, "\0".join(kind))))
    turns: list[tuple[bool, int, int, NodeView]] = []
    for place, kind in enumerate(order):
        members = nsmallest(count, kinds[kind], key=lambda view: (view.place(rollout), view.id))
        turns += [(kind[0] not in first, turn, place, view) for turn, view in enumerate(members)]
    turns.sort(key=lambda found: found[:3])
    return [view for *_, view in turns[:count]]
