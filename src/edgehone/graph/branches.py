"""Branches that can leave whole: what one side of an addition adds to the other.

A *branch* is all that computes one operand of an `add` and nothing else. Without it the other operand stands alone:
shapes stay, weights elsewhere stay, and every layer of the branch is saved. The residual branch of a ResNet or
MobileNetV2 block is one; so is the shortcut of a block whose shape changes, and either arm of two that are summed.
Found on the graph, never by the names of modules. A network without the branch answers differently: recover it.

    found = branches(graph)
    shorter = without(graph, [found[3].name])

Stochastic depth (Huang et al. 2016, arXiv:1603.09382) showed that residual networks live with missing branches; which
to miss is measured, see `edgehone.techniques.shorten`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edgehone.errors import CutError
from edgehone.graph._edit import Edit
from edgehone.graph.cost import node_macs
from edgehone.graph.ir import WEIGHTED, Graph, Node
from edgehone.graph.rewrite import simplify


@dataclass(frozen=True)
class Branch:
    """One operand of an addition that may leave.

    Attributes:
        name: module path of its first layer, with "#2", "#3" where several branches begin in one.
        add: output of the node that adds it.
        stays: the tensor that takes the sum's place.
        nodes: outputs of the nodes that go, in order; the addition is not among them.
        macs: multiply-accumulates that go.
    """

    name: str
    add: str
    stays: str
    nodes: tuple[str, ...]
    macs: int


def branches(graph: Graph) -> tuple[Branch, ...]:
    """All branches of a training graph that hold a conv or linear layer, in order of their additions.

    The operand that holds more layers is listed: of a block that changes its shape this is the residual branch, and
    its shortcut stays.
    """
    found: list[Branch] = []
    names: dict[str, int] = {}
    for node in graph.nodes:
        sides = _sides(graph, node)
        if not sides:
            continue
        stays, gone = max(sides, key=lambda side: sum(n.op in WEIGHTED for n in side[1]))
        first = next(n for n in gone if n.op in WEIGHTED)
        stem = first.module or first.output
        names[stem] = names.get(stem, 0) + 1
        name = stem if names[stem] == 1 else f"{stem}#{names[stem]}"
        macs = sum(node_macs(graph, n) for n in gone)
        found.append(Branch(name, node.output, stays, tuple(n.output for n in gone), macs))
    return tuple(found)


def without(graph: Graph, names: Collection[str]) -> Graph:
    """The graph without the named branches, simplified; the graph handed in stays as it was.

    Raises:
        CutError: a name that no branch has.
    """
    known = {branch.name: branch for branch in branches(graph)}
    for name in names:
        if name not in known:
            has = ", ".join(known) or "(this graph has none)"
            raise CutError("there is no such branch", where=f"branch {name!r}", do=f"name one of: {has}")
    edit = Edit(graph)
    for name in sorted(set(names), key=list(known).index):
        branch = known[name]
        node = edit.nodes[branch.add]
        # an earlier removal may have renamed what stays: then it is the operand that the branch does not write
        other = next((operand for operand in node.inputs if operand not in branch.nodes), branch.stays)
        stays = branch.stays if branch.stays in node.inputs else other
        edit.bypass(Node(node.op, (stays,), node.output, module=node.module))
    edit.drop_unread()
    return simplify(edit.graph())


def _sides(graph: Graph, node: Node) -> list[tuple[str, list[Node]]]:
    """(what stays, nodes that go) for either operand of an addition that may leave."""
    if node.op != "add" or len(node.inputs) != 2 or node.inputs[0] == node.inputs[1]:
        return []
    shape = graph.shapes[node.output]
    sides = []
    for index, gone in enumerate(node.inputs):
        stays = node.inputs[1 - index]
        if graph.shapes[stays] != shape or graph.shapes[gone] != shape:
            continue
        nodes = _only_for(graph, gone, node)
        if any(n.op in WEIGHTED for n in nodes) and _reaches_input(graph, stays):
            sides.append((stays, nodes))
    return sides


def _only_for(graph: Graph, tensor: str, reader: Node) -> list[Node]:
    """The nodes that compute a tensor for one reader and serve nothing else, in order."""
    producers, readers = graph.producers(), graph.consumers()
    gone: dict[str, Node] = {}
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        node = producers.get(name)
        if node is None or name == graph.output:
            continue
        if all(other.output in gone or (name == tensor and other is reader) for other in readers[name]):
            gone[name] = node
            waiting += node.inputs  # one that several nodes read is looked at again when the last of them goes
    return [node for node in graph.nodes if node.output in gone]


def _reaches_input(graph: Graph, tensor: str) -> bool:
    producers, seen, waiting = graph.producers(), set[str](), [tensor]
    while waiting:
        name = waiting.pop()
        if name == graph.input:
            return True
        if name not in seen and name in producers:
            seen.add(name)
            waiting += producers[name].inputs
    return False
