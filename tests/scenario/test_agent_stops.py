"""How an agent ends, and what that says about its model: stops, kills, signals at bad moments, with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgehone.testing.agents import TASK, Field
from edgehone_agent.errors import StateError
from edgehone_agent.lock import lock_owner
from edgehone_agent.requests import ask

pytestmark = pytest.mark.slow

# What serves is proven after a second instead of a minute.
QUICK = """
import sys
import edgehone_agent.node as node
node.SETTLED_AFTER_S = 1.0
from edgehone_agent.__main__ import main
sys.exit(main())
"""
HOLD = """
import sys, time
from edgehone_agent.node import Node
with Node(sys.argv[1], tasks=["gestures"]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def on_trial(field: Field) -> Field:
    """Version 1 was proven, and version 2 has just taken over."""
    field.publish(1)
    field.start()
    field.wait_for(1)
    field.settle()
    field.publish(2)
    field.running().send_signal(signal.SIGHUP)
    field.wait_for(2)
    return field


def pointer(field: Field) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((field.state / "tasks" / TASK / "current.json").read_text())
    return found


def wait(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clean_restarts_within_a_minute_never_go_back(number: int, on_trial: Field) -> None:
    for _ in range(4):
        assert on_trial.stop(number) == 0
        on_trial.start()
        assert on_trial.wait_for_answer(60)[0] == 2
    assert on_trial.task()["trial"] is not None and on_trial.task()["failed"] == []


def test_a_kill_and_clean_restarts_do_not_go_back_and_two_kills_do(on_trial: Field) -> None:
    for _ in range(2):
        on_trial.kill()
        on_trial.start()
        assert on_trial.wait_for_answer(60)[0] == 2
        assert on_trial.stop() == 0
        on_trial.start()
        assert on_trial.wait_for_answer(60)[0] == 2
    on_trial.kill()
    on_trial.start()
    assert on_trial.wait_for_answer(60)[0] == 2
    on_trial.kill()
    on_trial.start()
    assert on_trial.wait_for_answer(60)[0] == 1
    assert "died 2 times" in on_trial.task()["failed"][0]["why"]


def test_kills_long_after_the_swap_blame_nobody(field: Field) -> None:
    quick = (sys.executable, "-c", QUICK)
    field.publish(1)
    field.start(program=quick)
    field.wait_for(1)
    field.publish(2)
    field.wait_for(2)
    wait(lambda: field.task()["trial"] is None)
    for _ in range(4):
        field.kill()
        field.start()  # in which a minute is a minute: every kill comes early in its process's life
        assert field.wait_for_answer(60)[0] == 2
    assert field.task()["failed"] == [] and field.task()["previous"]["version"] == 1


def test_a_machine_that_lost_power_twice_after_a_swap_keeps_the_new_one(on_trial: Field) -> None:
    """Each start finds that the kernel was started anew since; the process says so by another boot id in the state."""
    for _ in range(3):
        on_trial.kill()
        file = on_trial.state / "tasks" / TASK / "current.json"
        state = pointer(on_trial)
        file.write_text(json.dumps(state | {"trial": state["trial"] | {"boot": "another run of the machine"}}))
        on_trial.start()
        assert on_trial.wait_for_answer(60)[0] == 2
    assert on_trial.task()["trial"]["resets"] == 3 and on_trial.task()["failed"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_comes_while_the_models_are_loaded_is_a_stop(number: int, on_trial: Field) -> None:
    on_trial.stop()
    for _ in range(3):
        on_trial.start()
        wait(lambda: lock_owner(on_trial.state))
        wait(lambda: not pointer(on_trial)["trial"]["stopped"])  # the start is written down, and loading goes on
        assert on_trial.stop(number) == 0
        assert pointer(on_trial)["trial"]["stopped"] and pointer(on_trial)["trial"]["deaths"] == 0
    on_trial.start()
    assert on_trial.wait_for_answer(60)[0] == 2
    assert "Traceback" not in on_trial.log.read_text()


def test_a_command_that_wakes_an_agent_while_it_starts_does_not_end_it(on_trial: Field) -> None:
    for expected in (2, 1):
        on_trial.stop()
        on_trial.start()
        wait(lambda: lock_owner(on_trial.state))
        on_trial.running().send_signal(signal.SIGHUP)  # as `systemctl reload` does
        if expected == 1:
            done = on_trial.command("rollback", TASK)
            assert done.returncode == 0 and "version 1" in done.stdout, done.stderr
        assert on_trial.wait_for_answer(60)[0] == expected and on_trial.running().poll() is None


def test_a_program_that_holds_the_folder_is_sent_no_signal(field: Field) -> None:
    command = [sys.executable, "-c", HOLD, str(field.state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(StateError, match=f"process {holder.pid} holds this folder and answers no request"):
            ask(field.state, "roll back", {"task": TASK}, timeout_s=0.5)
        field.start()
        assert field.running().wait(30) == 6 and f"(process {holder.pid})" in field.log.read_text()
        assert holder.poll() is None
        holder.communicate("")
        assert holder.returncode == 0
    assert list((field.state / "requests").iterdir()) == []


def test_two_agents_that_start_at_once_end_as_one(field: Field) -> None:
    field.publish(1)
    for _ in range(3):
        started = []
        for _ in range(3):
            field.start()
            started.append(field.running())
        wait(lambda: sum(one.poll() is not None for one in started) == 2)  # noqa: B023  # within this round
        assert sorted(str(one.poll()) for one in started) == ["6", "6", "None"]
        (field.process,) = (one for one in started if one.poll() is None)
        field.wait_for(1)
        assert field.stop() == 0


class Silent:
    """A web server that passes a folder's metadata on, and a bundle's first half: then nothing comes any more."""

    def __init__(self, folder: Path, *, status: str = "200 OK") -> None:
        self._folder, self._status = folder, status
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port, self.is_silent = self._server.getsockname()[1], threading.Event()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        requests = connection.makefile("rb")
        while line := requests.readline():
            path = line.split()[1].decode().lstrip("/")
            while requests.readline().strip():
                pass
            file = self._folder / path
            content = file.read_bytes() if file.is_file() else b""
            is_bundle = path.startswith("targets/")
            status = self._status if is_bundle else "200 OK" if file.is_file() else "404 Not Found"
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nRetry-After: 60\r\n\r\n"
            connection.sendall(head.encode() + (content[: len(content) // 2] if is_bundle else content))
            if is_bundle:
                self.is_silent.set()
                return

    def close(self) -> None:
        self._server.close()
        for connection in self._open:
            connection.close()


@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
def test_a_stop_during_the_first_download_is_quick_and_keeps_what_came(status: str, field: Field) -> None:
    field.publish(1, widths=(20, 900, 900, 4))
    server = Silent(field.folder / "registry", status=status)
    try:
        field.start("--registry", f"http://127.0.0.1:{server.port}")
        assert server.is_silent.wait(20)
        time.sleep(0.3)
        before = time.monotonic()
        assert field.stop(signal.SIGINT) == 0
        assert time.monotonic() - before < 4, "it waits for a server that is silent"
    finally:
        server.close()
    parts = [file.stat().st_size for file in (field.state / "downloads" / TASK).iterdir()]
    assert len(parts) == 1 and (parts[0] > 100_000) == (status == "200 OK")
    assert "Traceback" not in field.log.read_text()
    field.start()
    field.wait_for(1)


def test_a_request_that_is_none_stops_no_other(field: Field) -> None:
    field.publish(1)
    field.start()
    field.wait_for(1)
    folder = field.state / "requests"
    folder.mkdir(exist_ok=True)
    (folder / "a.json").mkdir()
    (folder / "b.json").write_bytes(b"[" * 60_000)
    (folder / "c.json").write_text('{"kind": "roll back"}')
    old = folder / "old.done"
    old.write_text("{}")
    os.utime(old, (1, 1))
    assert "no last good" in field.command("rollback", TASK).stderr
    wait(lambda: sorted(file.name for file in folder.iterdir()) == ["a.done", "b.done", "c.done"])
    assert all("this is no request" in file.read_text() for file in folder.iterdir())
    assert field.stop() == 0 and "Traceback" not in field.log.read_text()
