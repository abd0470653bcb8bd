"""How a command asks the running agent to change something: a file in the state folder, and a signal to read it.

Order: `ask` writes requests/ID.json, wakes the agent with SIGHUP and waits → the agent's `answer_all` does it and
renames its answer to requests/ID.done → `ask` reads and removes that. Who may write the folder may ask; nobody else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgehone_agent import durable, errors
from edgehone_agent.errors import EdgehoneError, InputError, StateError
from edgehone_agent.lock import lock_owner

Act = Callable[[Mapping[str, Any]], Mapping[str, Any]]

_FOLDER = "requests"
_LOOK_S = 0.02
_MAX_BYTES = 64 << 10


def ask(state: Path, kind: str, arguments: Mapping[str, Any], *, timeout_s: float = 60.0) -> dict[str, Any] | None:
    """What the running agent answers; None when no agent runs with this folder.

    Raises:
        EdgehoneError: what the agent raised over it.
        StateError: it cannot be asked, or did not answer in time.
    """
    owner = lock_owner(state)
    if owner is None:
        return None
    name = uuid.uuid4().hex
    request, done = (state / _FOLDER / f"{name}.{end}" for end in ("json", "done"))
    durable.write_bytes(request, json.dumps({"kind": kind, **arguments}).encode())
    try:
        if owner:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it looks by itself, only later
                os.kill(owner, signal.SIGHUP)
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
        try:
            asked = json.loads(request.read_bytes()[:_MAX_BYTES])
            kind = asked.pop("kind")
            answer: dict[str, Any] = {"answer": dict(acts[kind](asked))}
        except FileNotFoundError:  # who asked has given up
            continue
        except EdgehoneError as error:
            answer = {"error": {"kind": type(error).__name__, "what": error.what, "where": error.where, "do": error.do}}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            answer = {"error": {"kind": "InputError", "what": f"this is no request: {error!r}", "where": request.name}}
        durable.write_bytes(request.with_suffix(".done"), json.dumps(answer).encode())
        request.unlink(missing_ok=True)
        count += 1
    return count


def _read_answer(done: Path) -> dict[str, Any]:
    found = json.loads(done.read_bytes())
    if "error" not in found:
        answer: dict[str, Any] = found["answer"]
        return answer
    told = found["error"]
    kind = getattr(errors, told["kind"], InputError)  # a subclass that lives elsewhere is told as its nearest kind
    raise kind(told["what"], where=told.get("where", ""), do=told.get("do", ""))
