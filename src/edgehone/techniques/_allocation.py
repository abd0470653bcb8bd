"""How many channels every group keeps, and which: from scores and one number, the share of the work that may stay.

Widths move in steps: a group keeps all its channels or a multiple of `step`, never fewer than `minimum`, since int8
kernels work on blocks of 8 and narrower layers save no time. Both ways take the least important classes of a group
first; they differ in which group gives next:

    global    the group whose next step is worth least (mean score of the classes it would lose)
    uniform   the group that has kept the largest part of itself

Steps are taken until the multiply-accumulates fall to the wanted share, so a smaller share keeps a subset of what a
larger one keeps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import RecipeError
from edgehone.graph.groups import Group
from edgehone.techniques.criteria import Scores

How = Literal["global", "uniform"]


def allocate(
    groups: Sequence[Group],
    scores: Scores,
    keep_ratio: float,
    how: How = "global",
    step: int = 8,
    minimum: int = 8,
) -> dict[str, tuple[int, ...]]:
    """Choose the classes that stay.

    Args:
        groups: of one graph.
        scores: group name → (width) importance, higher = more important.
        keep_ratio: share, above 0 and at most 1, of the MACs of all layers that a group touches.
        how: see the module docstring.
        step: channels by which a width shrinks.
        minimum: channels below which no group is cut.

    Returns:
        Group name → ascending classes that stay, for every group; as much as `step` and `minimum` allow where the
        share cannot be reached.

    Raises:
        RecipeError: a setting out of range, or scores that are missing, of the wrong length or not finite.
    """
    _check(groups, scores, keep_ratio, how, step, minimum)
    order = {group.name: np.argsort(-scores[group.name], kind="stable") for group in groups}  # best first
    widths = {group.name: group.width for group in groups}
    work = _Work(groups)
    for move in _moves(groups, scores, order, how, step, minimum):
        if work.share() <= keep_ratio:
            break
        work.shrink(move.group, widths[move.group.name] - move.width)
        widths[move.group.name] = move.width
    return {name: tuple(sorted(order[name][:width].tolist())) for name, width in widths.items()}


@dataclass(frozen=True)
class _Move:
    """A group goes to its next smaller width; the lowest `price` goes first."""

    group: Group
    width: int
    price: float


def _moves(
    groups: Sequence[Group],
    scores: Scores,
    order: Mapping[str, NDArray[np.intp]],
    how: How,
    step: int,
    minimum: int,
) -> list[_Move]:
    moves = []
    for group in groups:
        ranked = scores[group.name][order[group.name]]
        width = group.width
        price = 0.0
        for smaller in _smaller_widths(group, step, minimum):
            worth = float(ranked[smaller:width].mean()) if how == "global" else 1 - smaller / group.width
            price = max(price, worth)  # a short first step may be worth more than the next: keep a group's own order
            moves.append(_Move(group, smaller, price))
            width = smaller
    return sorted(moves, key=lambda move: move.price)  # stable, so a group's moves stay in order


def _smaller_widths(group: Group, step: int, minimum: int) -> Iterator[int]:
    """Widths below the present one, largest first."""
    stride = group.step(step)
    for width in range((group.width - 1) // stride * stride, 0, -stride):
        if width * group.channels_per_class >= minimum:
            yield width


class _Work:
    """MACs of every layer as groups shrink: a layer's are the product of its kept outputs and its kept inputs."""

    def __init__(self, groups: Sequence[Group]) -> None:
        links = [link for group in groups for link in (*group.producers, *group.consumers)]
        self._macs = {link.node: link.macs for link in links}
        self._kept: dict[tuple[str, bool], float] = defaultdict(lambda: 1.0)  # (node, its output side) → share
        self._all = sum(self._macs.values())
        self._now = float(self._all)

    def share(self) -> float:
        return self._now / self._all if self._all else 0.0

    def shrink(self, group: Group, classes: int) -> None:
        for links, output in ((group.producers, True), (group.consumers, False)):
            for link in links:
                self._now -= self._of(link.node)
                self._kept[link.node, output] -= classes * link.share
                self._now += self._of(link.node)

    def _of(self, node: str) -> float:
        return self._macs[node] * self._kept[node, True] * self._kept[node, False]


def _check(groups: Sequence[Group], scores: Scores, keep_ratio: float, how: str, step: int, minimum: int) -> None:
    if not isfinite(keep_ratio) or not 0 < keep_ratio <= 1:
        raise RecipeError(f"a keep ratio of {keep_ratio} is not above 0 and at most 1", where="allocation")
    if how not in ("global", "uniform"):
        raise RecipeError(f"allocation {how!r} is not known", where="allocation", do="choose global or uniform")
    if step < 1 or minimum < 1:
        raise RecipeError(f"step {step} and minimum {minimum} must be 1 or more", where="allocation")
    for group in groups:
        found = scores.get(group.name)
        if found is None or found.shape != (group.width,) or not np.isfinite(found).all():
            raise RecipeError(f"it needs {group.width} finite scores", where=f"group {group.name!r}")
