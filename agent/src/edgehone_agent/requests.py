"""How a command asks the running agent to change something: a file in the state folder, and a signal to read it.

Order: `ask` writes requests/ID.json, wakes the agent with SIGHUP and waits → the agent's `answer_all` does it and
renames its answer to requests/ID.done → `ask` reads and removes that. Who may write the folder may ask; nobody else.
An agent that is just starting is not sent a signal and finds the request by itself. Answers that nobody came for are
removed after a while. Whatever a request runs into is the answer to it, and never the end of answering.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgehone_agent import durable, errors
from edgehone_agent.errors import EdgehoneError, InputError, StateError
from edgehone_agent.lock import agent_to_wake, lock_owner

Act = Callable[[Mapping[str, Any]], Mapping[str, Any]]

_FOLDER = "requests"
_LOOK_S = 0.02
_KEPT_S = 3600.0  # an answer that nobody came for
_MAX_BYTES = 64 << 10


def ask(state: Path, kind: str, arguments: Mapping[str, Any], *, timeout_s: float = 60.0) -> dict[str, Any] | None:
    """What the running agent answers; None when no agent runs with this folder.

    Raises:
        EdgehoneError: what the agent raised over it.
        StateError: it cannot be asked, or did not answer in time.
    """
    if lock_owner(state) is None:
        return None
    name = uuid.uuid4().hex
    request, done = (state / _FOLDER / f"{name}.{end}" for end in ("json", "done"))
    durable.write_bytes(request, json.dumps({"kind": kind, **arguments}).encode())
    try:
        agent = agent_to_wake(state)
        if agent is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it looks by itself, only later
                os.kill(agent, signal.SIGHUP)
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if done.exists():
                return _read_answer(done)
            if lock_owner(state) is None:
                raise StateError("the agent stopped before it answered", where=str(state), do="run the command again")
            time.sleep(_LOOK_S)
    finally:
        for file in (request, done):
            file.unlink(missing_ok=True)
    if agent_to_wake(state) is None:
        raise StateError(
            f"process {lock_owner(state)} holds this folder and answers no request",
            where=str(state),
            do="if it is no agent, stop it and run the command again",
        )
    raise StateError(
        f"the agent has not answered for {timeout_s:g} s",
        where=str(state),
        do="see what it does: edgehone-agent status",
    )


def answer_all(state: Path, acts: Mapping[str, Act]) -> int:
    """Do what was asked and say how it went; how many requests that were. Called by the agent alone.

    Raises:
        StateError: an answer cannot be written.
    """
    count = 0
    for request in sorted((state / _FOLDER).glob("*.json")):
        answer = _answer(request, acts)
        if answer is not None:
            durable.write_bytes(request.with_suffix(".done"), json.dumps(answer).encode())
            count += 1
        _remove(request)
    _forget_old(state / _FOLDER)
    return count


def _answer(request: Path, acts: Mapping[str, Act]) -> dict[str, Any] | None:
    """Do what a request asks for; None when who asked has given up."""
    try:
        asked = json.loads(request.read_bytes()[:_MAX_BYTES])
        act = acts[asked.pop("kind")]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return {"error": {"kind": "InputError", "what": f"this is no request: {error!r}", "where": request.name}}
    try:
        return {"answer": dict(act(asked))}
    except EdgehoneError as error:
        found = error
    except (KeyError, TypeError) as error:
        found = InputError(f"this is no request: {error!r}", where=request.name)
    except OSError as error:
        found = durable.state_error(error, Path(error.filename or request))
    except MemoryError:
        found = StateError("there is not enough memory", where=request.name, do="free some and run the command again")
    return {"error": {"kind": type(found).__name__, "what": found.what, "where": found.where, "do": found.do}}


def _remove(request: Path) -> None:
    """Take a request away, whatever it is; what stays would be done again and again."""
    try:
        if request.is_dir() and not request.is_symlink():
            shutil.rmtree(request)
        request.unlink(missing_ok=True)
    except OSError as error:
        raise durable.state_error(error, request) from error


def _forget_old(folder: Path) -> None:
    for done in folder.glob("*.done"):
        with contextlib.suppress(OSError):
            if time.time() - done.stat().st_mtime > _KEPT_S:
                done.unlink()


def _read_answer(done: Path) -> dict[str, Any]:
    found = json.loads(done.read_bytes())
    if "error" not in found:
        answer: dict[str, Any] = found["answer"]
        return answer
    told = found["error"]
    kind = getattr(errors, told["kind"], InputError)  # a subclass that lives elsewhere is told as its nearest kind
    raise kind(told["what"], where=told.get("where", ""), do=told.get("do", ""))
