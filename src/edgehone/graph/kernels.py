"""What every operator of the graph computes, in torch. The float network and the quantized twin both run on this.

`run_node` is differentiable and takes any batch size. Semantics are those of the table in `ir.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgehone.graph.ir import Node

Params = Mapping[str, Tensor]


def run_node(node: Node, inputs: Sequence[Tensor], params: Params, *, training: bool = False) -> Tensor:
    """Compute one node, its fused activation included.

    Args:
        node: the node.
        inputs: its inputs in torch layout, batch first: (N, C, H, W), (N, C, L) or (N, F).
        params: role → tensor, for the roles the node has.
        training: batch_norm uses and updates batch statistics, dropout drops.

    Returns:
        The output tensor, in torch layout.
    """
    x = inputs[0]
    if node.op == "batch_norm":
        y = _batch_norm(node, x, params, training)
    elif node.op == "dropout":
        y = F.dropout(x, node.attrs["rate"], training)
    else:
        y = _KERNELS[node.op](node, inputs, params)
    if node.activation == "relu":
        return F.relu(y)
    if node.activation == "relu6":
        return F.relu6(y)
    return y


def _batch_norm(node: Node, x: Tensor, params: Params, training: bool) -> Tensor:
    return F.batch_norm(
        x,
        params["mean"],
        params["variance"],
        params.get("weight"),
        params.get("bias"),
        training,
        node.attrs["momentum"],
        node.attrs["eps"],
    )


def _planar(kernel: Callable[[Node, Tensor, Params], Tensor]) -> Callable[[Node, Sequence[Tensor], Params], Tensor]:
    """Let a 2-D kernel take (N, C, L) as (N, C, 1, L)."""

    def run(node: Node, inputs: Sequence[Tensor], params: Params) -> Tensor:
        x = inputs[0]
        if x.dim() == 3:
            return kernel(node, x.unsqueeze(2), params).squeeze(2)
        return kernel(node, x, params)

    return run


def _pad_spatial(x: Tensor, padding: Sequence[Sequence[int]], value: float) -> tuple[Tensor, tuple[int, int]]:
    """Pad what torch's own symmetric padding cannot express; returns the tensor and the symmetric rest."""
    (top, bottom), (left, right) = padding
    if top == bottom and left == right:
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _conv(node: Node, x: Tensor, params: Params) -> Tensor:
    x, padding = _pad_spatial(x, node.attrs["padding"], 0.0)
    return F.conv2d(
        x,
        params["weight"],
        params.get("bias"),
        tuple(node.attrs["stride"]),
        padding,
        tuple(node.attrs["dilation"]),
        node.attrs["groups"],
    )


def _max_pool(node: Node, x: Tensor, params: Params) -> Tensor:  # noqa: ARG001  every kernel has one signature
    kernel, stride = tuple(node.attrs["kernel"]), tuple(node.attrs["stride"])
    (top, bottom), (left, right) = node.attrs["padding"]
    if top == bottom <= kernel[0] // 2 and left == right <= kernel[1] // 2:
        return F.max_pool2d(x, kernel, stride, (top, left))
    return F.max_pool2d(F.pad(x, (left, right, top, bottom), value=float("-inf")), kernel, stride)


def _avg_pool(node: Node, x: Tensor, params: Params) -> Tensor:  # noqa: ARG001
    kernel, stride, counted = tuple(node.attrs["kernel"]), tuple(node.attrs["stride"]), node.attrs["count_include_pad"]
    (top, bottom), (left, right) = node.attrs["padding"]
    if top == bottom <= kernel[0] // 2 and left == right <= kernel[1] // 2:
        return F.avg_pool2d(x, kernel, stride, (top, left), count_include_pad=counted)
    padded = F.avg_pool2d(F.pad(x, (left, right, top, bottom)), kernel, stride)
    if counted:
        return padded
    inside = F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), (left, right, top, bottom)), kernel, stride)
    return padded / inside


def _resize(node: Node, x: Tensor, params: Params) -> Tensor:  # noqa: ARG001
    size, mode = tuple(node.attrs["size"]), node.attrs["mode"]
    if mode == "nearest":
        return F.interpolate(x, size=size, mode="nearest-exact" if node.attrs["half_pixel"] else "nearest")
    return F.interpolate(x, size=size, mode=mode, align_corners=node.attrs["align_corners"])


def _pad(node: Node, inputs: Sequence[Tensor], params: Params) -> Tensor:  # noqa: ARG001
    flat = [amount for pair in reversed(node.attrs["pads"]) for amount in pair]
    return F.pad(inputs[0], flat, value=float(node.attrs["value"]))


def _slice(node: Node, inputs: Sequence[Tensor], params: Params) -> Tensor:  # noqa: ARG001
    index = [slice(None)] * inputs[0].dim()
    index[node.attrs["axis"]] = slice(node.attrs["start"], node.attrs["stop"], node.attrs["step"])
    return inputs[0][tuple(index)]


def _second(inputs: Sequence[Tensor], params: Params) -> Tensor:
    return inputs[1] if len(inputs) > 1 else params["value"]


_KERNELS: dict[str, Callable[[Node, Sequence[Tensor], Params], Tensor]] = {
    "conv": _planar(_conv),
    "linear": lambda _, i, p: F.linear(i[0], p["weight"], p.get("bias")),
    "relu": lambda _, i, __: F.relu(i[0]),
    "relu6": lambda _, i, __: F.relu6(i[0]),
    "hard_swish": lambda _, i, __: F.hardswish(i[0]),
    "silu": lambda _, i, __: F.silu(i[0]),
    "sigmoid": lambda _, i, __: torch.sigmoid(i[0]),
    "tanh": lambda _, i, __: torch.tanh(i[0]),
    "softmax": lambda _, i, __: F.softmax(i[0], dim=-1),
    "leaky_relu": lambda n, i, __: F.leaky_relu(i[0], n.attrs["slope"]),
    "add": lambda _, i, p: i[0] + _second(i, p),
    "mul": lambda _, i, p: i[0] * _second(i, p),
    "sub": lambda _, i, __: i[0] - i[1],
    "concat": lambda n, i, __: torch.cat(list(i), n.attrs["axis"]),
    "slice": _slice,
    "pad": _pad,
    "max_pool": _planar(_max_pool),
    "avg_pool": _planar(_avg_pool),
    "mean": lambda n, i, __: i[0].mean(tuple(n.attrs["axes"]), keepdim=n.attrs["keepdim"]),
    "reshape": lambda n, i, __: i[0].reshape(i[0].shape[0], *n.attrs["shape"][1:]),
    "transpose": lambda n, i, __: i[0].permute(*n.attrs["perm"]),
    "resize": _planar(_resize),
    "requantize": lambda _, i, __: i[0],
}
