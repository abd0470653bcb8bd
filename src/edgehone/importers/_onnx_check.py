"""The graph that was read and ONNX Runtime on the file: both answer the same random inputs.

The graph must answer as the float file does, to rounding. A file with levels is compared as well: without its
quantization the network answers otherwise, but not by much; inputs lie where the file's levels reach.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from edgehone.errors import InputError, ModelFileError, NetworkError
from edgehone.graph.ir import Graph, Shape
from edgehone.graph.network import GraphNetwork
from edgehone.importers._onnx_file import OnnxFile, damaged
from edgehone_agent.runtimes import RUNTIMES

_SPREADS = (1.0, 4.0, 0.25)  # of the readings of each call: answers that one size of input saturates, another moves
_PARTS_OF_RANGE = (8, 12, 24)  # how often the spread of each call fits into the range of a quantized input
_TOLERANCE = 1e-4  # of the largest answer of a call
_FLOOR = 1e-6  # absolute: a sigmoid near 0 is 1 - (1 - 1e-7)
_TOLERANCE_HALF = 1e-2  # where the file holds weights in 16 bits
_TOLERANCE_LEVELS = 0.3  # root mean square, of the answers'


def check_answers(graph: Graph, file: OnnxFile, floats: OnnxFile) -> None:
    """Return when the graph answers as the file.

    Args:
        graph: what was read.
        file: the file.
        floats: the file without levels; the same one when it had none.

    Raises:
        ModelFileError: ONNX Runtime does not take the file.
        NetworkError: other answers.
    """
    x = _inputs((file.batch, *file.shape[1:]), floats.input_range)
    with torch.no_grad():
        found = GraphNetwork(graph).eval()(torch.from_numpy(x)).numpy()
    expected = _answers(floats.model, x, file)
    half = any(t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for t in file.model.graph.initializer)
    allowed = _TOLERANCE_HALF if half else _TOLERANCE
    if found.shape != expected.shape or not _close(found, expected, allowed):
        same = found.shape == expected.shape
        off = f"by up to {np.abs(found - expected).max():.3g}" if same else f"{found.shape}, not {expected.shape}"
        raise NetworkError(
            f"the graph that was read answers otherwise than the file: {off}",
            where=str(file.path),
            do="this operator is read wrongly or the file works by chance: report it with the file, please",
        )
    if floats is not file:
        low, high = floats.output_range or (-np.inf, np.inf)
        _compare_levels(np.clip(found, low, high), _answers(file.model, x, file), file.path)


def _close(found: NDArray[np.float32], expected: NDArray[np.float32], allowed: float) -> bool:
    """Whether the answers of every call agree; NaN in both is agreement."""
    calls = zip(np.split(found, len(_SPREADS)), np.split(expected, len(_SPREADS)), strict=True)
    return all(
        np.allclose(
            ours, theirs, allowed, allowed * np.abs(np.nan_to_num(theirs)).max(initial=0) + _FLOOR, equal_nan=True
        )
        for ours, theirs in calls
    )


def _inputs(size: Shape, input_range: tuple[float, float] | None) -> NDArray[np.float32]:
    """Random readings for every call; where the file says how far its inputs reach, within that, near the middle."""
    random = np.random.default_rng(0)
    if input_range is None:
        return np.concatenate([spread * random.standard_normal(size, np.float32) for spread in _SPREADS])
    low, high = input_range
    calls = [random.standard_normal(size, np.float32) * (high - low) / part for part in _PARTS_OF_RANGE]
    centre = 0.0 if min(-low, high) > (high - low) / 4 else (low + high) / 2  # readings with two signs are around 0
    return np.clip(centre + np.concatenate(calls), low, high).astype(np.float32)


def _compare_levels(found: NDArray[np.float32], expected: NDArray[np.float32], path: Path) -> None:
    calls = np.reshape(found, (len(_SPREADS), -1)), np.reshape(expected, (len(_SPREADS), -1))
    # The best call: levels inside the network saturate where a reading is unlike those that it was calibrated on.
    offs, sizes = (np.sqrt(np.mean(each**2, 1)) for each in (calls[0] - calls[1], calls[1]))
    best = int(np.argmin(offs / (sizes + _FLOOR)))
    off, size = float(offs[best]), float(sizes[best])
    if not off <= _TOLERANCE_LEVELS * size + _FLOOR:
        raise NetworkError(
            f"without its quantization the network answers otherwise than the file: off by {off:.3g} of {size:.3g}",
            where=str(path),
            do="hand in the float network that it was quantized from",
        )


def _answers(model: ModelProto, x: NDArray[np.float32], file: OnnxFile) -> NDArray[np.float32]:
    """What ONNX Runtime answers, called with one batch of the file after another."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            path.write_bytes(model.SerializeToString())
            session = RUNTIMES.get("onnxruntime").load(path)
            try:
                rows = [session.run(batch) for batch in np.split(x, len(x) // file.batch)]
            finally:
                session.close()
        except (ModelFileError, InputError) as error:
            raise damaged(file.path, ValueError(error.what.replace("the file ", "", 1))) from error
        except ValueError as error:
            raise damaged(file.path, error) from error
    return np.concatenate(rows)
