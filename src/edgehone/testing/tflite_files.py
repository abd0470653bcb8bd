"""What independent programs make of a .tflite file: LiteRT, TensorFlow Lite Micro and the Ethos-U compiler.

Inputs and outputs are in the file's layout and dtype, one example after another: (N, 1, H, W, C).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

Array = NDArray[Any]

_ARENA_BYTES = 16 << 20


def run_litert(data: bytes, examples: Array, *, reference: bool = False) -> Array:
    """Outputs of LiteRT with XNNPACK, or of its reference kernels."""
    interpreter = _interpreter(data, reference)
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    outputs = []
    for example in examples:
        interpreter.set_tensor(source["index"], example)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"]))
    return np.stack(outputs)


def left_by_xnnpack(data: bytes) -> list[str]:
    """Operators that XNNPACK does not take, as LiteRT will execute them: empty when it runs the whole file.

    LiteRT lists the operators of the file and the delegate nodes that took the place of some. Walking from the outputs
    to the input over whoever writes a tensor, delegates first, meets exactly what is executed.
    """
    interpreter = _interpreter(data, reference=False)
    writers: dict[int, tuple[str, tuple[int, ...]]] = {}
    for operator in interpreter._get_ops_details():  # delegate nodes stand last
        for tensor in operator["outputs"]:
            writers[int(tensor)] = (operator["op_name"], tuple(int(i) for i in operator["inputs"]))
    left: list[str] = []
    seen: set[int] = set()
    waiting = [int(details["index"]) for details in interpreter.get_output_details()]
    while waiting:
        tensor = waiting.pop()
        if tensor in seen or tensor not in writers:
            continue
        seen.add(tensor)
        name, inputs = writers[tensor]
        if name != "DELEGATE":
            left.append(name)
        waiting.extend(inputs)
    return sorted(left)


def run_tflite_micro(data: bytes, examples: Array) -> Array:
    """Outputs of TensorFlow Lite Micro's reference kernels."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(data, arena_size=_ARENA_BYTES)
    outputs = []
    for example in examples:
        interpreter.set_input(example, 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0))
    return np.stack(outputs)


def operators_off_npu(data: bytes, folder: Path) -> int:
    """Number of operators that the Ethos-U compiler leaves to the CPU. Raises RuntimeError when it fails."""
    file = folder / "model.tflite"
    file.write_bytes(data)
    command = [sys.executable, "-m", "ethosu.vela", str(file), "--output-dir", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"CPU operators = (\d+)", result.stdout)
    if result.returncode or found is None:
        raise RuntimeError(f"vela failed: {result.stdout}{result.stderr}")
    return int(found.group(1))


def _interpreter(data: bytes, reference: bool) -> Interpreter:
    kind = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    interpreter = Interpreter(model_content=data, num_threads=1, experimental_op_resolver_type=kind)
    interpreter.allocate_tensors()
    return interpreter
