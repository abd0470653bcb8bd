"""What a power cut can leave of a folder, at every moment of a program's run.

`record` runs a program under `strace` and keeps every operation on the folder. `Disk` replays them on a model of a
disk, where only what was synced is certain:

- the content of a file is certain as of its last fsync; before the first one it may be empty;
- a name in a folder (made, moved or removed) is certain as of the folder's last fsync. What is inside a folder that
  has lost its own name is lost with it;
- a symbolic link is a name whose content is its target: nothing else of it can be synced. A hard link is a second name
  of the same file, and one fsync makes the content certain under both.

For each moment there are three states to survive: `nothing` (no more than what is certain), `names` (all names made it
and content only where it was synced: the classic empty file after a rename) and `everything` (what kill -9 leaves).
Real file systems leave one of these or something between. Source: Pillai et al., OSDI 2014, "All File Systems Are Not
Created Equal".
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgehone.errors import HostError

Survival = Literal["nothing", "names", "everything"]
SURVIVALS: tuple[Survival, ...] = ("nothing", "names", "everything")

_TRACED = (
    "openat,open,creat,close,write,pwrite64,writev,pwritev,ftruncate,lseek,fsync,fdatasync,rename,renameat,renameat2,"
    "unlink,unlinkat,rmdir,mkdir,mkdirat,symlink,symlinkat,link,linkat,sendfile,copy_file_range,dup,dup2,dup3"
)
_CALL = re.compile(r"^(\d+)\s+(\w+)\((.*)\)\s+=\s+(-?\d+)(.*)$", re.DOTALL)
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_REFUSED = {"sendfile", "copy_file_range", "writev", "pwritev"}
_SHORT = {
    "renameat": "rename", "renameat2": "rename", "unlinkat": "unlink", "mkdirat": "mkdir", "linkat": "link",
    "symlinkat": "symlink",
}  # fmt: skip
_MOST_LINKS = 40  # followed in one path, as Linux does


@dataclass(frozen=True)
class Operation:
    """One finished system call: its name, its paths or file number, its bytes."""

    call: str
    number: int = -1
    paths: tuple[str, ...] = ()
    data: bytes = b""
    offset: int | None = None
    flags: str = ""


@dataclass
class _File:
    now: bytearray = field(default_factory=bytearray)
    certain: bytes = b""


@dataclass(frozen=True)
class _Link:
    target: str


@dataclass
class _Folder:
    now: dict[str, _Node] = field(default_factory=dict)
    certain: dict[str, _Node] = field(default_factory=dict)


_Node = _File | _Folder | _Link


@dataclass
class _Opened:
    node: _File | _Folder
    at: int = 0
    append: bool = False


class Disk:
    """A model of the folder. Everything that is in it at the start is certain."""

    def __init__(self, folder: Path) -> None:
        self._root, self._base = _loaded(folder), str(folder)
        self._open: dict[int, _Opened] = {}

    def apply(self, operation: Operation) -> bool:
        """Replay one operation; True when it changed something.

        Raises:
            HostError: a call on the folder that the model does not know.
        """
        if operation.call in _REFUSED:
            if any(self._inside(path) for path in operation.paths) or operation.number in self._open:
                raise HostError(f"{operation.call} is not in the model of the disk", where=self._base)
            return False
        changed: bool = getattr(self, f"_{operation.call}", self._ignored)(operation)
        return changed

    def leave(self, target: Path, survival: Survival) -> None:
        """Write what a power cut leaves now into a new folder."""
        _store(self._root, target, survival)

    def digest(self, survival: Survival) -> bytes:
        """A digest of what `leave` would write: cuts that leave the same need one look only."""
        found = hashlib.sha256()
        for path, content in _listed(self._root, survival):
            for part in (path.encode(errors="surrogateescape"), content):
                found.update(len(part).to_bytes(8, "big") + part)
        return found.digest()

    def cuts(self, operations: Sequence[Operation]) -> Iterator[tuple[Operation, Survival]]:
        """Play a record; stop wherever a power cut would leave something that no cut before it left.

        Yields the operation that was just done and the state to `leave`.
        """
        seen = set()
        for operation in operations:
            if not self.apply(operation):
                continue
            for survival in SURVIVALS:
                if (digest := self.digest(survival)) not in seen:
                    seen.add(digest)
                    yield operation, survival

    def _ignored(self, operation: Operation) -> bool:  # noqa: ARG002  every call has one shape
        return False

    def _inside(self, path: str) -> bool:
        return path == self._base or path.startswith(self._base + "/")

    def _parts(self, path: str) -> list[str]:
        return [part for part in path[len(self._base) :].split("/") if part]

    def _folder_of(self, path: str, links: int = 0) -> tuple[_Folder, str] | None:
        """The folder that holds a path, and the last name; None outside."""
        if not self._inside(path) or path == self._base:
            return None
        *above, name = self._parts(path)
        at: _Node | None = self._root
        for depth, part in enumerate(above):
            at = at.now.get(part) if isinstance(at, _Folder) else at
            if isinstance(at, _Link):
                here = "/".join([self._base, *above[:depth]])
                return self._folder_of("/".join([_followed(here, at), *above[depth + 1 :], name]), _checked(links))
        return (at, name) if isinstance(at, _Folder) else None

    def _open_(self, path: str, flags: str, links: int = 0) -> _File | _Folder | None:
        if path == self._base:
            return self._root
        found = self._folder_of(path)
        if found is None:
            return None
        folder, name = found
        node = folder.now.get(name)
        if isinstance(node, _Link):
            return self._open_(_followed(path.rpartition("/")[0], node), flags, _checked(links))
        if node is None and "O_CREAT" in flags:
            node = folder.now[name] = _File()
        if isinstance(node, _File) and "O_TRUNC" in flags:
            node.now.clear()
        return node

    def _openat(self, operation: Operation) -> bool:
        self._open.pop(operation.number, None)
        node = self._open_(operation.paths[0], operation.flags) if operation.paths else None
        if node is None:
            return False
        self._open[operation.number] = _Opened(node, append="O_APPEND" in operation.flags)
        return "O_CREAT" in operation.flags or "O_TRUNC" in operation.flags

    def _close(self, operation: Operation) -> bool:
        self._open.pop(operation.number, None)
        return False

    def _dup(self, operation: Operation) -> bool:
        if operation.number in self._open and operation.offset is not None:
            self._open[operation.offset] = self._open[operation.number]
        return False

    def _lseek(self, operation: Operation) -> bool:
        if (opened := self._open.get(operation.number)) and operation.offset is not None:
            opened.at = operation.offset
        return False

    def _write(self, operation: Operation) -> bool:
        opened = self._open.get(operation.number)
        if opened is None or not isinstance(opened.node, _File):
            return False
        start = len(opened.node.now) if opened.append else opened.at
        self._put(opened.node, start, operation.data)
        opened.at = start + len(operation.data)
        return True

    def _pwrite64(self, operation: Operation) -> bool:
        opened = self._open.get(operation.number)
        if opened is None or not isinstance(opened.node, _File):
            return False
        self._put(opened.node, operation.offset or 0, operation.data)
        return True

    @staticmethod
    def _put(file: _File, start: int, data: bytes) -> None:
        if len(file.now) < start:
            file.now.extend(bytes(start - len(file.now)))
        file.now[start : start + len(data)] = data

    def _ftruncate(self, operation: Operation) -> bool:
        opened = self._open.get(operation.number)
        if opened is None or not isinstance(opened.node, _File):
            return False
        length = operation.offset or 0
        del opened.node.now[length:]
        self._put(opened.node, length, b"")
        return True

    def _fsync(self, operation: Operation) -> bool:
        opened = self._open.get(operation.number)
        if opened is None:
            return False
        node = opened.node
        if isinstance(node, _Folder):
            node.certain = dict(node.now)
        else:
            node.certain = bytes(node.now)
        return True

    _fdatasync = _fsync

    def _rename(self, operation: Operation) -> bool:
        old, new = (self._folder_of(path) for path in operation.paths)
        if (old is None) != (new is None):
            raise HostError("a move into or out of the folder is not in the model of the disk", where=self._base)
        if old is None or new is None:
            return False
        new[0].now[new[1]] = old[0].now.pop(old[1])
        return True

    def _unlink(self, operation: Operation) -> bool:
        found = self._folder_of(operation.paths[0])
        return found is not None and found[0].now.pop(found[1], None) is not None

    _rmdir = _unlink

    def _symlink(self, operation: Operation) -> bool:
        found = self._folder_of(operation.paths[0])
        if found is None:
            return False
        found[0].now[found[1]] = _Link(os.fsdecode(operation.data))
        return True

    def _link(self, operation: Operation) -> bool:
        old, new = (self._folder_of(path) for path in operation.paths)
        if new is None:
            return False
        node = None if old is None else old[0].now.get(old[1])
        if node is None:
            raise HostError("a second name of a file outside is not in the model of the disk", where=self._base)
        new[0].now[new[1]] = node
        return True

    def _mkdir(self, operation: Operation) -> bool:
        found = self._folder_of(operation.paths[0])
        if found is None:
            return False
        found[0].now[found[1]] = _Folder()
        return True


def _followed(folder: str, link: _Link) -> str:
    """Where a link in a folder points to."""
    return os.path.normpath(Path(folder) / link.target)


def _checked(links: int) -> int:
    if links >= _MOST_LINKS:
        raise HostError("symbolic links that go round in a circle", do="look at what the program under test does")
    return links + 1


def _loaded(folder: Path) -> _Folder:
    root = _Folder()
    for path in folder.iterdir():
        if path.is_symlink():
            root.now[path.name] = _Link(str(path.readlink()))
        elif path.is_dir():
            root.now[path.name] = _loaded(path)
        else:
            root.now[path.name] = _File(bytearray(path.read_bytes()), path.read_bytes())
    root.certain = dict(root.now)
    return root


def _names(folder: _Folder, survival: Survival) -> Mapping[str, _Node]:
    return folder.certain if survival == "nothing" else folder.now


def _content(file: _File, survival: Survival) -> bytes:
    return bytes(file.now) if survival == "everything" else file.certain


def _store(folder: _Folder, target: Path, survival: Survival) -> None:
    target.mkdir()
    for name, node in _names(folder, survival).items():
        if isinstance(node, _Folder):
            _store(node, target / name, survival)
        elif isinstance(node, _Link):
            (target / name).symlink_to(node.target)
        else:
            (target / name).write_bytes(_content(node, survival))


def _listed(folder: _Folder, survival: Survival, above: str = "") -> Iterator[tuple[str, bytes]]:
    """Path and content of everything; a folder's path ends with "/", a link's with "@"."""
    for name, node in sorted(_names(folder, survival).items()):
        path = f"{above}{name}"
        if isinstance(node, _Folder):
            yield f"{path}/", b""
            yield from _listed(node, survival, f"{path}/")
        elif isinstance(node, _Link):
            yield f"{path}@", os.fsencode(node.target)
        else:
            yield path, _content(node, survival)


def record(
    command: Sequence[str], folder: Path, *, environment: Mapping[str, str] | None = None
) -> tuple[Disk, list[Operation]]:
    """Run a command to its end, and keep what it did to files: the disk as it was before, and the operations.

    Raises:
        HostError: strace is not installed, or the command fails.
    """
    if shutil.which("strace") is None:
        raise HostError("strace is not installed", where="strace", do="apt-get install strace")
    disk = Disk(folder)
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as log:
        options = ["-f", "-qq", "-y", "-xx", "-s", "100000000", "-e", f"trace={_TRACED}", "-o", log.name]
        done = subprocess.run(
            ["strace", *options, *command], capture_output=True, text=True, env=environment, timeout=300, check=False
        )
        if done.returncode != 0:
            raise HostError(f"the command fails: {done.stderr.strip()[-400:]}", where=command[0])
        lines = list(_whole(log.read().splitlines()))
    return disk, [operation for line in lines if (operation := _parse(line)) is not None]


def _whole(lines: list[str]) -> list[str]:
    """Calls that another thread interrupted, joined where they end."""
    begun: dict[str, str] = {}
    whole = []
    for line in lines:
        process = line.split(maxsplit=1)[0]
        if line.endswith("<unfinished ...>"):
            begun[process] = line.removesuffix("<unfinished ...>").rstrip()
        elif match := re.match(r"^\d+\s+<\.\.\. \w+ resumed>(.*)$", line):
            whole.append(begun.pop(process, "") + match[1])
        else:
            whole.append(line)
    return whole


def _parse(line: str) -> Operation | None:
    match = _CALL.match(line)
    if match is None or int(match[4]) < 0:
        return None
    call, arguments, result = match[2], match[3], int(match[4])
    texts = [bytes.fromhex(text.replace("\\x", "")) for text in _STRING.findall(arguments)]
    paths = tuple(_paths(call, arguments, texts))
    if call in ("openat", "open", "creat"):
        flags = "O_CREAT|O_TRUNC" if call == "creat" else arguments
        return Operation("openat", result, paths, flags=flags)
    short = _SHORT.get(call, call)
    if short == "symlink":
        return Operation(short, paths=paths, data=texts[0])
    if short in ("rename", "unlink", "rmdir", "mkdir", "link") or short in _REFUSED:
        return Operation(short, _number(arguments), paths)
    last = arguments.rsplit(",", 1)[-1].strip()
    if call in ("lseek", "dup", "dup2", "dup3"):
        return Operation(call[:3] if call.startswith("dup") else call, _number(arguments), offset=result)
    if call == "ftruncate":
        return Operation("ftruncate", _number(arguments), offset=int(last, 0))
    if call in ("write", "pwrite64"):
        offset = int(last, 0) if call == "pwrite64" else None
        return Operation(call, _number(arguments), data=texts[0][:result] if texts else b"", offset=offset)
    return Operation(call, _number(arguments))


def _number(arguments: str) -> int:
    match = re.match(r"(\d+)", arguments)
    return int(match[1]) if match else -1


def _paths(call: str, arguments: str, texts: list[bytes]) -> list[str]:
    """Full paths of a call; relative ones are completed from the folder that -y names beside the number."""
    if call in ("write", "pwrite64"):
        return []
    bases = re.findall(r"(?:AT_FDCWD|\b\d+)<((?:\\x[0-9a-f]{2})*|[^<>]*)>", arguments)
    folders = [_decode(base) for base in bases]
    if call in ("symlink", "symlinkat"):
        texts = texts[1:]  # the target is no path of the call; a relative one counts from the link
    found = []
    for index, text in enumerate(texts):
        path = text.decode(errors="surrogateescape")
        base = folders[min(index, len(folders) - 1)] if folders else ""
        found.append(path if path.startswith("/") else f"{base}/{path}")
    return found


def _decode(text: str) -> str:
    if text.startswith("\\x"):
        return bytes.fromhex(text.replace("\\x", "")).decode(errors="surrogateescape")
    return text
