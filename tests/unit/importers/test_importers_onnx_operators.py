"""ONNX operators, in the spellings of several operator sets: what they become in the graph, and what is refused.

`read_network` runs every graph beside ONNX Runtime itself; a graph that comes back answers as the file does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgehone.errors import EdgehoneError, UnsupportedOperatorError
from edgehone.graph.ir import Graph
from edgehone.importers import read_network

PICTURE, SERIES, ROW = (0, 4, 6, 8), (0, 4, 12), (0, 10)  # 0: free
Weights = dict[str, Sequence[int] | NDArray[np.generic] | float]


def write(path: Path, text: str, shape: Sequence[int], weights: Weights, opset: int) -> Path:
    """A model of nodes as onnx.parser reads them, from `x` to `y`. Weights are shapes (random), numbers or arrays."""
    dims = ",".join(str(n) if n else "N" for n in shape)
    graph = onnx.parser.parse_graph(f"g (float[{dims}] x) => (float y) {{ {text} }}")
    draw = np.random.default_rng(0)
    for name, given in weights.items():
        array = draw.normal(0, 0.4, given).astype(np.float32) if isinstance(given, tuple) else np.asarray(given)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    ids = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("ai.other", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=ids, ir_version=8), path)
    return path


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


I = np.int64  # noqa: E741
READ: dict[str, tuple[str, Sequence[int], Weights, int, list[str]]] = {
    "conv": ("y = Conv<pads=[1,1,1,1]>(x, w, b)", PICTURE, {"w": (8, 4, 3, 3), "b": (8,)}, 7, ["conv"]),
    "conv groups": ("y = Conv<group=2,strides=[2,1]>(x, w)", PICTURE, {"w": (8, 2, 3, 3)}, 17, ["conv"]),
    "conv uneven pads": ("y = Conv<pads=[0,1,2,0]>(x, w)", PICTURE, {"w": (8, 4, 3, 3)}, 17, ["conv"]),
    "conv same upper": (
        'y = Conv<auto_pad="SAME_UPPER",strides=[2,2]>(x, w)',
        PICTURE,
        {"w": (8, 4, 3, 2)},
        17,
        ["conv"],
    ),
    "conv same lower": (
        'y = Conv<auto_pad="SAME_LOWER",strides=[2,2]>(x, w)',
        PICTURE,
        {"w": (8, 4, 3, 2)},
        17,
        ["conv"],
    ),
    "conv of a series": ("y = Conv<dilations=[2],pads=[2,2]>(x, w)", SERIES, {"w": (6, 4, 3)}, 13, ["conv"]),
    "conv transpose": (
        "y = ConvTranspose<strides=[2,3]>(x, w, b)",
        PICTURE,
        {"w": (4, 5, 2, 3), "b": (5,)},
        17,
        ["conv", "reshape", "transpose", "reshape"],
    ),
    "gemm": ("y = Gemm<transB=1,alpha=0.5,beta=2.0>(x, w, b)", ROW, {"w": (3, 10), "b": (1, 3)}, 9, ["linear"]),
    "matmul": ("a = MatMul(x, w) y = Add(a, b)", ROW, {"w": (10, 3), "b": (3,)}, 17, ["linear"]),
    "matmul of a series": (
        "a = MatMul(x, w) y = Add(a, b)",
        SERIES,
        {"w": (12, 5), "b": (5,)},
        17,
        ["transpose", "conv", "transpose"],
    ),
    "batch norm": (
        "y = BatchNormalization<epsilon=0.001,momentum=0.8>(x, s, b, m, v)",
        PICTURE,
        {"s": (4,), "b": (4,), "m": (4,), "v": np.full(4, 2.0)},
        17,
        ["batch_norm"],
    ),
    "relu6 by attributes": ("y = Clip<min=0.0,max=6.0>(x)", PICTURE, {}, 7, ["relu6"]),
    "relu6 by inputs": ("y = Clip(x, a, b)", PICTURE, {"a": 0.0, "b": 6.0}, 13, ["relu6"]),
    "clip": ("y = Clip(x, a, b)", PICTURE, {"a": -1.0, "b": 0.5}, 13, ["add", "mul", "relu6", "mul", "add"]),
    "clip without an end": ("y = Clip(x, a)", PICTURE, {"a": 0.0}, 13, ["relu"]),
    "clip from above": ('y = Clip(x, "", b)', PICTURE, {"b": 0.5}, 13, ["mul", "add", "relu", "mul", "add"]),
    "max with a number": ("y = Max(x, a)", PICTURE, {"a": 0.0}, 13, ["relu"]),
    "min with a number": (
        "a = Relu(x) y = Min(a, b)",
        PICTURE,
        {"b": 6.0},
        13,
        ["relu", "mul", "add", "relu", "mul", "add"],
    ),
    "leaky relu": ("y = LeakyRelu<alpha=0.2>(x)", PICTURE, {}, 17, ["leaky_relu"]),
    "prelu of a number": ("y = PRelu(x, s)", PICTURE, {"s": np.full((1, 1, 1), 0.3)}, 17, ["leaky_relu"]),
    "prelu by channel": ("y = PRelu(x, s)", PICTURE, {"s": (4, 1, 1)}, 17, ["mul", "relu", "mul", "add"]),
    "hard swish": ("y = HardSwish(x)", PICTURE, {}, 14, ["hard_swish"]),
    "hard swish by hand": (
        "a = Add(x, t) b = Clip(a, z, s) c = Mul(x, b) y = Div(c, s)",
        PICTURE,
        {"t": 3.0, "z": 0.0, "s": 6.0},
        11,
        ["hard_swish"],
    ),
    "hard swish by hard sigmoid": (
        "a = HardSigmoid<alpha=0.16666667>(x) y = Mul(x, a)",
        PICTURE,
        {},
        14,
        ["hard_swish"],
    ),
    "hard sigmoid": ("y = HardSigmoid(x)", PICTURE, {}, 14, ["mul", "add", "relu6", "mul"]),
    "silu": ("a = Sigmoid(x) y = Mul(a, x)", PICTURE, {}, 14, ["silu"]),
    "tanh by sigmoid": (
        "a = Mul(x, t) b = Sigmoid(a) c = Mul(b, t) y = Sub(c, o)",
        PICTURE,
        {"t": 2.0, "o": 1.0},
        14,
        ["tanh"],
    ),
    "tanh": ("y = Tanh(x)", PICTURE, {}, 14, ["tanh"]),
    "softmax": ("y = Softmax(x)", ROW, {}, 13, ["softmax"]),
    "softmax of one place": (
        "a = GlobalAveragePool(x) y = Softmax<axis=1>(a)",
        PICTURE,
        {},
        11,
        ["mean", "reshape", "softmax", "reshape"],
    ),
    "numbers in a row": (
        "a = Mul(x, t) b = Add(a, t) c = Div(b, t) y = Sub(c, o)",
        PICTURE,
        {"t": 2.0, "o": 1.0},
        14,
        [],
    ),
    "a constant minus": ("y = Sub(c, x)", PICTURE, {"c": (4, 1, 1)}, 14, ["mul", "add"]),
    "a sum with minus one": (
        "a = Conv(x, w) b = Mul(a, m) y = Add(x, b)",
        PICTURE,
        {"w": (4, 4, 1, 1), "m": -1.0},
        14,
        ["conv", "sub"],
    ),
    "neg and square": ("a = Neg(x) y = Pow(a, t)", PICTURE, {"t": 2.0}, 14, ["mul", "mul"]),
    "sum": ("a = Relu(x) y = Sum(x, a, b)", PICTURE, {"b": (1, 4, 1, 1)}, 14, ["relu", "add", "add"]),
    "concat": ("a = Relu(x) y = Concat<axis=1>(x, a)", PICTURE, {}, 14, ["relu", "concat"]),
    "concat with zeros": (
        "y = Concat<axis=1>(z, x, z)",
        (1, 4, 6, 8),
        {"z": np.zeros((1, 2, 6, 8), np.float32)},
        14,
        ["pad"],
    ),
    "slice by attributes": ("y = Slice<starts=[1],ends=[3],axes=[1]>(x)", PICTURE, {}, 9, ["slice"]),
    "slice by inputs": (
        "y = Slice(x, a, b, c, d)",
        PICTURE,
        {"a": I([0, -5]), "b": I([4, 2**62]), "c": I([1, 3]), "d": I([1, 2])},
        13,
        ["slice"],
    ),
    "split by attributes": (
        "a, b = Split<axis=1,split=[1,3]>(x) y = Concat<axis=1>(b, a)",
        PICTURE,
        {},
        11,
        ["slice", "slice", "concat"],
    ),
    "split by inputs": (
        "a, b = Split<axis=1>(x, s) y = Concat<axis=1>(b, a)",
        PICTURE,
        {"s": I([1, 3])},
        13,
        ["slice", "slice", "concat"],
    ),
    "split evenly": ("a, b = Split<axis=1>(x) y = Add(a, b)", PICTURE, {}, 11, ["slice", "slice", "add"]),
    "split by number": (
        "a, b, c = Split<axis=2,num_outputs=3>(x) y = Concat<axis=1>(a, b, c)",
        PICTURE,
        {},
        18,
        ["slice"] * 3 + ["concat"],
    ),
    "pad by attributes": ("y = Pad<pads=[0,0,1,0,0,0,0,2],value=1.5>(x)", PICTURE, {}, 10, ["pad"]),
    "pad by inputs": ("y = Pad(x, p, v)", PICTURE, {"p": I([0, 0, 1, 0, 0, 0, 0, 2]), "v": 1.5}, 13, ["pad"]),
    "pad that crops": ("y = Pad(x, p)", PICTURE, {"p": I([0, 0, -1, 0, 0, 0, 0, -2])}, 13, ["slice", "slice"]),
    "pad of named axes": ('y = Pad(x, p, "", a)', PICTURE, {"p": I([1, 2]), "a": I([3])}, 18, ["pad"]),
    "max pool": ("y = MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1]>(x)", PICTURE, {}, 12, ["max_pool"]),
    "max pool rounded up": (
        "y = MaxPool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1>(x)",
        PICTURE,
        {},
        12,
        ["max_pool"],
    ),
    "max pool same": ('y = MaxPool<kernel_shape=[2],auto_pad="SAME_UPPER">(x)', SERIES, {}, 12, ["max_pool"]),
    "average pool": ("y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(x)", PICTURE, {}, 11, ["avg_pool"]),
    "average pool that counts padding": (
        "y = AveragePool<kernel_shape=[3,3],strides=[2,2],pads=[1,1,1,1],count_include_pad=1,ceil_mode=1>(x)",
        (0, 4, 7, 9),
        {},
        19,
        ["avg_pool"],
    ),
    "global pools": (
        "a = GlobalAveragePool(x) b = GlobalMaxPool(x) y = Add(a, b)",
        SERIES,
        {},
        14,
        ["mean", "max_pool", "add"],
    ),
    "mean by attributes": ("y = ReduceMean<axes=[2,3],keepdims=0>(x)", PICTURE, {}, 13, ["mean", "reshape"]),
    "mean by inputs": ("y = ReduceMean<keepdims=1>(x, a)", PICTURE, {"a": I([-1, -2])}, 18, ["mean"]),
    "mean of one axis": ("y = ReduceMean<axes=[2]>(x)", PICTURE, {}, 13, ["avg_pool"]),
    "mean with the channels last": (
        "y = ReduceMean<axes=[1,2],keepdims=0>(x)",
        PICTURE,
        {},
        13,
        ["transpose", "mean", "reshape"],
    ),
    "sum over places": ("y = ReduceSum<keepdims=1>(x, a)", PICTURE, {"a": I([2, 3])}, 13, ["mul", "mean"]),
    "max over places": ("y = ReduceMax<axes=[2,3],keepdims=0>(x)", PICTURE, {}, 13, ["max_pool", "reshape"]),
    "flatten": ("y = Flatten(x)", PICTURE, {}, 13, ["reshape"]),
    "reshape": ("y = Reshape(x, s)", PICTURE, {"s": I([0, 2, -1])}, 13, ["reshape"]),
    "reshape by a computed shape": (
        "s = Shape(x) n = Gather(s, zero) m = Unsqueeze(n, zeros) t = Concat<axis=0>(m, rest) y = Reshape(x, t)",
        PICTURE,
        {"zero": I(0), "zeros": I([0]), "rest": I([-1])},
        13,
        ["reshape"],
    ),
    "squeeze by attributes": (
        "a = GlobalAveragePool(x) y = Squeeze<axes=[2,3]>(a)",
        PICTURE,
        {},
        11,
        ["mean", "reshape"],
    ),
    "squeeze by inputs": (
        "a = GlobalAveragePool(x) y = Squeeze(a, s)",
        PICTURE,
        {"s": I([-1])},
        13,
        ["mean", "reshape"],
    ),
    "unsqueeze": ("y = Unsqueeze(x, s)", SERIES, {"s": I([1])}, 13, ["reshape"]),
    "transpose": ("y = Transpose<perm=[0,2,3,1]>(x)", PICTURE, {}, 13, ["transpose"]),
    "gather one place": ("y = Gather<axis=2>(x, i)", PICTURE, {"i": I(-1)}, 13, ["slice", "reshape"]),
    "gather places apart": ("y = Gather<axis=2>(x, i)", PICTURE, {"i": I([0, 2, 4])}, 13, ["slice"]),
    "gather that repeats": (
        "y = Gather<axis=3>(x, i)",
        PICTURE,
        {"i": I([i * 8 // 11 for i in range(11)])},
        13,
        ["resize"],
    ),
    "depth to space": ("y = DepthToSpace<blocksize=2>(x)", PICTURE, {}, 13, ["reshape", "transpose", "reshape"]),
    "depth to space by columns": (
        'y = DepthToSpace<blocksize=2,mode="CRD">(x)',
        PICTURE,
        {},
        13,
        ["reshape", "transpose", "reshape"],
    ),
    "space to depth": ("y = SpaceToDepth<blocksize=2>(x)", PICTURE, {}, 13, ["reshape", "transpose", "reshape"]),
    "upsample by attributes": ("y = Upsample<scales=[1.0,1.0,2.0,2.0]>(x)", PICTURE, {}, 7, ["resize"]),
    "upsample by inputs": ("y = Upsample(x, s)", PICTURE, {"s": np.float32([1, 1, 2, 3])}, 9, ["resize"]),
    "resize 10": ("y = Resize(x, s)", PICTURE, {"s": np.float32([1, 1, 2, 2])}, 10, ["resize"]),
    "resize nearest": ('y = Resize(x, "", s)', PICTURE, {"s": np.float32([1, 1, 2, 2])}, 13, ["resize"]),
    "resize to sizes": (
        'y = Resize<nearest_mode="floor",coordinate_transformation_mode="asymmetric">(x, "", "", s)',
        (1, 4, 6, 8),
        {"s": I([1, 4, 9, 5])},
        13,
        ["resize"],
    ),
    "resize linear": ('y = Resize<mode="linear">(x, "", s)', PICTURE, {"s": np.float32([1, 1, 2, 2])}, 13, ["resize"]),
    "resize linear by corners": (
        'y = Resize<mode="linear",coordinate_transformation_mode="align_corners">(x, "", "", s)',
        (1, 4, 6, 8),
        {"s": I([1, 4, 9, 5])},
        13,
        ["resize"],
    ),
    "resize of named axes": ('y = Resize<axes=[2,3]>(x, "", s)', PICTURE, {"s": np.float32([2, 2])}, 18, ["resize"]),
    "expand": (
        "a = GlobalAveragePool(x) b = Expand(a, s) y = Mul(x, b)",
        PICTURE,
        {"s": I([1, 1, 6, 8])},
        13,
        ["mean", "mul"],
    ),
    "tile": ("y = Tile(x, r)", PICTURE, {"r": I([1, 2, 1, 1])}, 13, ["concat"]),
    "dropout": ("a = Dropout<ratio=0.3>(x) y = Relu(a)", PICTURE, {}, 11, ["dropout", "relu"]),
    "identity and cast": ("a = Identity(x) b = Cast<to=1>(a) y = Relu(b)", PICTURE, {}, 13, ["relu"]),
    "a fixed batch": ("a = Flatten(x) y = Gemm(a, w)", (4, 2, 3), {"w": (6, 3)}, 13, ["reshape", "linear"]),
    "a constant node": ("c = Constant<value = float {2.5}>() y = Mul(x, c)", ROW, {}, 13, ["mul"]),
    "weights that are computed": (
        "a = Transpose<perm=[1,0]>(w) b = Mul(a, h) y = MatMul(x, b)",
        ROW,
        {"w": (3, 10), "h": 0.5},
        13,
        ["linear"],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_an_operator_is_read(name: str, tmp_path: Path) -> None:
    text, shape, weights, opset, expected = READ[name]
    assert ops(read_network(write(tmp_path / "m.onnx", text, shape, weights, opset))) == expected


REFUSED: dict[str, tuple[str, Sequence[int], Weights, int, str]] = {
    "another domain": ("y = ai.other.Magic(x)", PICTURE, {}, 17, "Magic of ai.other is not an operator"),
    "an unknown operator": ("y = Erf(x)", PICTURE, {}, 17, "Erf is not an operator of the graph"),
    "control flow": (
        "s = ReduceMax<keepdims=0>(x) c = Greater(s, z) y = If(c) <then_branch = a () => (float p) { p = Relu(x) }, "
        "else_branch = b () => (float q) { q = Neg(x) }>",
        PICTURE,
        {"z": 0.0},
        17,
        "If is not an operator of the graph",
    ),
    "chance": ("a = RandomNormalLike(x) y = Add(x, a)", PICTURE, {}, 17, "RandomNormalLike is not an operator"),
    "levels that compute": (
        "q = QuantizeLinear(x, s, z) c = ConvInteger(q, w) f = Cast<to=1>(c) y = Mul(f, s)",
        PICTURE,
        {"s": np.float32(0.1), "z": np.uint8(3), "w": np.ones((2, 4, 1, 1), np.uint8)},
        17,
        "ConvInteger computes with levels",
    ),
    "attention": ("a = Transpose<perm=[0,2,1]>(x) y = MatMul(x, a)", SERIES, {}, 17, "MatMul of two tensors"),
    "weights from the input": (
        "a = Relu(x) y = Conv(x, a)",
        (1, 4, 6, 8),
        {},
        17,
        "Conv has weights that depend on the input",
    ),
    "overlapping windows": (
        "y = ConvTranspose<strides=[2,2]>(x, w)",
        PICTURE,
        {"w": (4, 5, 3, 3)},
        17,
        "ConvTranspose with windows",
    ),
    "three axes": ("y = MaxPool<kernel_shape=[2,2,2]>(x)", (0, 2, 4, 4, 4), {}, 17, "MaxPool works on 3 spatial axes"),
    "across the batch": ("y = Concat<axis=0>(x, x)", PICTURE, {}, 17, "Concat works across the batch"),
    "the batch moves": ("y = Transpose<perm=[1,0,2]>(x)", SERIES, {}, 17, "Transpose works across the batch"),
    "the batch is folded in": ("y = Reshape(x, s)", SERIES, {"s": I([-1, 12])}, 17, "Reshape turns a batch of 1 into"),
    "softmax of a map": ("y = Softmax<axis=1>(x)", PICTURE, {}, 17, "Softmax is supported over all values"),
    "mean of the channels": ("y = ReduceMean<axes=[1]>(x)", PICTURE, {}, 13, "ReduceMean works over the channels"),
    "reflection": (
        'y = Pad<mode="reflect">(x, p)',
        PICTURE,
        {"p": I([0, 0, 1, 1, 0, 0, 1, 1])},
        17,
        "Pad in mode 'reflect'",
    ),
    "backwards": (
        "y = Slice(x, a, b, c, d)",
        SERIES,
        {"a": I([-1]), "b": I([-99]), "c": I([2]), "d": I([-1])},
        17,
        "Slice goes backwards",
    ),
    "cubic": (
        'y = Resize<mode="cubic">(x, "", s)',
        PICTURE,
        {"s": np.float32([1, 1, 2, 2])},
        17,
        "Resize in mode 'cubic'",
    ),
    "two axes meet the batch": (
        "a = ReduceMean<axes=[2,3],keepdims=0>(x) y = Add(x, a)",
        (0, 4, 8, 4),
        {},
        13,
        "aligns the batch",
    ),
    "division by what is computed": (
        "a = Sigmoid(x) y = Div(x, a)",
        PICTURE,
        {},
        17,
        "Div by what the network computes",
    ),
    "class ids": ("a = ArgMax<axis=1,keepdims=0>(x) y = Cast<to=1>(a)", ROW, {}, 17, "ArgMax is not an operator"),
    "whole numbers": ("a = Cast<to=7>(x) y = Cast<to=1>(a)", ROW, {}, 17, "Cast converts to another type than float"),
    "places of the largest": (
        "a, b = MaxPool<kernel_shape=[2,2]>(x) y = Relu(a)",
        PICTURE,
        {},
        17,
        "MaxPool tells where",
    ),
    "training mode": (
        "y, m2, v2 = BatchNormalization<training_mode=1>(x, s, s, s, s)",
        PICTURE,
        {"s": np.ones(4, np.float32)},
        17,
        "BatchNormalization uses the statistics of the batch",
    ),
    "a constant of great size": (
        "c = ConstantOfShape(s) d = ReduceMax<keepdims=0>(c) y = Add(x, d)",
        ROW,
        {"s": I([1 << 20, 1 << 20])},
        17,
        "ConstantOfShape computes a constant that is too large",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_use_that_the_graph_does_not_hold_is_refused_by_name(name: str, tmp_path: Path) -> None:
    text, shape, weights, opset, message = REFUSED[name]
    with pytest.raises(UnsupportedOperatorError, match=message) as caught:
        read_network(write(tmp_path / "m.onnx", text, shape, weights, opset))
    assert caught.value.where
    assert caught.value.do


@pytest.mark.parametrize(
    "text",
    ["y = Conv(x, w)", "y = Gemm(x, w)", "a = Relu(x) y = Concat<axis=1>(x, a, w)", "y = MaxPool(x)", "y = Relu(z)"],
)
def test_nodes_that_contradict_themselves_are_no_traceback(text: str, tmp_path: Path) -> None:
    with pytest.raises(EdgehoneError) as caught:
        read_network(write(tmp_path / "m.onnx", text, PICTURE, {"w": (2, 3, 5, 5)}, 17))
    assert caught.value.do
