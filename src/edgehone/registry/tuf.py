"""python-tuf's metadata classes and its signer, under one roof. Its modules hand them out without declaring it.

Import this where metadata is read or written, not at the top of a module that `edgehone --help` loads.
"""

from __future__ import annotations

from securesystemslib.signer import CryptoSigner, Key
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError

__all__ = [
    "CryptoSigner",
    "DelegatedRole",
    "Delegations",
    "DeserializationError",
    "Key",
    "LengthOrHashMismatchError",
    "MetaFile",
    "Metadata",
    "Root",
    "Snapshot",
    "TargetFile",
    "Targets",
    "Timestamp",
]
