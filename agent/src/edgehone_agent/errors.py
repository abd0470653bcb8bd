"""The error tree, shared by the node and the core.

    EdgehoneError                     exit 1
    ├── InputError                    exit 4   what a person, a file or the network handed in is wrong
    │   ├── ModelFileError                     a model file cannot be read or is not what it claims to be
    │   ├── ConfigError                        the agent's settings are wrong
    │   ├── BundleError                        a bundle or delta is damaged, unsafe or not what it claims to be
    │   ├── TrustError                         signed metadata was refused: signature, version, date or digest
    │   └── UnfitError                         a release that this node cannot run
    └── HostError                     exit 6   this machine cannot do what was asked (disk, permission, missing part)
        ├── MissingExtraError                  an optional dependency is not installed
        ├── StateError                         the node's own folder cannot be read or written
        ├── RegistryError                      the registry cannot be reached or answers nonsense
        └── BusyError                          too many requests at once; try again later

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


class ConfigError(InputError):
    """The agent's configuration is wrong: unknown setting, wrong type, or settings that contradict each other."""

    code = "EH175"


class BundleError(InputError):
    """A bundle or delta is damaged, unsafe to open, or not what it claims to be."""

    code = "EH180"


class TrustError(InputError):
    """Signed metadata or a downloaded file was refused: signature, threshold, version, date or digest."""

    code = "EH190"


class UnfitError(InputError):
    """A release that this node cannot run: machine, runtime, memory, latency or agent version."""

    code = "EH195"


class StateError(HostError):
    """The node's own folder cannot be read or written: full, read-only, or damaged."""

    code = "EH330"


class RegistryError(HostError):
    """The registry cannot be reached, or answers something that is no registry."""

    code = "EH340"


class BusyError(HostError):
    """Too many requests at once. Nothing was lost; try again after `retry_after_s`."""

    code = "EH350"
    retry_after_s = 1
