"""Which widths and which branches, for a budget: the smallest worth lost among all that hold it. Pure: prices and
worths in, a choice out.

A mixed integer program, solved exactly (HiGHS through scipy). Every group of channels takes one of its widths, every
branch stays or goes. A layer's cost depends on the widths on both of its sides, so each pair of widths is a variable
of its own, tied to its two groups (a transport problem: tight, so the solver is quick). Groups inside a branch that
goes take no width and lose nothing more. Knapsack over a latency table as in HALP (Shen et al. 2022, arXiv:2110.10811,
section 3.2); branches and widths in one program are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

_GAP = 1e-3  # of the optimum: worths are not known better
_LIMIT_S = 20.0


@dataclass(frozen=True)
class Choice:
    """A group and the widths it may take, with what each loses. The loss of a width counts when the group exists.

    Attributes:
        name: of the group.
        lost: width → worth lost.
        branch: the branch that the whole group lies in; None where some of it stays in any case.
    """

    name: str
    lost: Mapping[int, float]
    branch: str | None = None


@dataclass(frozen=True)
class Layer:
    """What a layer costs.

    Attributes:
        groups: up to two groups whose widths its cost depends on.
        costs: widths of those groups, in that order → cost in every quantity that it adds to, such as "us", "bytes".
        branch: the branch that it goes with.
    """

    groups: tuple[str, ...]
    costs: Mapping[tuple[int, ...], Mapping[str, float]]
    branch: str | None = None


@dataclass(frozen=True)
class Problem:
    """All that may be chosen.

    Attributes:
        choices: the groups.
        branches: branch → worth lost when it goes.
        layers: everything that costs.
        within: branch → the branch that it lies in.
    """

    choices: Sequence[Choice]
    branches: Mapping[str, float]
    layers: Sequence[Layer]
    within: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Solution:
    """A choice that holds the limits.

    Attributes:
        widths: group → width, for every group that is left.
        gone: branches that leave.
        cost: quantity → total.
        lost: worth lost.
    """

    widths: Mapping[str, int]
    gone: frozenset[str]
    cost: Mapping[str, float]
    lost: float


def solve(problem: Problem, limits: Mapping[str, float]) -> Solution | None:
    """The choice that loses least and costs at most `limits` (quantity → most); None when nothing does."""
    program = _Program(problem, tuple(limits))
    return program.solve(limits)


def smallest(problem: Problem, quantity: str) -> Solution | None:
    """The choice that costs least in one quantity, whatever it loses."""
    return _Program(problem, (quantity,)).solve({}, cheapest=quantity)


class _Program:
    """The variables: one per width of a group, one per branch (1 = stays), one per pair of widths of a layer."""

    def __init__(self, problem: Problem, quantities: tuple[str, ...]) -> None:
        self._problem, self._quantities = problem, quantities
        self._width: dict[tuple[str, int], int] = {}
        self._stays: dict[str, int] = {}
        self._lost: list[float] = []
        self._whole: list[bool] = []
        self._rows: list[tuple[dict[int, float], float, float]] = []  # coefficients, low, high
        self._cost: dict[str, dict[int, float]] = {q: {} for q in quantities}
        self._fixed = dict.fromkeys(quantities, 0.0)
        self._base = sum(problem.branches.values())
        for name, lost in problem.branches.items():
            self._stays[name] = self._add(-lost, whole=True)  # what leaves loses; what stays takes that off again
        for choice in problem.choices:
            for width, lost in choice.lost.items():
                self._width[choice.name, width] = self._add(lost, whole=True)
            ones = {self._width[choice.name, width]: 1.0 for width in choice.lost}
            self._tie(ones, choice.branch)
        for inner, outer in problem.within.items():
            self._rows.append(({self._stays[inner]: 1.0, self._stays[outer]: -1.0}, -np.inf, 0.0))
        self._choices = {choice.name: choice for choice in problem.choices}
        for layer in problem.layers:
            self._price(layer)

    def solve(self, limits: Mapping[str, float], cheapest: str | None = None) -> Solution | None:
        rows = list(self._rows)
        for quantity, most in limits.items():
            rows.append((self._cost[quantity], -np.inf, most - self._fixed[quantity]))
        objective = np.array(self._lost)
        if cheapest is not None:
            objective = np.zeros(len(self._lost))
            for index, cost in self._cost[cheapest].items():
                objective[index] = cost
        found = milp(
            objective,
            constraints=_constraints(rows, len(objective)),
            integrality=np.array(self._whole, dtype=np.int8),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": _GAP, "time_limit": _LIMIT_S, "presolve": False},  # it loses optima: see the tests
        )
        return None if found.x is None else self._read(found.x)

    def _read(self, x: np.ndarray) -> Solution:
        widths = {name: width for (name, width), index in self._width.items() if x[index] > 0.5}
        gone = frozenset(name for name, index in self._stays.items() if x[index] < 0.5)
        cost = {
            q: self._fixed[q] + float(sum(c * x[index] for index, c in self._cost[q].items())) for q in self._quantities
        }
        return Solution(widths, gone, cost, self._base + float(np.dot(self._lost, x)))

    def _add(self, lost: float, *, whole: bool) -> int:
        self._lost.append(lost)
        self._whole.append(whole)
        return len(self._lost) - 1

    def _tie(self, ones: Mapping[int, float], branch: str | None) -> None:
        """Exactly one of these is chosen; none when their branch goes."""
        if branch is None:
            self._rows.append((dict(ones), 1.0, 1.0))
        else:
            self._rows.append(({**ones, self._stays[branch]: -1.0}, 0.0, 0.0))

    def _price(self, layer: Layer) -> None:
        free = [name for name in layer.groups if len(self._choices[name].lost) > 0]
        if not free:
            self._pay(layer.costs[()], None if layer.branch is None else self._stays[layer.branch])
            return
        inside = layer.branch is None or self._choices[free[0]].branch == layer.branch
        if len(free) == 1 and inside:
            for (width,), cost in layer.costs.items():
                self._pay(cost, self._width[free[0], width])
            return
        pairs = {widths: self._add(0.0, whole=False) for widths in layer.costs}
        for widths, index in pairs.items():
            self._pay(layer.costs[widths], index)
        self._tie(dict.fromkeys(pairs.values(), 1.0), layer.branch)
        for place, name in enumerate(free):
            for width in self._choices[name].lost:
                of = {index: 1.0 for widths, index in pairs.items() if widths[place] == width}
                self._rows.append(({**of, self._width[name, width]: -1.0}, -np.inf, 0.0))

    def _pay(self, cost: Mapping[str, float], index: int | None) -> None:
        for quantity in self._quantities:
            if index is None:
                self._fixed[quantity] += cost.get(quantity, 0.0)
            elif quantity in cost:
                self._cost[quantity][index] = self._cost[quantity].get(index, 0.0) + cost[quantity]


def _constraints(rows: Sequence[tuple[Mapping[int, float], float, float]], variables: int) -> LinearConstraint:
    at = [(row, index, value) for row, (found, _, _) in enumerate(rows) for index, value in found.items()]
    values = [value for _, _, value in at]
    places = ([row for row, _, _ in at], [index for _, index, _ in at])
    matrix = coo_array((values, places), shape=(len(rows), variables)).tocsr()
    return LinearConstraint(matrix, [low for _, low, _ in rows], [high for _, _, high in rows])
