"""A model file used with real values: readings in torch order go in, float32 answers in torch order come out.

    with open_model("model.tflite") as model:
        scores = model.predict(picture)          # (3, 32, 32) → (10,), or (N, 3, 32, 32) → (N, 10)

Torch order is (C, H, W), (C, L) or (F) per example. A channels-last file holds (1, H, W, C), (1, L, C) or (1, F);
other ranks are the same in both. A sequence (C, L) may lie in a file as a picture of height 1; such a file takes both
(C, L) and (C, 1, L), and its answer drops the height again when the question had none. Quantized files are fed and
read with their own scales.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgehone_agent.errors import InputError, ModelFileError
from edgehone_agent.runtimes import RUNTIMES, Layout, Runtime, Session, TensorInfo

Array = NDArray[np.float32]
Shape = tuple[int, ...]


def find_runtime(path: Path, name: str | None = None) -> Runtime:
    """The runtime called `name`, or the first one that takes files with this suffix.

    Raises:
        ModelFileError: no runtime takes such files.
        PluginError: there is no runtime of that name.
    """
    if name is not None:
        return RUNTIMES.get(name)
    known = {suffix: runtime for runtime in map(RUNTIMES.get, RUNTIMES.names()) for suffix in runtime.suffixes}
    runtime = known.get(path.suffix.lower())
    if runtime is None:
        raise ModelFileError(
            f"no runtime takes files that end in {path.suffix!r}",
            where=str(path),
            do=f"give a file that ends in {' or '.join(sorted(known))}, or name the runtime",
        )
    return runtime


def example_shape(info: TensorInfo, layout: Layout) -> Shape:
    """Shape of one example in torch order: (C, H, W), (C, L) or (F)."""
    rest = info.shape[1:]
    return (rest[-1], *rest[:-1]) if layout == "channels_last" and len(rest) in (2, 3) else rest


def _accepted(session: Session) -> tuple[Shape, ...]:
    shape = example_shape(session.input, session.layout)
    return (shape, (shape[0], shape[2])) if len(shape) == 3 and shape[1] == 1 else (shape,)


def _as_batch(shapes: tuple[Shape, ...], x: ArrayLike) -> tuple[Array, bool, int]:
    """`x` as a checked float32 batch (N, *example), whether it was one, and the rank of one example of it."""
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise InputError(f"the input is no array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"the input is {array.dtype}, not numbers", do="give an array of real numbers")
    for shape in shapes:
        if array.shape == shape or array.shape[1:] == shape:
            break
    else:
        expected = " or ".join(str(shape) for shape in shapes)
        raise InputError(
            f"expected an example of shape {expected} or a batch of such, got {array.shape}",
            do="put channels first, as in torch",
        )
    batch = array.reshape(-1, *shapes[0])  # (N, C, H, W), (N, C, L) or (N, F)
    if batch.dtype != np.float32:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused below
            batch = batch.astype(np.float32)
    flat = batch.ravel()
    # The sum of squares is three times quicker than isfinite and never finite when a value is not; it may overflow on
    # large but good values, hence the second look.
    if not math.isfinite(np.vdot(flat, flat)) and not np.isfinite(flat).all():
        raise InputError("the input holds NaN or infinite values", do="drop or repair these readings first")
    return batch, array.shape != shape, len(shape)


def to_file(session: Session, x: ArrayLike) -> NDArray[np.generic]:
    """Real values as the file's input: its dtype, its layout, quantized with its scale.

    Args:
        session: the loaded file.
        x: one example or a batch in torch order, see the module docstring.

    Returns:
        An array (N, ...) whose rows each fit the file; N is 1 for one example.

    Raises:
        InputError: not numbers, a shape that does not fit, NaN or infinity, or an integer input without a scale.
    """
    batch, _, _ = _as_batch(_accepted(session), x)
    return _encode(session, batch)


def _encode(session: Session, batch: Array) -> NDArray[np.generic]:
    if session.layout == "channels_last" and batch.ndim in (3, 4):
        batch = np.ascontiguousarray(np.moveaxis(batch, 1, -1))  # (N, C, H, W) → (N, H, W, C)
    info = session.input
    if info.dtype == "float32":
        return batch
    scale, zero_point = _quantization(info)
    limits = np.iinfo(info.dtype)
    with np.errstate(over="ignore"):  # far outside the range saturates, as it should
        levels = np.rint(batch / np.float32(scale)) + zero_point
    integers: NDArray[np.integer] = np.clip(levels, limits.min, limits.max).astype(info.dtype)
    return integers


def from_file(session: Session, y: NDArray[np.generic], *, rank: int | None = None) -> Array:
    """The file's output as float32 real values in torch order (N, ...).

    Args:
        session: the loaded file.
        y: what `session.run` returned; several may be joined along the batch.
        rank: rank of one example that went in; 2 drops the height of 1 that a sequence has inside a file.
    """
    info = session.output
    if info.dtype == "float32":
        real = y.astype(np.float32, copy=False)
    else:
        scale, zero_point = _quantization(info)
        real = (y.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    if session.layout == "channels_last" and real.ndim in (3, 4):
        real = np.ascontiguousarray(np.moveaxis(real, -1, 1))  # (N, H, W, C) → (N, C, H, W)
    return real[:, :, 0] if rank == 2 and real.ndim == 4 and real.shape[2] == 1 else real


def _quantization(info: TensorInfo) -> tuple[float, int]:
    if info.scale is None or info.zero_point is None:
        raise InputError(
            f"tensor {info.name!r} is {info.dtype} and the file gives no scale for it",
            do="use Session.run with integers, or a file with float32 input and output",
        )
    return info.scale, info.zero_point


class Model:
    """A loaded file that speaks real values. Belongs to one thread at a time; close it, or use it in a `with`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._shapes = _accepted(session)

    def predict(self, x: ArrayLike) -> Array:
        """Answers as float32 in torch order: (N, ...) for a batch, without the batch for one example.

        Raises:
            InputError: not numbers, a shape that does not fit, NaN or infinity, or the model is closed.
        """
        batch, is_batch, rank = _as_batch(self._shapes, x)
        answer = from_file(self.session, self._run(_encode(self.session, batch)), rank=rank)
        return answer if is_batch else answer[0]

    def _run(self, inputs: NDArray[np.generic]) -> NDArray[np.generic]:
        run, size = self.session.run, self.session.input.shape[0]
        if len(inputs) == size:
            return run(inputs)
        if not len(inputs):
            return np.empty((0, *self.session.output.shape[1:]), self.session.output.dtype)
        short = -len(inputs) % size  # a file with a fixed batch takes whole ones only: fill up, then cut
        padded = np.concatenate([inputs, np.repeat(inputs[-1:], short, axis=0)]) if short else inputs
        answers = [run(padded[start : start + size]) for start in range(0, len(padded), size)]
        return np.concatenate(answers)[: len(inputs)]

    def close(self) -> None:
        """Free the session. Calling it twice is fine."""
        self.session.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_model(path: str | Path, *, runtime: str | None = None, threads: int = 1) -> Model:
    """Load a model file; the suffix picks the runtime unless one is named.

    Raises:
        ModelFileError: no such file, corrupt, or of a format no runtime takes.
        InputError: `threads` is not between 1 and the number of cores.
        MissingExtraError: the runtime is not installed; the message says what to install.
    """
    path = Path(path)
    return Model(find_runtime(path, runtime).load(path, threads=threads))
