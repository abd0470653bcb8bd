"""Measuring files that may do anything to a runtime: in processes of their own, which can be killed at any moment.

    isolated = Isolated(folder, (("a", "litert"),), threads=1, fresh_repeats=0)
    result = isolated.measure(limit_s=60)        # on one thread; `kill` from another

`folder` holds the request; `child` says what else will lie there.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgehone_agent.errors import EdgehoneError, HostError, MissingExtraError, ModelFileError
from edgehone_agent.measure.child import file_path
from edgehone_agent.measure.machine import describe_machine
from edgehone_agent.measure.memory import measure_fresh_process
from edgehone_agent.wire.measuring import error_from_json

_MOST_SAID_BYTES = 64 << 20
_START_S = 60.0
_COMMAND = (sys.executable, "-P", "-m", "edgehone_agent.measure.child")  # -P: a stray numpy.py must not be run


class Isolated:
    """One request in processes of its own.

    Args:
        folder: where the request lies; what is made of it lies there too.
        files: (name, runtime) of each.
        threads: of each runtime.
        fresh_repeats: processes for memory and cold start of each file; 0 for none.
    """

    def __init__(self, folder: Path, files: Sequence[tuple[str, str]], *, threads: int, fresh_repeats: int) -> None:
        self._folder, self._files = folder, files
        self._threads, self._fresh_repeats = threads, fresh_repeats
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._why: EdgehoneError | None = None
        self._at: int | None = None

    def kill(self, why: EdgehoneError) -> None:
        """End it; `measure` raises `why`. The first reason counts."""
        with self._lock:
            self._why = self._why or why
            if self._process is not None:
                self._process.kill()

    def measure(self, limit_s: float) -> dict[str, Any]:
        """{"files": name → what was found, "machine": where}, JSON-able.

        Raises:
            ModelFileError: a runtime refuses a file, or dies on it.
            InputError: too many threads, or inputs that do not fit.
            HostError: it took longer than `limit_s`, no process could be started, the disk is full, or `kill` says why.
        """
        ends = time.monotonic() + limit_s
        late = HostError(f"it took more than {limit_s:g} s", do="send fewer files or rounds, or raise --limit there")
        alarm = threading.Timer(limit_s, self.kill, [late])
        alarm.daemon = True
        alarm.start()
        try:
            found = self._timed(limit_s)
            for index, (name, runtime) in enumerate(self._files):
                found[name]["fresh_process"] = self._fresh(index, name, runtime, ends)
        except OSError as error:  # no room left for what a process says
            raise HostError(f"the files cannot be kept: {error.strerror}", do="free space on the node") from error
        finally:
            alarm.cancel()
        return {"files": found, "machine": describe_machine()}

    def _timed(self, limit_s: float) -> dict[str, Any]:
        with (self._folder / "errors").open("wb") as errors:
            process = self._start(str(self._folder), f"{limit_s:g}", errors=errors)
        outcome: dict[str, Any] = {}
        with process:
            for line in _lines(process):
                if "file" in line:
                    self._at = line["file"]
                else:
                    outcome = line
            if outcome:
                process.kill()  # it has said all; a library may hang when it is to end
        self._check()
        if "error" in outcome:
            raise error_from_json(outcome["error"])
        if "result" not in outcome:
            raise self._died(process.returncode)
        result: dict[str, Any] = outcome["result"]
        return result

    def _start(self, *arguments: str, errors: Any) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._why is not None:
                raise self._why
            try:
                self._process = subprocess.Popen(
                    [*_COMMAND, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,  # Ctrl-C on a terminal is for the service
                )
            except OSError as error:
                raise HostError(f"no process could be started: {error.strerror}") from error
            return self._process

    def _check(self) -> None:
        if self._why is not None:
            raise self._why

    def _died(self, code: int) -> EdgehoneError:
        names = [name for name, _ in self._files]
        where = names[self._at] if self._at is not None else ", ".join(names)
        if code < 0:
            word = signal.Signals(-code).name
            what = f"the runtime dies on this file ({word})"
            if word == "SIGKILL":
                what += "; the node may have run out of memory"
            return ModelFileError(what, where=where, do="export the file again, or report it")
        with (self._folder / "errors").open("rb") as file:
            said = file.read(1 << 16).decode("utf-8", "replace").strip().splitlines() or ["no message"]
        return HostError(f"the process that measures failed: {said[-1][:300]}", where=where)

    def _fresh(self, index: int, name: str, runtime: str, ends: float) -> dict[str, Any] | None:
        if not self._fresh_repeats:
            return None
        path = file_path(self._folder, index)
        with _told_by_name(path, name):
            found = measure_fresh_process(
                path, runtime, threads=self._threads, repeats=self._fresh_repeats,
                progress=lambda *_: self._check(), timeout_s=max(ends - time.monotonic(), 1.0),
            )  # fmt: skip
        return found.to_json()


def working_runtimes() -> dict[str, str]:
    """Name → version of every runtime that works here, found in a process of its own: libraries are large.

    Raises:
        MissingExtraError: there is none.
        HostError: no process could be started.
    """
    try:
        done = subprocess.run([*_COMMAND, "versions"], capture_output=True, timeout=_START_S, check=False)
    except subprocess.TimeoutExpired:
        raise HostError(f"a fresh process took more than {_START_S:.0f} s", do="try on a quieter machine") from None
    except OSError as error:
        raise HostError(f"no process could be started: {error.strerror}") from error
    lines = done.stdout.splitlines()
    found: dict[str, str] = json.loads(lines[-1]).get("result", {}) if lines else {}
    if not found:
        raise MissingExtraError("no runtime works here", do='pip install "edgehone-agent[litert]"')
    return found


def _lines(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """What a child says, until it ends or has said too much."""
    out = process.stdout
    said = 0
    while out is not None and (line := out.readline(_MOST_SAID_BYTES)) and line.endswith(b"\n"):
        said += len(line)
        if said > _MOST_SAID_BYTES:
            return
        yield json.loads(line)


@contextmanager
def _told_by_name(path: Path, name: str) -> Iterator[None]:
    """Errors about our file, told with the name that the client gave it."""
    try:
        yield
    except EdgehoneError as error:
        raise type(error)(error.what.replace(str(path), name), where=name, do=error.do) from error
