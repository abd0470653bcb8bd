"""Kill a program at a chosen system call, for real: `strace` stops it with SIGKILL as the call is made.

    for cut in range(1, count_calls(command, "rename") + 1):
        prepare()
        run_killed(command, "rename", cut)
        check()          # what is on disk now must be the old state or the new one

What a kill leaves is what the operating system had taken over; a power cut leaves less, see `edgehone.testing.power`.

Tests that try damaged input take `mutations(N)` for how many of each kind: N on every day, more when EDGEHONE_MUTATIONS
says so. `Tally` counts what came of them and what memory they took.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgehone.errors import HostError

CALLS = ("write", "pwrite64", "fsync", "fdatasync", "rename", "unlink", "mkdir", "ftruncate")
"""Calls that change a disk, under the names that `family` knows."""

_FAMILIES = {
    "rename": "rename,renameat,renameat2",
    "unlink": "unlink,unlinkat,rmdir",
    "mkdir": "mkdir,mkdirat",
    "write": "write,writev",
}


def mutations(everyday: int) -> int:
    """How much damaged input of one kind a test tries: EDGEHONE_MUTATIONS, or `everyday` where it is not set."""
    return int(os.environ.get("EDGEHONE_MUTATIONS", everyday))


class Tally:
    """What came of damaged input: counts by outcome, seconds, and the most memory since the start.

    Args:
        process: whose memory; this one when None.
    """

    def __init__(self, process: int | None = None) -> None:
        self.outcomes: Counter[str] = Counter()
        self._folder = Path("/proc") / ("self" if process is None else str(process))
        (self._folder / "clear_refs").write_text("5")  # the peak starts anew, see proc(5)
        self._before_bytes, self._started_s = self._bytes("VmRSS"), time.monotonic()

    def add(self, outcome: str) -> None:
        """Count one."""
        self.outcomes[outcome] += 1

    @property
    def grown_bytes(self) -> int:
        """The highest resident memory since the start over what it was then."""
        return self._bytes("VmHWM") - self._before_bytes

    def told(self) -> dict[str, object]:
        """For a report: outcomes, seconds, and memory in MB."""
        seconds = round(time.monotonic() - self._started_s, 1)
        return {**self.outcomes, "seconds": seconds, "grown_mb": round(self.grown_bytes / 1e6, 1)}

    def _bytes(self, name: str) -> int:
        found = re.search(rf"{name}:\s+(\d+) kB", (self._folder / "status").read_text())
        return int(found[1]) * 1024 if found is not None else 0


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Bytes changed without knowing what they mean: flipped, cut, lost, put in, repeated, or another thing."""
    place, other = chance.randrange(len(content)), chance.randrange(len(content))
    first, last = min(place, other), max(place, other)
    kind = chance.randrange(7)
    if kind == 0:
        return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:first] + content[last:]
    if kind == 3:
        return content[:place] + chance.randbytes(chance.randrange(1, 40)) + content[place:]
    if kind == 4:
        return content[:place] + content[first:last] + content[place:]
    if kind == 5:
        return content[:place] + str(chance.randrange(10)).encode() + content[place + 1 :]
    return chance.choice([b"", b"null", b"[]", b"{}", b"[" * 3000, b'{"a":' * 3000, b"\xff" * 50, b"9" * 5000])


_ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**40, 1.5, float("inf"), float("nan"), "", "0", "root", "\x00",
    "a" * 3000, [], {}, [[]], {"": {}}, "2999-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
    "\ud800", "*", "gauge/*",
]  # fmt: skip


def _places_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places_of(item, (*path, key))


def bent(content: bytes, chance: random.Random) -> bytes:
    """Another JSON of nearly the same form."""
    data: Any = {"": json.loads(content)}  # one level more, so that the whole has a place too
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        *above, key = ("", *chance.choice(list(_places_of(data[""]))))
        holder = data
        for step in above:
            holder = holder[step]
        kind = chance.randrange(5)
        if kind == 0:
            del holder[key]
            if "" not in data:
                return b""
        elif kind == 1 and isinstance(holder, dict):
            holder[chance.choice(["x", "version", "expires", "_type", "keyids", "threshold"])] = copy.deepcopy(
                chance.choice(_ODD)
            )
        elif kind == 2 and isinstance(holder[key], int):
            holder[key] += chance.choice([-1, 1, 10**6])
        elif kind == 3:
            holder[key] = copy.deepcopy(data[""])
        else:
            holder[key] = copy.deepcopy(chance.choice(_ODD))
        if not isinstance(data[""], dict | list):
            break
    return json.dumps(data[""]).encode()


def family(call: str) -> str:
    """Every spelling that kernels and libraries have for a call, as `strace` takes it."""
    return _FAMILIES.get(call, call)


def count_calls(
    command: Sequence[str], call: str, *, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> int:
    """How often a command, run to its end, makes a call; with `folder`, on files in there.

    Raises:
        HostError: strace is not installed, or the command fails.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as log:
        done = _strace(["-e", f"trace={family(call)}", "-o", log.name], command, folder, environment)
        if done.returncode != 0:
            raise HostError(f"the command fails without a fault: {done.stderr.strip()[-400:]}", where=command[0])
        return len(re.findall(r"^\d+\s+\w+\(", log.read(), re.MULTILINE))


def run_killed(
    command: Sequence[str], call: str, number: int, *, folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> bool:  # fmt: skip
    """Run a command and kill it at the `number`-th call (from 1). True when it was killed, False when it ended before.

    Raises:
        HostError: strace is not installed.
    """
    inject = f"inject={family(call)}:signal=KILL:when={number}"
    done = _strace(["-e", f"trace={family(call)}", "-e", inject, "-o", "/dev/null"], command, folder, environment)
    return done.returncode in (-9, 137)


def run_failing(
    command: Sequence[str], call: str, error: str, number: int, *, folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run a command whose `number`-th call, and every one after it, fails with an error like "ENOSPC".

    Raises:
        HostError: strace is not installed.
    """
    inject = f"inject={family(call)}:error={error}:when={number}+"
    return _strace(["-e", f"trace={family(call)}", "-e", inject, "-o", "/dev/null"], command, folder, environment)


def _strace(
    options: Sequence[str], command: Sequence[str], folder: Path | None, environment: Mapping[str, str] | None
) -> subprocess.CompletedProcess[str]:
    if shutil.which("strace") is None:
        raise HostError("strace is not installed", where="strace", do="apt-get install strace")
    watched = ["-P", str(folder)] if folder is not None else []
    tool = ["strace", "-f", "-qq", *watched, *options]
    return subprocess.run([*tool, *command], capture_output=True, text=True, env=environment, timeout=300, check=False)
