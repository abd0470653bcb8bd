"""Reading a model file and bounding threads: what every runtime checks before its library sees anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgehone_agent.errors import InputError, ModelFileError
from edgehone_agent.runtimes import TensorInfo


def read_model(path: Path, *, format_name: str) -> bytes:
    """The file's bytes. The whole file is read at once, so one that is replaced later cannot pull the ground away.

    Raises:
        ModelFileError: no such file, a folder, unreadable, or empty.
    """
    where = str(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelFileError("there is no such file", where=where, do=f"give the path of {format_name} file") from None
    except IsADirectoryError:
        raise ModelFileError(
            "this is a folder, not a model file", where=where, do=f"give the path of {format_name} file in it"
        ) from None
    except OSError as error:
        raise ModelFileError(
            f"the file cannot be read: {error.strerror}", where=where, do="check its permissions"
        ) from error
    if not content:
        raise ModelFileError("the file is empty", where=where, do="copy or export it again")
    return content


def refuse_file(what: str, path: Path, cause: Exception | None = None) -> ModelFileError:
    """The error for a file the library does not take, with the first line of the library's own words."""
    lines = str(cause).strip().splitlines() if cause is not None else []
    detail = f": {lines[0][:300]}" if lines else ""
    return ModelFileError(
        what + detail, where=str(path), do="export or copy the file again and compare its sha256 with the original's"
    )


def check_threads(threads: int) -> int:
    """`threads` when this process may use that many cores.

    Raises:
        InputError: fewer than one, or more than there are cores.
    """
    cores = len(os.sched_getaffinity(0))
    if not 1 <= threads <= cores:
        raise InputError(f"threads is {threads}, and this process may use {cores} cores", do=f"give 1 to {cores}")
    return threads


def check_ends(inputs: int, outputs: int, path: Path) -> None:
    """Return when a file has one input and one output, or a second one: its embedding.

    Raises:
        ModelFileError: other numbers of either.
    """
    if inputs != 1 or outputs not in (1, 2):
        raise refuse_file(
            f"the file has {inputs} inputs and {outputs} outputs; edgehone runs one input, an answer, and an embedding",
            path,
        )


def describe_ends(input_: TensorInfo, outputs: list[TensorInfo]) -> dict[str, Any]:
    """What `Session.describe` says of a file's input and outputs, in the order of the file."""
    names = ("output", "embedding")
    return {"input": vars(input_).copy()} | {
        name: vars(info).copy() for name, info in zip(names, outputs, strict=False)
    }


def refuse_embedding() -> InputError:
    """The error for a file that is asked for the embedding it does not have."""
    return InputError("the file has no embedding", do="use run, or export the network with its embedding")
