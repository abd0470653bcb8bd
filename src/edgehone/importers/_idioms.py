"""Several nodes that spell one operator of the graph become that operator. For graphs as files hold them.

    x * sigmoid(x)                            silu
    2 * sigmoid(2 * x) - 1                    tanh
    a + (-1) * b                              sub
    scale, shift, scale, ... by numbers       one scale and one shift, or none
    conv or linear, then a shift by channel   the layer's bias, also behind a transpose
    relu of what is never negative            nothing

Files store equal constants once, zeros and ones above all. Two layers share what trains only where they share a weight.
Every value stays to float32 rounding. What `simplify` knows (hard-swish, global pooling) is left to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgehone.graph._edit import Edit
from edgehone.graph.ir import WEIGHTED, Graph, Node

_ROUNDING = 5e-7  # relative, of a few float32 operations


def join_idioms(graph: Graph) -> Graph:
    """The same function in the graph's own operators; parameters keep their keys as far as they stay."""
    edit = Edit(graph)
    _unshare(edit)
    changed = True
    while changed:
        changed = False
        for name in list(edit.nodes):
            changed |= any(name in edit.nodes and rule(edit, edit.nodes[name]) for rule in _RULES)
        edit.drop_unread()
    return edit.graph()


def _unshare(edit: Edit) -> None:
    """Give every node its own parameters, but for layers that have one weight."""
    owners: dict[str, str] = {}  # key of the file → the weight, or the node, that has it
    for node in list(edit.nodes.values()):
        if node.attrs.get("fixed"):
            continue
        owner = node.params["weight"] if node.op in WEIGHTED else node.output
        params = {}
        for role, key in node.params.items():
            if key == owner or owners.setdefault(key, owner) == owner:
                params[role] = key
            else:
                params[role] = _own(edit, f"{owner.removesuffix('.weight')}.{role}", key)
                owners[params[role]] = owner
        edit.put(replace(node, params=params))


def _own(edit: Edit, name: str, key: str) -> str:
    """Store a copy of a parameter under a name that is free."""
    free, number = name, 1
    while free in edit.params:
        number += 1
        free = f"{name}_{number}"
    edit.params[free] = edit.params[key].copy()
    return free


def _silu(edit: Edit, node: Node) -> bool:
    if node.op != "mul" or len(node.inputs) != 2:
        return False
    for x, gate in (node.inputs, node.inputs[::-1]):
        sigmoid = edit.producer(gate, "sigmoid")
        if sigmoid is not None and sigmoid.inputs == (x,) and edit.only_reader(gate) is node:
            edit.put(replace(node, op="silu", inputs=(x,)))
            return True
    return False


def _tanh(edit: Edit, node: Node) -> bool:
    chain: list[Node] = []
    name = node.output
    for op, constant in (("add", -1.0), ("mul", 2.0), ("sigmoid", None), ("mul", 2.0)):
        part = edit.producer(name, op)
        if part is None or (constant is not None and _number(edit, part) != constant):
            return False
        if chain and edit.only_reader(name) is None:
            return False
        chain.append(part)
        name = part.inputs[0]
    edit.put(replace(node, op="tanh", inputs=(name,), attrs={}, params={}))
    return True


def _sub(edit: Edit, node: Node) -> bool:
    if node.op != "add" or len(node.inputs) != 2:
        return False
    for a, b in (node.inputs, node.inputs[::-1]):
        minus = edit.producer(b, "mul")
        if minus is not None and _number(edit, minus) == -1 and edit.only_reader(b) is node:
            edit.put(replace(node, op="sub", inputs=(a, minus.inputs[0])))
            return True
    return False


def _number(edit: Edit, node: Node) -> float | None:
    """The number that a node adds or multiplies by and that does not train, if it is such a node."""
    if node.op not in ("add", "mul") or len(node.inputs) != 1 or not node.attrs.get("fixed"):
        return None
    value = edit.params[node.params["value"]]
    return float(value.ravel()[0]) if value.size == 1 else None


