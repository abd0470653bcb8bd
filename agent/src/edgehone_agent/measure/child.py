"""The fresh process in which files of others are loaded and timed: `python -m edgehone_agent.measure.child ...`.

    child FOLDER SECONDS    measure the request that lies in FOLDER, within SECONDS
    child versions          runtimes that work here, with their versions

A runtime may die on a bad file, and then this process dies and nothing else. It writes lines of JSON: {"file": 0} when
it takes up a file, {"file": null} when it times them all, and at last {"result": ...} or {"error": ...}. What a library
prints goes to standard error. The files are left in FOLDER under `file_path`, for who measures memory there.

It ends by itself: by an alarm if its parent is gone, first of all processes where memory runs out, and without a core
dump. Names from outside are only told, never used as a path.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgehone_agent.errors import EdgehoneError, HostError, MissingExtraError
from edgehone_agent.measure.latency import measure_latency
from edgehone_agent.model import Model
from edgehone_agent.runtimes import RUNTIMES, Session
from edgehone_agent.wire.measuring import Candidate, MeasureRequest, error_to_json, latency_to_json, read_request

Say = Callable[[dict[str, Any]], None]

REQUEST = "request"
_MOST_WRITTEN_BYTES = 1 << 28  # of one file; a library that complains without end must not fill the disk
_GRACE_S = 5.0  # the parent is to end it first


def file_path(folder: Path, index: int) -> Path:
    """Where the file of that number lies."""
    return folder / f"{index}.model"


def measure_request(folder: Path, say: Say) -> dict[str, Any]:
    """Load, ask and time the files of the request in `folder`.

    Returns:
        name → {"session", "latency" with its rounds, "answers" or null}, JSON-able.

    Raises:
        EdgehoneError: a file is refused; `where` is its name.
    """
    body = folder / REQUEST
    request = read_request(body.read_bytes())
    body.unlink()
    sessions: dict[str, Session] = {}
    answers: dict[str, dict[str, Any] | None] = {}
    for index, file in enumerate(request.files):
        say({"file": index})
        file_path(folder, index).write_bytes(file.content)
        try:
            sessions[file.name] = session = _load(file, file_path(folder, index), request.threads)
            answers[file.name] = _answers(session, request)
        except EdgehoneError as error:
            raise type(error)(error.what, where=file.name, do=error.do) from error
    say({"file": None})
    latency = measure_latency(sessions, rounds=request.rounds)
    return {
        name: {
            "session": session.describe(),
            "latency": latency_to_json(latency[name]),
            "answers": answers[name],
        }
        for name, session in sessions.items()
    }


def _load(file: Candidate, path: Path, threads: int) -> Session:
    """A session that has answered once: what kills a runtime is known to be this file."""
    session = RUNTIMES.get(file.runtime).load(path, threads=threads)
    session.run(np.zeros(session.input.shape, session.input.dtype))
    return session


def _answers(session: Session, request: MeasureRequest) -> dict[str, Any] | None:
    if request.inputs is None:
        return None
    found = Model(session).predict(request.inputs)
    return {"sha256": hashlib.sha256(np.ascontiguousarray(found, "<f4").tobytes()).hexdigest(), "rows": len(found)}


def versions() -> dict[str, str]:
    """Name → version of every runtime that can be imported here."""
    found = {}
    for name in RUNTIMES.names():
        with suppress(MissingExtraError):
            found[name] = RUNTIMES.get(name).version()
    return found


def _bound(limit_s: float) -> None:
    """Let the system end this process rather than another, and the clock end it in any case."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # acts inside a library too
    signal.alarm(math.ceil(limit_s + _GRACE_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    most = _MOST_WRITTEN_BYTES if hard == resource.RLIM_INFINITY else min(hard, _MOST_WRITTEN_BYTES)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    with suppress(OSError):  # a container may not have it
        Path("/proc/self/oom_score_adj").write_text("1000")


def _own_output() -> Say:
    """The present standard output, from now on ours alone."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(line: dict[str, Any]) -> None:
        out.write(json.dumps(line, separators=(",", ":")) + "\n")

    return say


def main(argv: Sequence[str]) -> int:
    """Do what the arguments say; what is refused is an outcome too."""
    say = _own_output()
    try:
        if argv[0] == "versions":
            say({"result": versions()})
        else:
            _bound(float(argv[1]))
            say({"result": measure_request(Path(argv[0]), say)})
    except EdgehoneError as error:
        say({"error": error_to_json(error)})
    except MemoryError:
        say({"error": error_to_json(HostError("there is not enough memory for these files", do="send smaller ones"))})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
