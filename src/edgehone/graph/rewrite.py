"""Rewrites of the training graph that keep every value: what does nothing goes, slow spellings become fast ones.

The largest gain is the parameter-free shortcut of residual netedits for small pictures (strided slice, padded with zero
channels): as a 1x1 convolution it runs in one step instead of three or four, and cutting channels can follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgehone.graph._edit import Edit
from edgehone.graph.ir import Graph, Node

_SPATIAL_RANKS = (3, 4)


def simplify(graph: Graph) -> Graph:
    """The same function with fewer and faster nodes; parameters keep their keys.

    Rewrites are repeated until none applies. New parameters are named after the node that uses them.
    """
    edit = Edit(graph)
    changed = True
    while changed:
        changed = False
        for name in list(edit.nodes):
            changed |= any(name in edit.nodes and rule(edit, edit.nodes[name]) for rule in _RULES)
        edit.drop_unread()
    return edit.graph()


def _nothing(edit: Edit, node: Node) -> bool:
    """Nodes that return their first input."""
    shape, before = edit.shapes[node.output], edit.shapes[node.inputs[0]]
    if shape != before:
        return False
    attrs = node.attrs
    value = edit.params[node.params["value"]] if "value" in node.params and attrs.get("fixed") else None
    does_nothing = {
        "reshape": True,
        "slice": True,
        "pad": True,
        "resize": True,
        "concat": len(node.inputs) == 1,
        "transpose": attrs.get("perm") == tuple(range(len(shape))),
        "mean": True,
        "dropout": attrs.get("rate") == 0,
        "max_pool": attrs.get("kernel") == (1, 1),
        "avg_pool": attrs.get("kernel") == (1, 1),
        "add": value is not None and not value.any(),
        "mul": value is not None and bool((value == 1).all()),
    }
    return does_nothing.get(node.op, False) and edit.bypass(node)


def _composed(edit: Edit, node: Node) -> bool:
    """Two nodes of one kind in a row that are one."""
    first = edit.producer(node.inputs[0], node.op)
    if first is None:
        return False
    a, b = first.attrs, node.attrs
    attrs: dict[str, object]
    if node.op in ("relu", "relu6"):  # the second changes nothing
        return edit.bypass(node)
    if node.op == "reshape":
        attrs = dict(b)
    elif node.op == "transpose":
        attrs = {"perm": tuple(a["perm"][axis] for axis in b["perm"])}
    elif node.op == "slice" and a["axis"] == b["axis"]:
        picked = range(a["start"], a["stop"], a["step"])[b["start"] : b["stop"] : b["step"]]
        attrs = {"axis": a["axis"], "start": picked.start, "stop": picked.stop, "step": picked.step}
    elif node.op == "pad" and a["value"] == b["value"]:
        pads = zip(a["pads"], b["pads"], strict=True)
        attrs = {"pads": tuple((p[0] + q[0], p[1] + q[1]) for p, q in pads), "value": a["value"]}
    else:
        return False
    edit.put(replace(node, inputs=first.inputs, attrs=attrs))
    return True


def _slice_before_pad(edit: Edit, node: Node) -> bool:
    """A slice of a padded tensor along an axis that was not padded comes first: less to copy."""
    pad = edit.producer(node.inputs[0], "pad")
    if node.op != "slice" or pad is None or edit.only_reader(pad.output) is not node:
        return False
    axis = node.attrs["axis"]
    if pad.attrs["pads"][axis] != (0, 0):
        return False
    before = edit.shapes[pad.inputs[0]]
    shape = tuple(edit.shapes[node.output][axis] if i == axis else n for i, n in enumerate(before))
    edit.put(replace(node, inputs=pad.inputs, output=pad.output), shape)
    edit.put(replace(pad, inputs=(pad.output,), output=node.output))
    return True


def _shortcut(edit: Edit, node: Node) -> bool:
    """Strided slices, then zero channels around: a 1x1 convolution that copies each channel to its place."""
    rank = len(edit.shapes[node.output])
    if node.op != "pad" or rank not in _SPATIAL_RANKS or node.attrs["value"] != 0:
        return False
    pads = node.attrs["pads"]
    if any(amounts != (0, 0) for axis, amounts in enumerate(pads) if axis != 1):
        return False
    source, strides = _subsampled(edit, node.inputs[0])
    if strides == (1, 1):
        return False
    inputs, outputs = edit.shapes[source][1], edit.shapes[node.output][1]
    weight = np.zeros((outputs, inputs, 1, 1), np.float32)
    weight[pads[1][0] + np.arange(inputs), np.arange(inputs)] = 1.0
    key = edit.keep(f"{node.output}.weight", weight)
    attrs = {"stride": strides, "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    edit.put(replace(node, op="conv", inputs=(source,), attrs=attrs, params={"weight": key}))
    return True


def _subsampled(edit: Edit, name: str) -> tuple[str, tuple[int, int]]:
    """The tensor of which this one keeps every n-th row and column from the first on, and both n."""
    height = width = 1
    while (node := edit.producer(name)) is not None and edit.only_reader(name) is not None:
        if node.op == "slice" and node.attrs["axis"] >= 2:
            axis, start, stop, step = (node.attrs[key] for key in ("axis", "start", "stop", "step"))
            size = edit.shapes[node.inputs[0]][axis]
            if start != 0 or len(range(0, stop, step)) != len(range(0, size, step)):
                break
            steps = (step, 1) if axis == 2 and len(edit.shapes[name]) == 4 else (1, step)
        elif node.op in ("max_pool", "avg_pool") and node.attrs["kernel"] == (1, 1):
            steps = node.attrs["stride"]
            if node.attrs["padding"] != ((0, 0), (0, 0)):
                break
        else:
            break
        height, width, name = height * steps[0], width * steps[1], node.inputs[0]
    return name, (height, width)


def _padded_conv(edit: Edit, node: Node) -> bool:
    """Zeros around the picture are the convolution's own padding."""
    pad = edit.producer(node.inputs[0], "pad") if node.op == "conv" else None
    if pad is None or pad.attrs["value"] != 0 or any(any(amounts) for amounts in pad.attrs["pads"][:2]):
        return False
    spatial = ((0, 0), *pad.attrs["pads"][2:])[-2:]  # a (1, C, L) tensor has a height of 1
    sides = tuple((a + p, b + q) for (a, b), (p, q) in zip(node.attrs["padding"], spatial, strict=True))
    edit.put(replace(node, inputs=pad.inputs, attrs={**node.attrs, "padding": sides}))
    return True


