"""The golden probe: inputs with the answers that the model gave where it was made. A node asks them before it serves.

The file is a `.npz` without pickle: `x` (N, *input shape) float32, `y` (N, *output shape) float32, and `tolerance`, the
largest difference of any value that is still the same answer: runtimes round differently by a step or two of the
output's scale. A model of another network, or for another preprocessing, differs by far more.

Refused: arrays of another type, order or form than numpy writes for these; and heads that promise more than there is,
for which numpy would set memory aside.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.errors import BundleError, InputError
from edgehone_agent.model import Model

Array = NDArray[np.float32]

MIN_EXAMPLES, MAX_EXAMPLES = 8, 256
MAX_PROBE_BYTES = 64 << 20
_MAGIC = b"\x93NUMPY\x01\x00"
_HEAD = re.compile(rb"\{'descr': '<f4', 'fortran_order': False, 'shape': \(([0-9, ]{0,200})\), \} *\n")
_DAMAGE = (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, OSError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class ProbeResult:
    """What a model made of the probe.

    Attributes:
        ok: every answer is within the tolerance.
        largest_difference: over all values; infinite when an answer is missing or not finite.
        text: for people.
    """

    ok: bool
    largest_difference: float
    text: str


@dataclass(frozen=True)
class Probe:
    """Inputs (N, *input shape), expected outputs (N, *output shape), both float32 in torch order, and the tolerance."""

    x: Array
    y: Array
    tolerance: float

    def check(self, model: Model) -> ProbeResult:
        """Ask a model. A model that refuses the inputs has failed; nothing is raised for it."""
        try:
            found = model.predict(self.x)
        except InputError as error:
            return ProbeResult(False, float("inf"), f"the model refuses the probe: {error.what}")
        if found.shape != self.y.shape:
            return ProbeResult(
                False, float("inf"), f"the model answers {found.shape}, the probe expects {self.y.shape}"
            )
        with np.errstate(invalid="ignore"):  # an infinite answer is said below
            difference = float(np.abs(found - self.y).max())
        if not np.isfinite(difference):
            return ProbeResult(False, float("inf"), "the model answers NaN or infinity")
        held = difference <= self.tolerance
        verdict = "as expected" if held else "another answer"
        text = f"{verdict}: off by up to {difference:.4g}, {self.tolerance:.4g} allowed, {len(self.x)} inputs"
        return ProbeResult(held, difference, text)

    def to_bytes(self) -> bytes:
        """The file; the same probe gives the same bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name, value in (("x", self.x), ("y", self.y), ("tolerance", np.float32(self.tolerance))):
                array = io.BytesIO()
                np.lib.format.write_array(array, np.asarray(value, np.float32), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), array.getvalue())
        return buffer.getvalue()


def read_probe(content: bytes) -> Probe:
    """Read a probe.

    Raises:
        BundleError: damaged, too long, fewer than 8 or more than 256 examples, NaN, or no positive tolerance.
    """
    where = "probe.npz"
    if len(content) > MAX_PROBE_BYTES:
        raise BundleError(f"is longer than {MAX_PROBE_BYTES} bytes", where=where)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_PROBE_BYTES:
                raise BundleError(f"unpacks to more than {MAX_PROBE_BYTES} bytes", where=where)
            x, y, tolerance = (_array(archive.read(f"{name}.npy")) for name in ("x", "y", "tolerance"))
    except _DAMAGE as error:
        raise BundleError(f"is no probe, or a damaged one: {error}", where=where) from error
    if tolerance.shape != ():
        raise BundleError("its tolerance is not one number", where=where)
    if x.ndim < 2 or y.ndim < 1 or not MIN_EXAMPLES <= len(x) <= MAX_EXAMPLES or len(x) != len(y):
        raise BundleError(f"holds no {MIN_EXAMPLES} to {MAX_EXAMPLES} inputs with their answers", where=where)
    if not (np.isfinite(x).all() and np.isfinite(y).all() and np.isfinite(tolerance) and tolerance > 0):
        raise BundleError("holds NaN, infinity, or a tolerance that is not above 0", where=where)
    return Probe(x, y, float(tolerance))


def _array(content: bytes) -> Array:
    """An array from the bytes of a `.npy` file of format 1.0. Raises ValueError for any other."""
    length = int.from_bytes(content[8:10], "little")
    head = _HEAD.fullmatch(content[10 : 10 + length])
    if content[:8] != _MAGIC or head is None:
        raise ValueError("an array is not of float32")
    shape = tuple(int(axis) for axis in head[1].split(b",") if axis.strip())
    body = content[10 + length :]
    if len(shape) > 8 or 4 * prod(shape) != len(body):
        raise ValueError("an array is not as long as it says")
    return np.frombuffer(body, "<f4").reshape(shape).astype(np.float32)
