"""Payloads at rest: arrays as bytes, and bytes sealed so that only this node's key opens them.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce per row, which stands in front of the sealed bytes. What a row
is called is its associated data: a payload that was moved to another row does not open.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone_agent.durable import write_bytes
from edgehone_agent.errors import ConfigError, StateError

KEY_BYTES = 32
NONCE_BYTES = 12
SEAL_BYTES = NONCE_BYTES + 16  # what sealing adds: the nonce and the tag
_PURPOSE = b"edgehone capture 1"


class UnreadableError(ValueError):
    """A payload is damaged, belongs to another row, or was sealed with another key."""


class Seal:
    """Seals and opens payloads with a key that is derived from the node's (HKDF-SHA256, RFC 5869)."""

    def __init__(self, key: bytes) -> None:
        """Raises ConfigError: the key is shorter than 16 bytes."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        if len(key) < 16:
            raise ConfigError(f"the key has {len(key)} bytes", do=f"give {KEY_BYTES} random bytes")
        self._cipher = AESGCM(HKDF(SHA256(), KEY_BYTES, salt=None, info=_PURPOSE).derive(key))
        self._refused = InvalidTag

    def close(self, payload: bytes, row: str) -> bytes:
        """The payload, sealed for the row of this name."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, payload, row.encode())

    def open(self, sealed: bytes, row: str) -> bytes:
        """The payload of a row.

        Raises:
            UnreadableError: see there.
        """
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], row.encode())
        except (self._refused, ValueError) as error:
            raise UnreadableError("the payload does not open") from error


def read_key(path: Path) -> bytes:
    """The node's key, made on first use: 32 random bytes that only their owner may read.

    Raises:
        StateError: the file cannot be read or written, or is no key.
    """
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = os.urandom(KEY_BYTES)
        write_bytes(path, key, mode=0o600)
    except OSError as error:
        raise StateError(
            f"the key cannot be read: {error.strerror}", where=str(path), do="fix its permission"
        ) from error
    if len(key) != KEY_BYTES:
        raise StateError(
            f"the key has {len(key)} bytes, not {KEY_BYTES}",
            where=str(path),
            do="restore it, or remove it: what was captured with it cannot be read again then",
        )
    return key


def pack(*arrays: NDArray[Any]) -> tuple[str, bytes]:
    """Arrays as bytes, and as text how to read them: for each its type, its shape, and the type it is stored in.

    Float32 that holds whole numbers from 0 to 255, as pictures do, takes one byte a value.
    """
    layout, parts = [], []
    for array in arrays:
        stored = np.asarray(array)
        if stored.dtype == np.float32 and stored.size >= 64:
            with np.errstate(invalid="ignore"):
                small = stored.astype(np.uint8)
            stored = small if np.array_equal(small, stored) else stored
        layout.append([array.dtype.str, array.shape, stored.dtype.str])
        parts.append(stored.tobytes())
    return json.dumps(layout, separators=(",", ":")), b"".join(parts)


def unpack(layout: str, content: bytes) -> list[NDArray[Any]]:
    """The arrays that `pack` was given.

    Raises:
        UnreadableError: the bytes do not fit the layout.
    """
    arrays, at = [], 0
    try:
        for kind, shape, stored in json.loads(layout):
            count = int(np.prod(shape, dtype=np.int64))
            size = count * np.dtype(stored).itemsize
            if not 0 <= size <= len(content) - at:
                raise UnreadableError("the payload is too short for its layout")
            arrays.append(np.frombuffer(content, stored, count, at).reshape(shape).astype(kind))
            at += size
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UnreadableError(f"the layout of the payload is damaged: {error}") from error
    return arrays