def _global_pool(edit: Edit, node: Node) -> bool:
    """An average over one window as large as the picture is a mean."""
    spatial = edit.shapes[node.inputs[0]][2:]
    if node.op != "avg_pool" or node.attrs["padding"] != ((0, 0), (0, 0)):
        return False
    if node.attrs["kernel"] != ((1, *spatial)[-2:]):
        return False
    axes = tuple(range(2, 2 + len(spatial)))
    edit.put(replace(node, op="mean", attrs={"axes": axes, "keepdim": True}))
    return True


def _broadcast(edit: Edit, node: Node) -> bool:
    """Arithmetic repeats a single place by itself: `x * gate.expand_as(x)` is `x * gate`."""
    if node.op not in ("add", "mul", "sub") or len(node.inputs) != 2:
        return False
    for side, name in enumerate(node.inputs):
        repeated = edit.producer(name, "resize")
        other = edit.shapes[node.inputs[1 - side]]
        if repeated is None or other != edit.shapes[node.output]:
            continue
        source = repeated.inputs[0]
        if set(edit.shapes[source][2:]) == {1}:
            edit.put(replace(node, inputs=tuple(source if i == side else n for i, n in enumerate(node.inputs))))
            return True
    return False


def _hard_swish(edit: Edit, node: Node) -> bool:
    """x * relu6(x + 3) / 6, divided before or after the product (Howard et al. 2019, section 5.2)."""
    if node.op != "mul":
        return False
    if len(node.inputs) == 2:
        sides = [(node.inputs[i], edit.producer(node.inputs[1 - i], "mul")) for i in (0, 1)]
        pairs = [(x, gate.inputs[0]) for x, gate in sides if gate is not None and _is(edit, gate, 1 / 6)]
    else:
        product = edit.producer(node.inputs[0], "mul") if _is(edit, node, 1 / 6) else None
        pairs = [] if product is None or len(product.inputs) != 2 else [product.inputs, product.inputs[::-1]]
    for x, gate_name in pairs:
        clip = edit.producer(gate_name, "relu6")
        moved = edit.producer(clip.inputs[0], "add") if clip is not None else None
        if moved is not None and moved.inputs == (x,) and _is(edit, moved, 3.0):
            edit.put(replace(node, op="hard_swish", inputs=(x,), attrs={}, params={}))
            return True
    return False


def _is(edit: Edit, node: Node, constant: float) -> bool:
    """Whether a node's operand is that constant and stays it in training."""
    if not node.attrs.get("fixed"):
        return False
    return bool((edit.params[node.params["value"]] == np.float32(constant)).all())


_RULES: tuple[Callable[[Edit, Node], bool], ...] = (
    _nothing,
    _composed,
    _slice_before_pad,
    _shortcut,
    _padded_conv,
    _global_pool,
    _broadcast,
    _hard_swish,
)
