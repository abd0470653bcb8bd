"""Importers: a network that was made elsewhere in, our graph out. One format is one file that defines `importer`.

Rules:

- `read_network` chooses by the file's suffix and hands the importer a file that exists, is readable and not empty.
- What comes back is the training form of `edgehone.graph.ir`, simplified, for any batch: it can be cut, trained and
  quantized as a traced network can. Parameters keep the file's names.
- An importer guesses nothing. It refuses what the graph cannot say, by name, and runs what it read beside the file: the
  same answers, or an error.
- A file is data. No importer runs code that a file brings along.

The files of importers import their libraries inside `read`: asking which files can be read costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgehone.errors import InputError, ModelFileError
from edgehone.plugins import Registry

if TYPE_CHECKING:
    from edgehone.graph.ir import Graph


class Importer(Protocol):
    """Reads one format.

    Attributes:
        suffixes: ends of the file names it reads, lower case, with the dot.
    """

    suffixes: tuple[str, ...]

    def read(self, path: Path) -> Graph:
        """The network of a file, in training form.

        Raises:
            ModelFileError: the file is damaged or not of this format.
            NetworkError: a network that the graph cannot describe: several inputs, free axes, other answers.
            UnsupportedOperatorError: an operator, or a use of it, that the graph does not hold.
            MissingExtraError: a library that the format needs is not installed.
        """


IMPORTERS: Registry[Importer] = Registry("importer", package=__name__, group="edgehone.importers")


def read_network(path: str | Path) -> Graph:
    """The network of a file, in training form; its suffix says which importer reads it.

    Raises:
        InputError: no importer reads files with this suffix.
        ModelFileError: there is no such file, it cannot be read, is empty, damaged, or of another format.
        NetworkError, UnsupportedOperatorError, MissingExtraError: see `Importer.read`.
    """
    path = Path(path)
    importers = _by_suffix()
    suffix = path.suffix.lower()
    if suffix not in importers:
        known = ", ".join(sorted(importers))
        raise InputError(
            f"no importer reads files that end in {suffix!r}", where=str(path), do=f"give a file that ends in {known}"
        )
    _check_readable(path)
    return importers[suffix].read(path)


def named(path: str | Path) -> bool:
    """Whether the name is that of a file that an importer reads, by its suffix alone; the file need not exist."""
    return Path(path).suffix.lower() in _by_suffix()


def _by_suffix() -> dict[str, Importer]:
    importers = map(IMPORTERS.get, IMPORTERS.names())
    return {suffix: importer for importer in importers for suffix in importer.suffixes}


def _check_readable(path: Path) -> None:
    where = str(path)
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise ModelFileError("there is no such file", where=where, do="check the path") from None
    except IsADirectoryError:
        raise ModelFileError("this is a folder, not a file", where=where, do="give the file in it") from None
    except OSError as error:
        raise ModelFileError(
            f"the file cannot be read: {error.strerror}", where=where, do="check its permissions"
        ) from error
    if empty:
        raise ModelFileError("the file is empty", where=where, do="copy or export it again")


__all__ = ["IMPORTERS", "Importer", "named", "read_network"]
