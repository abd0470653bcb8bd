"""The IDX format of the MNIST family: two zero bytes, type, number of axes, big-endian uint32 lengths, values."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from edgehone.errors import DataError

_UINT8 = 0x08


def parse_idx(content: bytes, where: str) -> NDArray[np.uint8]:
    """The array of a file of unsigned bytes, read-only and of the shape that the file states.

    Raises:
        DataError: not an IDX file, values of another type, or a length that does not fit the shape.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UINT8:
        raise DataError("this is no IDX file of unsigned bytes", where=where, do="fetch the file again")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError("the header is cut off", where=where, do="fetch the file again")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    values = np.frombuffer(content, np.uint8, offset=start)
    if values.size != np.prod(shape, dtype=np.int64):
        raise DataError(f"{values.size} values do not make {shape}", where=where, do="fetch the file again")
    return values.reshape(shape)
