"""Widths and depth together, for a latency: how much each group and each branch is worth, what each layer costs, and
the knapsack between them.

The rules, in order:
1. Worth is measured, not guessed: the rise of the training loss without a branch, or with a group at half its width,
   batch-norm statistics re-estimated. Between measured widths the scores of the criterion share the rise out.
2. Costs are the target's prices (`prices.py`), for every pair of widths that a layer may get.
3. Losses do not add up for strong cuts, so a cut takes at most 40 % of the time off before worth is measured again.
4. The sum of prices is not the network: the cut network is timed, and the goal moved by what the sum was off.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from edgehone.budget import Budget
from edgehone.graph.branches import Branch, branches, without
from edgehone.graph.cost import lifetimes, macs
from edgehone.graph.cut import cut
from edgehone.graph.fold import deploy
from edgehone.graph.groups import Group, channel_groups
from edgehone.graph.ir import WEIGHTED, Graph, Node, Shape
from edgehone.search.knapsack import Choice, Layer, Problem, Solution, smallest, solve
from edgehone.search.prices import FREE, Op, PriceList, op_of, ops
from edgehone.search.target import Target
from edgehone.search.widths import Candidate, bad_end_us, price
from edgehone.techniques import Context
from edgehone.techniques._sensitivity import Sensitivity
from edgehone.techniques.criteria import Scores
from edgehone.techniques.prune import technique as prune

STRONGEST = 0.6  # of the latency that stays in one step
NEAR = 1.03  # of the goal: near enough
IDLE_WORTH = 0.01  # of the loss, for all of the work together: between two that measure nothing, the larger one stays
_TRIES = 4
_MOST_WIDTHS = 8
_STEP = 8
_OVERHEAD_BYTES = 300  # of a layer in a .tflite file: its tensors, its operator, its scales
_PER_CHANNEL_BYTES = 16  # bias, scale and zero point


@dataclass(frozen=True)
class Worth:
    """What is lost, as measured: a rise of the training loss.

    Attributes:
        branches: branch → loss without it.
        halves: group → loss when it is cut to half its width.
    """

    branches: Mapping[str, float]
    halves: Mapping[str, float]


class Allocation:
    """Cuts of one parent by the knapsack.

    Args:
        graph: the parent's training graph.
        criterion: which channels of a group leave first.
        context: data for scores, worth and ranges.
        target: where latency is judged.
        prices: what layers cost there.
        progress: told the share of the work that is done.
    """

    def __init__(
        self, graph: Graph, criterion: str, context: Context, target: Target, prices: PriceList,
        progress: Callable[[float], None],
    ) -> None:  # fmt: skip
        self._graph, self._criterion, self._context = graph, criterion, context
        self._target, self._prices, self._progress = target, prices, progress
        self._start_macs = max(1, macs(graph))
        self._first: _Stage | None = None

    def floor(self) -> Candidate:
        """The fastest cut there is."""
        stage = self._stage(self._graph)
        found = smallest(stage.problem, "us")
        return self._priced(stage.cut(found) if found is not None else self._graph)

    def reaching(self, latency_us: float) -> Candidate | None:
        """The most worthy cut that takes at most this long, None when no cut does."""
        return self._search(Budget(latency_us=latency_us), lambda candidate: candidate.latency.value)

    def holding(self, budget: Budget) -> Candidate | None:
        """The most worthy cut that holds every limit on cost, None when no cut does."""
        return self._search(budget, bad_end_us)

    def _search(self, budget: Budget, latency_us: Callable[[Candidate], float]) -> Candidate | None:
        """Cut in steps until the sum of prices is near, then move the goal by what it was off."""
        graph = self._graph
        goal_us = budget.latency_us
        if goal_us is not None:
            while self._sum_us(graph) * STRONGEST > goal_us:
                stage = self._stage(graph)
                found = solve(stage.problem, stage.limits(replace(budget, latency_us=self._sum_us(graph) * STRONGEST)))
                if found is None:
                    return None
                smaller = stage.cut(found)
                if macs(smaller) >= macs(graph):
                    break
                graph = smaller
        stage = self._stage(graph)
        asked, most = budget, NEAR if latency_us is not bad_end_us else 1.0
        best: Candidate | None = None
        for _ in range(_TRIES):
            found = solve(stage.problem, stage.limits(asked))
            if found is None:
                break
            candidate = self._priced(stage.cut(found))
            over = _over(candidate, budget, latency_us(candidate))
            if over <= most and (best is None or candidate.latency.value > best.latency.value):
                best = candidate
            if 1 / NEAR <= over <= 1.0:
                break
            asked = _moved(budget, candidate, latency_us(candidate), stage.sums(found))
        return best

    def _priced(self, graph: Graph) -> Candidate:
        graph = prune.recalibrate(graph, self._context).graph
        return price(macs(graph) / self._start_macs, graph, self._context, self._target)

    def _sum_us(self, graph: Graph) -> float:
        deployed = deploy(graph)
        self._prices.fill(ops(deployed))
        return self._prices.network_us(deployed)

    def _stage(self, graph: Graph) -> _Stage:
        if graph is self._graph and self._first is not None:
            return self._first
        stage = _Stage(graph, self._criterion, self._context, self._prices, self._progress)
        if graph is self._graph:
            self._first = stage
        return stage


def _over(candidate: Candidate, budget: Budget, latency_us: float) -> float:
    """By which factor a candidate breaks the limit it breaks most; below 1 it holds all."""
    pairs = (
        (latency_us, budget.latency_us),
        (candidate.size_bytes, budget.size_bytes),
        (candidate.memory_bytes, budget.memory_bytes),
    )
    return max((found / limit for found, limit in pairs if limit is not None), default=0.0)


def _moved(budget: Budget, candidate: Candidate, latency_us: float, cost: Mapping[str, float]) -> Budget:
    """The limits to put on sums, so that what is found holds those that were wanted: by what the sums were off."""
    moved = budget
    if budget.latency_us is not None:
        moved = replace(moved, latency_us=budget.latency_us * cost["us"] / max(latency_us, 1e-9))
    if budget.size_bytes is not None:
        moved = replace(moved, size_bytes=max(1, int(budget.size_bytes * cost["bytes"] / candidate.size_bytes)))
    if budget.memory_bytes is not None:
        moved = replace(moved, memory_bytes=max(1, int(budget.memory_bytes * cost["memory"] / candidate.memory_bytes)))
    return moved


class _Stage:
    """One step of cutting: the problem of a graph, and how a solution becomes a smaller graph."""

    def __init__(
        self, graph: Graph, criterion: str, context: Context, prices: PriceList, progress: Callable[[float], None]
    ) -> None:
        self._graph = graph
        self._groups = {group.name: group for group in channel_groups(graph)}
        self._branches = {branch.name: branch for branch in branches(graph)}
        self._scores: Scores = prune.scores(graph, criterion, context) if self._groups else {}
        self._order = {name: np.argsort(-self._scores[name], kind="stable") for name in self._groups}
        worth = measure_worth(graph, self._half, context, tuple(self._groups.values()), progress)
        sizes = _Sizes(deploy(graph), self._groups, self._branches)
        self.problem = sizes.problem(worth, self._lost, prices, progress)
        self._start_us = prices.start_us
        self._moments = sizes.moments

    def limits(self, budget: Budget) -> dict[str, float]:
        """The limits on sums; memory is a limit on every moment of a run."""
        found: dict[str, float] = {}
        if budget.latency_us is not None:
            found["us"] = budget.latency_us - self._start_us
        if budget.size_bytes is not None:
            found["bytes"] = float(budget.size_bytes)
        if budget.memory_bytes is not None:
            found |= dict.fromkeys(self._moments, float(budget.memory_bytes))
        return found

    def sums(self, solution: Solution) -> dict[str, float]:
        """What a solution costs by the prices, the start included."""
        found = {q: total for q, total in solution.cost.items() if q not in self._moments}
        if "us" in found:
            found["us"] += self._start_us
        return found | {"memory": max((solution.cost.get(moment, 0.0) for moment in self._moments), default=0.0)}

    def cut(self, solution: Solution) -> Graph:
        """The graph that a solution describes; its statistics not yet re-estimated."""
        keep = {name: self._best(name, width) for name, width in solution.widths.items()}
        return without(cut(self._graph, keep), solution.gone)

    def _best(self, name: str, width: int) -> tuple[int, ...]:
        return tuple(sorted(self._order[name][:width].tolist()))

    def _half(self, group: Group) -> Graph:
        return cut(self._graph, {group.name: self._best(group.name, _half_of(group))})

    def _lost(self, group: Group, half_lost: float) -> dict[int, float]:
        """Width → loss: the measured loss at half the width, shared out by the scores of what leaves."""
        ranked = np.maximum(self._scores[group.name][self._order[group.name]].astype(np.float64), 0.0) + 1e-12
        gone = float(ranked[_half_of(group) :].sum())
        return {w: half_lost * float(ranked[w:].sum()) / gone for w in widths_of(group)}


def measure_worth(
    graph: Graph, half: Callable[[Group], Graph], context: Context, groups: Sequence[Group],
    progress: Callable[[float], None],
) -> Worth:  # fmt: skip
    """Measure every branch and every group that has a narrower width."""
    measured = Sensitivity(context)
    found = branches(graph)
    narrow = [group for group in groups if len(widths_of(group)) > 1]
    base, total, work = measured.loss(graph), len(found) + len(narrow), max(1, macs(graph))
    lost: dict[str, float] = {}
    halves: dict[str, float] = {}

    def rise(smaller: Graph) -> float:
        """Of the loss; what costs nothing at once is worth a little all the same, by its share of the work."""
        return max(0.0, measured.loss(smaller) - base) + IDLE_WORTH * base * (1 - macs(smaller) / work)

    for branch in found:
        lost[branch.name] = rise(without(graph, [branch.name]))
        progress(len(lost) / total)
    for group in narrow:
        halves[group.name] = rise(half(group))
        progress((len(lost) + len(halves)) / total)
    return Worth(lost, halves)


def widths_of(group: Group) -> list[int]:
    """The widths a group may take, largest last: steps of 8 channels, at most eight of them, and its own."""
    step = group.step(_STEP)
    steps = list(range(step, group.width, step))
    if len(steps) > _MOST_WIDTHS - 1:
        places = np.unique(np.geomspace(1, len(steps), _MOST_WIDTHS - 1).round().astype(int))
        steps = [steps[place - 1] for place in places]
    return [*steps, group.width]


def _half_of(group: Group) -> int:
    return max(1, group.width // 2)


class _Sizes:
    """Shapes, and with them costs, of every layer under other widths."""

    def __init__(self, deployed: Graph, groups: Mapping[str, Group], branches_: Mapping[str, Branch]) -> None:
        self._deployed, self._groups, self._branches = deployed, groups, branches_
        self._touching: dict[str, list[tuple[Group, int, int]]] = {}
        for group in groups.values():
            for slots in group.tensors:
                self._touching.setdefault(slots.name, []).append((group, slots.axis, slots.indices.shape[1]))

    def problem(
        self, worth: Worth, lost: Callable[[Group, float], dict[int, float]], prices: PriceList,
        progress: Callable[[float], None],
    ) -> Problem:  # fmt: skip
        inner = {node: name for name, branch in self._by_size() for node in (*branch.nodes, branch.add)}
        choices = [
            Choice(name, lost(group, worth.halves.get(name, 0.0)), self._home(group, inner))
            for name, group in self._groups.items()
        ]
        nodes = [node for node in self._deployed.nodes if node.op not in FREE]
        plans = [self._variants(node) for node in nodes]
        prices.fill((op for plan in plans for op in plan[1].values()), progress)
        layers: list[Layer] = []
        for node, (names, found) in zip(nodes, plans, strict=True):
            costs = {widths: _costs(op, prices) for widths, op in found.items()}
            layers += _split(names, costs, inner.get(node.output), self._groups)
        layers += self._living(inner)
        return Problem(tuple(choices), worth.branches, tuple(layers), self._within())

    @property
    def moments(self) -> tuple[str, ...]:
        """The quantity "memory while this node runs", for every node."""
        return tuple(f"at {place}" for place in range(len(self._deployed.nodes)))

    def _living(self, inner: Mapping[str, str]) -> list[Layer]:
        """What every tensor takes of the memory while it lives, as int8."""
        found: list[Layer] = []
        for tensor, (first, last) in lifetimes(self._deployed).items():
            names = tuple(dict.fromkeys(group.name for group, _, _ in self._touching.get(tensor, ())))
            moments = self.moments[max(first, 0) : last + 1]
            full = {name: self._groups[name].width for name in names}
            picks = [tuple(full.values())]
            if len(names) <= 2:
                picks = list(itertools.product(*(widths_of(self._groups[name]) for name in names)))
            costs = {
                pick: dict.fromkeys(moments, float(prod(self._shape(tensor, dict(zip(names, pick, strict=True))))))
                for pick in picks
            }
            found.append(Layer(names if len(names) <= 2 else (), costs if len(names) <= 2 else {(): costs[picks[0]]},
                               inner.get(tensor)))  # fmt: skip
        return found

    def _by_size(self) -> list[tuple[str, Branch]]:
        """Outer branches first, so that the innermost one has the last word."""
        return sorted(self._branches.items(), key=lambda item: -len(item[1].nodes))

    def _within(self) -> dict[str, str]:
        """Branch → the smallest branch that its addition lies in."""
        found = {}
        for name, branch in self._branches.items():
            around = [b for b in self._branches.values() if branch.add in b.nodes]
            if around:
                found[name] = min(around, key=lambda b: len(b.nodes)).name
        return found

    def _home(self, group: Group, inner: Mapping[str, str]) -> str | None:
        """The branch that all layers of a group lie in."""
        homes = {inner.get(link.node) for link in (*group.producers, *group.consumers)}
        return homes.pop() if len(homes) == 1 else None

    def _variants(self, node: Node) -> tuple[tuple[str, ...], dict[tuple[int, ...], Op]]:
        """The groups that set a layer's sizes, and the layer at these: in pairs; one by one for three or more."""
        tensors = (*node.inputs, node.output)
        names = tuple(dict.fromkeys(g.name for t in tensors for g, _, _ in self._touching.get(t, ())))
        full = {name: self._groups[name].width for name in names}
        if len(names) <= 2:
            picks = itertools.product(*(widths_of(self._groups[name]) for name in names))
            return names, {pick: self._op(node, dict(zip(names, pick, strict=True))) for pick in picks}
        found = {tuple(full.values()): self._op(node, full)}
        for name in names:
            for width in widths_of(self._groups[name]):
                widths = {**full, name: width}
                found[tuple(widths.values())] = self._op(node, widths)
        return names, found

    def _op(self, node: Node, widths: Mapping[str, int]) -> Op:
        shapes = {name: self._shape(name, widths) for name in (*node.inputs, node.output)}
        weight: Shape | None = None
        own = self._deployed.param(node, "weight")
        if own is not None and node.op in WEIGHTED:
            before, after = self._deployed.shapes[node.inputs[0]][1], shapes[node.inputs[0]][1]
            groups = node.attrs.get("groups", 1)
            inputs = own.shape[1] if groups > 1 else own.shape[1] - (before - after)
            weight = (shapes[node.output][1], inputs, *own.shape[2:])
            if groups > 1:
                node = replace(node, attrs={**node.attrs, "groups": after // own.shape[1]})
        return op_of(self._deployed, node, shapes, weight)

    def _shape(self, name: str, widths: Mapping[str, int]) -> Shape:
        shape = list(self._deployed.shapes[name])
        for group, axis, places in self._touching.get(name, ()):
            shape[axis] -= (group.width - widths.get(group.name, group.width)) * places
        return tuple(shape)


def _split(
    names: tuple[str, ...], costs: Mapping[tuple[int, ...], Mapping[str, float]], branch: str | None,
    groups: Mapping[str, Group],
) -> list[Layer]:  # fmt: skip
    """A layer of up to two groups as it is; one of more as what each of its groups saves alone."""
    if len(names) <= 2:
        return [Layer(names, costs, branch)]
    full = tuple(groups[name].width for name in names)
    parts = [Layer((), {(): costs[full]}, branch)]
    for place, name in enumerate(names):
        saved: dict[tuple[int, ...], Mapping[str, float]] = {}
        for width in widths_of(groups[name]):
            there = costs[tuple(width if i == place else w for i, w in enumerate(full))]
            saved[width,] = {quantity: there[quantity] - costs[full][quantity] for quantity in there}
        parts.append(Layer((name,), saved, branch))
    return parts


def _costs(op: Op, prices: PriceList) -> dict[str, float]:
    stored = prod(op.weight) + _PER_CHANNEL_BYTES * op.weight[0] if op.weight is not None else 0
    return {"us": prices.us(op), "bytes": float(stored + _OVERHEAD_BYTES)}
