"""The error tree, shared by the node and the core.

    EdgehoneError                     exit 1
    ├── InputError                    exit 4   what a person, a file or the network handed in is wrong
    │   └── ModelFileError                     a model file cannot be read or is not what it claims to be
    └── HostError                     exit 6   this machine cannot do what was asked (disk, permission, missing part)
        └── MissingExtraError                  an optional dependency is not installed

`edgehone.errors` continues the tree for the core. Every error says what is wrong, where, and what to do next; its
`code` names a page under docs/errors, and `exit_code` is what a command line program returns. Codes are never reused.
"""

from __future__ import annotations

from typing import ClassVar


class EdgehoneError(Exception):
    """Root of every error that edgehone raises on purpose.

    Args:
        what: what is wrong, in plain words.
        where: the file, layer, option or row it is about.
        do: what the reader can do next.
    """

    code: ClassVar[str] = "EH000"
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        self.what = what
        self.where = where
        self.do = do
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  → {self.do}" if self.do else text


class InputError(EdgehoneError):
    """Something handed in from outside is wrong."""

    code = "EH100"
    exit_code = 4


class ModelFileError(InputError):
    """A model file is missing, unreadable, corrupt, or of a format that the runtime does not take."""

    code = "EH110"


class HostError(EdgehoneError):
    """This machine cannot do what was asked."""

    code = "EH300"
    exit_code = 6


class MissingExtraError(HostError):
    """An optional dependency is needed and not installed."""

    code = "EH310"
