"""What ONNX Runtime makes of an .onnx file: its answers, and the operators it really executes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

_FATAL_ONLY = 4


def run_onnx(data: bytes, x: NDArray[np.float32], *, optimized: bool = True) -> NDArray[np.float32]:
    """Answers for a batch, with ONNX Runtime's optimizations or, operator by operator as the file says, without."""
    answer: NDArray[np.float32] = _session(data, _options(optimized)).run(["output"], {"input": x})[0]
    return answer


def left_in_floats(data: bytes) -> list[str]:
    """Operators of an int8 file that ONNX Runtime computes in floats: empty when integers reach from end to end.

    These are, after all optimizations of this machine, the operators that read what the input or a DequantizeLinear
    gives, except for the QuantizeLinear of the input. A group that was replaced by an integer kernel reads levels.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optimized.onnx"
        options = _options(optimized=True)
        options.optimized_model_filepath = str(file)
        _session(data, options)
        graph = onnx.load(file).graph
    floats = {graph.input[0].name}
    left = []
    for node in graph.node:
        reads_floats = bool(floats & set(node.input))
        if reads_floats and not (node.op_type == "QuantizeLinear" and node.input[0] == graph.input[0].name):
            left.append(node.op_type)
        if node.op_type == "DequantizeLinear" or (reads_floats and node.op_type != "QuantizeLinear"):
            floats.update(node.output)
    return left


def _options(optimized: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    return options


def _session(data: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