def _numbers(edit: Edit, node: Node) -> bool:
    """Scales and shifts by numbers in a row: at most one of each, none where they cancel."""
    chain = [node]
    while _number(edit, chain[0]) is not None:
        before = edit.producer(chain[0].inputs[0])
        if before is None or _number(edit, before) is None or edit.only_reader(before.output) is not chain[0]:
            break
        chain.insert(0, before)
    if _number(edit, node) is None:
        return False
    scale, shift = 1.0, 0.0
    for part in chain:
        number = _number(edit, part) or 0.0
        scale, shift = (scale * number, shift * number) if part.op == "mul" else (scale, shift + number)
    scale, shift = _tidy(scale), _tidy(shift)
    wanted = [(op, value) for op, value in (("mul", scale), ("add", shift)) if value != (op == "mul")]
    if len(wanted) >= len(chain):
        return False
    if not wanted:
        edit.put(replace(node, inputs=chain[0].inputs))
        return edit.bypass(edit.nodes[node.output])
    first = chain[0].inputs
    for part, (op, value) in zip(chain[-len(wanted) :], wanted, strict=True):
        rank = len(edit.shapes[part.output])
        key = edit.keep(f"{part.output}.value", np.full((1,) * rank, value, np.float32))
        edit.put(replace(part, op=op, inputs=first, attrs={"fixed": True}, params={"value": key}))
        first = (part.output,)
    return True


def _tidy(value: float) -> float:
    """The whole number of sixths that a value is but for rounding, else the value: 3.0000002 is 3."""
    near = round(6 * value) / 6
    return near if near and abs(value - near) <= _ROUNDING * abs(near) else value


def _bias(edit: Edit, node: Node) -> bool:
    """conv or linear without a bias, maybe a transpose, then an add of a constant per channel."""
    if node.op != "add" or len(node.inputs) != 1:
        return False
    value = edit.params[node.params["value"]]
    layer = edit.producer(node.inputs[0])
    channel = 1
    if layer is not None and layer.op == "transpose" and edit.only_reader(layer.output) is node:
        channel = layer.attrs["perm"].index(1)
        layer = edit.producer(layer.inputs[0])
    if layer is None or layer.op not in WEIGHTED or "bias" in layer.params or edit.only_reader(layer.output) is None:
        return False
    width = edit.shapes[node.output][channel]
    if edit.shapes[node.output] != edit.shapes[node.inputs[0]] or value.size != width:
        return False
    if value.shape[channel] != width or len(edit.readers(node.inputs[0])) != 1 or node.inputs[0] == edit.output:
        return False
    key = edit.keep(node.params["value"] if value.ndim == 1 else f"{layer.output}.bias", value.ravel())
    edit.put(replace(layer, params={**layer.params, "bias": key}))
    return edit.bypass(node)


_NEVER_NEGATIVE = frozenset(("relu", "relu6", "sigmoid", "softmax"))
_KEEPS_SIGN = frozenset(
    (
        "max_pool",
        "avg_pool",
        "mean",
        "reshape",
        "transpose",
        "slice",
        "dropout",
        "resize",
        "concat",
        "add",
        "mul",
        "pad",
    )
)


def _useless_relu(edit: Edit, node: Node) -> bool:
    return node.op == "relu" and _never_negative(edit, node.inputs[0]) and edit.bypass(node)


def _never_negative(edit: Edit, name: str) -> bool:
    unseen, seen = [name], set[str]()
    while unseen:
        node = edit.producer(unseen.pop())
        if node is None or (node.op not in _NEVER_NEGATIVE and node.op not in _KEEPS_SIGN):
            return False
        if node.op in _NEVER_NEGATIVE or node.output in seen:
            continue
        constant = edit.params[node.params["value"]] if "value" in node.params else np.zeros(1)
        if (constant < 0).any() or ("value" in node.params and not node.attrs.get("fixed")):
            return False
        if node.attrs.get("value", 0) < 0:  # of a pad
            return False
        seen.add(node.output)
        unseen.extend(node.inputs)
    return True


_RULES: tuple[Callable[[Edit, Node], bool], ...] = (_numbers, _silu, _tanh, _sub, _bias, _useless_relu)
