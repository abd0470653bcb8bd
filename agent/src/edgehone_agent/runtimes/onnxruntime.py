"""ONNX Runtime: .onnx files, on the CPU.

Sessions never spin on idle cores, write nothing to the log, and send nothing anywhere. A free batch becomes 1, so the
library can plan memory once. A file whose weights lie in another file is refused: one model is one file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

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

_DTYPES = {"tensor(float)": "float32", "tensor(int8)": "int8", "tensor(uint8)": "uint8"}
_FATAL_ONLY = 4


class OnnxSession:
    """One ONNX Runtime session, one input, one answer, and maybe an embedding."""

    layout: Layout = "channels_first"

    def __init__(self, session: Any, info: dict[str, Any], input_: TensorInfo, outputs: list[TensorInfo]) -> None:
        self.input = input_
        self.output = outputs[0]
        self.embedding = outputs[1] if len(outputs) > 1 else None
        self._info = info
        self._session = session
        self._input_name = input_.name
        self._output_names = [outputs[0].name]
        self._both_names = [output.name for output in outputs]
        self._run: Callable[[list[str], dict[str, NDArray[Any]]], list[NDArray[Any]]] = session.run
        self._errors = _library_errors()

    def run(self, x: NDArray[Any]) -> NDArray[Any]:
        """Answer for `x` of `input.shape` and `input.dtype`, channels first.

        Raises:
            InputError: wrong shape or dtype, or the session is closed.
        """
        try:
            return self._run(self._output_names, {self._input_name: x})[0]
        except self._errors as error:
            raise self._refused(error) from error

    def run_with_embedding(self, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Answer as `run` gives it, and the embedding of the same call, channels first.

        Raises:
            InputError: wrong shape or dtype, the session is closed, or the file has no embedding.
        """
        if self.embedding is None:
            raise refuse_embedding()
        try:
            answer, embedding = self._run(self._both_names, {self._input_name: x})
        except self._errors as error:
            raise self._refused(error) from error
        return answer, embedding

    def _refused(self, error: Exception) -> InputError:
        return InputError(
            f"the file does not take this input: {error}", do=f"give {self.input.dtype} of shape {self.input.shape}"
        )

    def describe(self) -> dict[str, Any]:
        """Runtime, version, threads, input, output, embedding, and accelerator."""
        return dict(self._info)

    def close(self) -> None:
        """Free the session and its weights."""
        self._session = None
        self._run = _closed


def _closed(*_: Any) -> Any:
    raise InputError("the session is closed", do="load the file again")


class OnnxRuntime:
    """Loads .onnx files."""

    name: Final = "onnxruntime"
    suffixes: Final = (".onnx",)

    def version(self) -> str:
        """Version of onnxruntime, which is imported. Raises MissingExtraError when it is not installed."""
        return str(_library().__version__)

    def load(self, path: Path, *, threads: int = 1) -> OnnxSession:
        """Open an .onnx file on the CPU.

        Raises:
            ModelFileError: no such file, corrupt, another format, or more than one input or two outputs.
            InputError: `threads` is not between 1 and the number of cores.
            MissingExtraError: onnxruntime is not installed.
        """
        library = _library()
        content = read_model(path, format_name="an .onnx")
        check_threads(threads)
        try:
            session = _open(library, content, threads)
            inputs = session.get_inputs()
            batch = inputs[0].shape[0] if len(inputs) == 1 and inputs[0].shape else None
            if isinstance(batch, str):  # the name of a free batch is known only once the file is open: open it again
                session = _open(library, content, threads, free_batch=batch)
            inputs, outputs = session.get_inputs(), session.get_outputs()
        except _library_errors() as error:
            raise refuse_file("the file is corrupt or uses what ONNX Runtime does not know", path, error) from error
        check_ends(len(inputs), len(outputs), path)
        input_, answers = _tensor(inputs[0], path), [_tensor(argument, path) for argument in outputs]
        info = {
            "runtime": self.name,
            "version": self.version(),
            "threads": threads,
            **describe_ends(input_, answers),
            "accelerator": "MLAS (CPU)",
        }
        return OnnxSession(session, info, input_, answers)


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            f"ONNX Runtime is needed to run .onnx files and cannot be imported: {error}",
            do='pip install "edgehone-agent[onnxruntime]"',
        ) from error
    onnxruntime.disable_telemetry_events()  # only the Windows build has any
    return onnxruntime


def _library_errors() -> tuple[type[Exception], ...]:
    """Everything the library raises; its classes share no parent of their own, so they are listed from its module."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = (kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*found, ValueError, RuntimeError)


def _open(library: Any, content: bytes, threads: int, free_batch: str | None = None) -> Any:
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = library.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if free_batch is not None:
        options.add_free_dimension_override_by_name(free_batch, 1)
    # Without the fallback the library tries nothing else, and prints nothing, when it refuses a file.
    return library.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)


def _tensor(argument: Any, path: Path) -> TensorInfo:
    """One input or output. Quantization is inside an .onnx file's graph, so scale and zero point stay None."""
    if argument.type not in _DTYPES:
        known = ", ".join(_DTYPES.values())
        raise refuse_file(f"tensor {argument.name!r} is {argument.type}; edgehone runs {known}", path)
    batch, *rest = argument.shape or (None,)
    if not all(isinstance(size, int) for size in rest):
        raise refuse_file(f"tensor {argument.name!r} has free sizes {argument.shape}; only the batch may be free", path)
    return TensorInfo(argument.name, (batch if isinstance(batch, int) else 1, *rest), _DTYPES[argument.type])


runtime = OnnxRuntime()
