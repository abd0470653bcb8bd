"""LiteRT (formerly TensorFlow Lite): .tflite files, on the CPU with XNNPACK.

The library verifies the flatbuffer before it uses it, and `_tflite_graph` what the flatbuffer says, so a truncated or
damaged file is refused. A changed byte inside the weights cannot be seen by any runtime: that is what a bundle's
digests are for.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import InputError, MissingExtraError
from edgehone_agent.runtimes import Layout, TensorInfo
from edgehone_agent.runtimes._files import (
    check_ends,
    check_threads,
    describe_ends,
    read_model,
    refuse_embedding,
    refuse_file,
)
from edgehone_agent.runtimes._tflite_graph import check_graph

_IDENTIFIER = b"TFL3"  # file identifier of the TFLite schema, bytes 4 to 7 of every such file
_DTYPES = ("float32", "int8", "uint8")


class LiteRTSession:
    """One interpreter, one input, one answer, and maybe an embedding."""

    layout: Layout = "channels_last"

    def __init__(self, interpreter: Any, info: dict[str, Any], input_: TensorInfo, outputs: list[TensorInfo]) -> None:
        self.input = input_
        self.output = outputs[0]
        self.embedding = outputs[1] if len(outputs) > 1 else None
        self._info = info
        self._interpreter = interpreter
        self._input_index: int = interpreter.get_input_details()[0]["index"]
        self._output_index: int
        self._output_index, *more = (details["index"] for details in interpreter.get_output_details())
        self._embedding_index: int | None = more[0] if more else None
        # Bound once: at 1 µs per call an attribute look-up shows, and close() can replace them all.
        self._set: Callable[[int, NDArray[Any]], None] = interpreter.set_tensor
        self._invoke: Callable[[], None] = interpreter.invoke
        self._get: Callable[[int], NDArray[Any]] = interpreter.get_tensor

    def run(self, x: NDArray[Any]) -> NDArray[Any]:
        """Answer for `x` of `input.shape` and `input.dtype`; a copy, channels last.

        Raises:
            InputError: wrong shape or dtype, or the session is closed.
        """
        try:
            self._set(self._input_index, x)
            self._invoke()
            return self._get(self._output_index)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"the file does not take this input: {error}", do=f"give {self.input.dtype} of shape {self.input.shape}"
            ) from error

    def run_with_embedding(self, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Answer as `run` gives it, and the embedding of the same call; copies, channels last.

        Raises:
            InputError: wrong shape or dtype, the session is closed, or the file has no embedding.
        """
        if self._embedding_index is None:
            raise refuse_embedding()
        return self.run(x), self._get(self._embedding_index)

    def describe(self) -> dict[str, Any]:
        """Runtime, version, threads, input, output, embedding, accelerator, and XNNPACK's number of partitions."""
        return dict(self._info)

    def close(self) -> None:
        """Free the interpreter and its weights."""
        self._interpreter = None
        self._set = self._get = self._invoke = _closed


def _closed(*_: Any) -> Any:
    raise InputError("the session is closed", do="load the file again")


class LiteRT:
    """Loads .tflite files."""

    name: Final = "litert"
    suffixes: Final = (".tflite",)

    def version(self) -> str:
        """Version of ai-edge-litert, which is imported. Raises MissingExtraError when it is not installed."""
        _library()
        import ai_edge_litert

        return str(ai_edge_litert.__version__)

    def load(self, path: Path, *, threads: int = 1) -> LiteRTSession:
        """Open a .tflite file with XNNPACK kernels.

        Raises:
            ModelFileError: no such file, corrupt, another format, or more than one input or two outputs.
            InputError: `threads` is not between 1 and the number of cores.
            MissingExtraError: ai-edge-litert is not installed.
        """
        return _load(path, threads=threads, reference=False)


def load_reference(path: Path) -> LiteRTSession:
    """Open a .tflite file with the library's reference kernels: slow, and exact to the TFLite specification.

    Raises:
        ModelFileError, MissingExtraError: as `LiteRT.load`.
    """
    return _load(path, threads=1, reference=True)


def _library() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise MissingExtraError(
            f"LiteRT is needed to run .tflite files and cannot be imported: {error}",
            do='pip install "edgehone-agent[litert]"',
        ) from error
    return interpreter


def _load(path: Path, *, threads: int, reference: bool) -> LiteRTSession:
    library = _library()
    content = read_model(path, format_name="a .tflite")
    if content[4:8] != _IDENTIFIER:
        raise refuse_file("this is not a .tflite file (it lacks the TFL3 identifier)", path)
    check_threads(threads)
    kinds = library.OpResolverType
    try:
        check_graph(content)
        with _QUIET_ONCE():
            interpreter = library.Interpreter(
                model_content=content,
                num_threads=threads,
                experimental_op_resolver_type=kinds.BUILTIN_REF if reference else kinds.AUTO,
            )
            interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        operators = [details["op_name"] for details in interpreter._get_ops_details()]
    except (ValueError, RuntimeError) as error:
        raise refuse_file("the file is corrupt or uses what LiteRT does not know", path, error) from error
    check_ends(len(inputs), len(outputs), path)
    input_, answers = _tensor(inputs[0], path), [_tensor(details, path) for details in outputs]
    # The list keeps the operators that XNNPACK replaced; each partition it took over adds one DELEGATE.
    partitions = operators.count("DELEGATE")
    info = {
        "runtime": runtime.name,
        "version": runtime.version(),
        "threads": threads,
        **describe_ends(input_, answers),
        "accelerator": "reference kernels" if reference else "XNNPACK" if partitions else "built-in kernels",
        "partitions": partitions,
    }
    return LiteRTSession(interpreter, info, input_, answers)


def _tensor(details: dict[str, Any], path: Path) -> TensorInfo:
    dtype = np.dtype(details["dtype"]).name
    if dtype not in _DTYPES:
        raise refuse_file(f"tensor {details['name']!r} is {dtype}; edgehone runs {', '.join(_DTYPES)}", path)
    shape = tuple(int(size) for size in details["shape"])
    scale, zero_point = details["quantization"]
    if dtype == "float32" or scale == 0:
        return TensorInfo(str(details["name"]), shape, dtype)
    return TensorInfo(str(details["name"]), shape, dtype, float(scale), int(zero_point))


class _QuietOnce:
    """Drops the line that the library writes to stderr when a process makes its first XNNPACK delegate.

    The library offers no setting for it. Only the first load of a process redirects the descriptor, for a few
    milliseconds; what goes wrong in a load comes back as an exception all the same.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = False

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            first, self._done = not self._done, True
            if not first:
                yield
                return
            kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
                os.close(kept)
                os.close(null)


_QUIET_ONCE = _QuietOnce()
runtime = LiteRT()
