"""The folder of a study: what is finished, what was going on, and whose it is.

Rules:
- A folder belongs to one study: task data, network, device, budget and settings. Another study is refused, and so is
  a folder with other content; nothing is ever deleted or overwritten that this study did not write.
- Every file appears whole or not at all. What is finished is never computed again: that is all that resuming is.

    study.json  report.html  original/  members/NAME/...     results
    .work/study.json                                          whose folder this is
    .work/STEP.json  .work/STEP.npz                           finished steps
    .work/STEP.checkpoint.npz                                 training under way
    .work/device/NAME.toml                                    the device profile, where it was a file of the user's own
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgehone.errors import OutputFolderError
from edgehone.graph.files import load_graph, save_graph
from edgehone.graph.ir import Graph

_WORK, _DEVICE = ".work", "device"


class Workspace:
    """An opened study folder. Create it with `open_workspace`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / _WORK

    def read(self, step: str) -> dict[str, Any] | None:
        """What a finished step wrote, or None."""
        path = self.work / f"{step}.json"
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def write(self, step: str, data: Mapping[str, Any]) -> None:
        """Mark a step as finished, with what it found."""
        write_text(self.work / f"{step}.json", json.dumps(data, indent=1))

    def graph(self, step: str) -> Graph | None:
        """The graph a finished step left, or None."""
        path = self.work / f"{step}.npz"
        return load_graph(path) if path.exists() else None

    def keep_graph(self, step: str, graph: Graph) -> None:
        """Keep a graph under a step's name."""
        save_graph(graph, self.work / f"{step}.npz")

    def checkpoint(self, step: str) -> Path:
        """Where training of a step keeps its state."""
        return self.work / f"{step}.checkpoint.npz"

    def keep_device(self, profile: Path) -> None:
        """Keep a device profile of the user's own: a later refresh needs it, wherever the file is by then."""
        self.put(f"{_WORK}/{_DEVICE}/{profile.name}", profile.read_bytes())

    def device(self, name: str) -> str:
        """What `devices.load_device` knows the study's device by: the profile that was kept, else its name."""
        kept = sorted((self.work / _DEVICE).glob("*.toml"))
        return str(kept[0]) if kept else name

    def put(self, path: str, content: bytes) -> Path:
        """Write a result file, whole or not at all, and return its full path."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, content)
        return target


def open_workspace(folder: Path, identity: Mapping[str, Any], *, resume: bool) -> Workspace:
    """Open or create the folder of the study that `identity` describes.

    Args:
        folder: the output folder.
        identity: JSON-able values that make this study what it is.
        resume: go on with what is there; without it a folder that holds this study already is refused too.

    Raises:
        OutputFolderError: not a folder, not writable, full, other content, or another study.
    """
    where = str(folder)
    workspace = Workspace(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark = workspace.work / "study.json"
        if mark.exists():
            _check_owner(json.loads(mark.read_text()), identity, resume, where)
        elif any(folder.iterdir()):
            raise OutputFolderError(
                "the folder is not empty and holds no study", where=where, do="choose an empty folder or a new name"
            )
        workspace.work.mkdir(exist_ok=True)
        if not mark.exists():
            write_text(mark, json.dumps(identity, indent=1, sort_keys=True))
    except (FileExistsError, NotADirectoryError):
        raise OutputFolderError("this is a file, not a folder", where=where, do="choose another name") from None
    except json.JSONDecodeError:
        raise OutputFolderError(
            "its .work/study.json is damaged", where=where, do="choose another folder; the members in it still work"
        ) from None
    except OSError as error:
        raise folder_error(error, where) from error
    return workspace


def concerns(error: OSError, folder: Path) -> bool:
    """Whether an operating system error is about the output folder: a full disk has no file name."""
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
    return Path(os.fsdecode(error.filename)).absolute().is_relative_to(folder.absolute())


def folder_error(error: OSError, where: str) -> OutputFolderError:
    """What an operating system error means for the output folder."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputFolderError(
            "the disk is full", where=where, do="free some space, then run the same command with --resume"
        )
    return OutputFolderError(
        f"the folder cannot be written: {error.strerror or error}", where=where, do="choose a folder you may write to"
    )


def _check_owner(found: Mapping[str, Any], identity: Mapping[str, Any], resume: bool, where: str) -> None:
    wanted = json.loads(json.dumps(identity))
    differing = sorted(name for name in wanted if found.get(name) != wanted[name])
    if differing:
        raise OutputFolderError(
            f"the folder holds another study; it differs in: {', '.join(differing)}",
            where=where,
            do="choose another folder, or repeat the options that study was started with",
        )
    if not resume:
        raise OutputFolderError(
            "the folder holds this very study already", where=where, do="add --resume to go on with it"
        )


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
