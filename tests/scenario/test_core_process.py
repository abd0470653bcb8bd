"""`edgehone core` as real processes: made, started, killed, stopped, backed up, brought back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from edgehone.records.database import open_database
from edgehone.records.tables import sample
from edgehone.service.settings import load_place
from edgehone.testing.cores import CoreNode

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "edgehone.cli.main", "core"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def core(*args: object, code: int = 0) -> Any:
    """Run a verb with --json and return what it printed."""
    done = subprocess.run(
        [*COMMAND, *map(str, args), "--json"], capture_output=True, text=True, timeout=120, env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


class Process:
    """A core that serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        began = time.monotonic()
        self.process = subprocess.Popen(
            [*COMMAND, "start", str(folder), "--listen", "127.0.0.1:0", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.started_s = time.monotonic() - began
        assert line, self.process.communicate(timeout=20)[1]
        self.port = int(json.loads(line)["ready"][0].rpartition(":")[2])

    def end(self, how: signal.Signals) -> str:
        """Signal it, wait, and return its log."""
        self.process.send_signal(how)
        return self.process.communicate(timeout=20)[1]

    def node(self, folder: Path) -> CoreNode:
        """A node with a token from the command line."""
        node = CoreNode(self.port, folder, self.folder / "ca" / "ca.pem")
        node.enrol(core("token", self.folder)["token"], "camera")
        return node


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A core's folder with a registry, as `init` makes it."""
    folder = tmp_path_factory.mktemp("made") / "core"
    told = core("init", folder, "--task", "digits", "--approve", "auto", "--name", "core.example.org")
    assert told["password"]
    assert (folder.stat().st_mode & 0o077, (folder / "core.sqlite").stat().st_mode & 0o077) == (0, 0)
    return folder


def test_init_refuses_what_is_there_and_start_what_is_not(made: Path, tmp_path: Path) -> None:
    assert core("init", made, code=6)["error"]["code"] == "EH320"
    assert core("status", tmp_path / "nothing", code=6)["error"]["code"] == "EH330"
    assert core("status", made)["running"] is False


def test_it_starts_without_torch_and_stops_within_seconds(made: Path) -> None:
    code = "import sys, edgehone.service.serving, edgehone.cli._core_start; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, timeout=60).returncode == 0
    running = Process(made)
    assert core("status", made)["running"] is True
    second = subprocess.run(
        [*COMMAND, "start", str(made), "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert second.returncode == 6
    assert "another process serves this core" in second.stderr
    assert "torch" not in Path(f"/proc/{running.process.pid}/maps").read_text()
    began = time.monotonic()
    running.end(signal.SIGTERM)
    assert time.monotonic() - began < 8
    assert running.process.returncode == 0


def test_a_backup_of_a_running_core_is_the_core(made: Path, tmp_path: Path) -> None:
    running = Process(made)
    node = running.node(tmp_path / "node")
    try:
        told = core("backup", made, tmp_path / "backup")
        assert told["rows"] > 3
        assert told["lost"] == []
    finally:
        node.close()
        running.end(signal.SIGTERM)
    back = tmp_path / "back"
    assert core("restore", tmp_path / "backup", back)["rows"] == told["rows"]
    assert core("restore", tmp_path / "backup", back, code=6)["error"]["code"] == "EH320"
    restored = Process(back)
    try:
        node.port = restored.port
        assert node.beat().nonce  # its certificate is as good as before
        assert node.call("GET", "/registry/metadata/timestamp.json")[0] == 200
    finally:
        node.close()
        restored.end(signal.SIGTERM)
    assert _column(back, select(sample.c.id)) == _column(made, select(sample.c.id))


def test_people_by_the_command_line(made: Path) -> None:
    made_up = core("person", made, "add", "eve", "--role", "operator")["password"]
    assert len(made_up) >= 15
    assert core("person", made, "password", "eve")["password"] != made_up
    assert core("person", made, "api-token", "eve", "--role", "viewer")["token"].startswith("eh_")
    core("person", made, "disable", "eve")
    people = {one["name"]: one for one in core("person", made, "list")["people"]}
    assert people["eve"]["disabled_s"] is not None
    assert core("person", made, "disable", "operator", code=4)["error"]["what"] == "this is the last operator"
    assert core("token", made, "--tag", "nonsense", code=4)["error"]["where"] == "--tag"


def _column(folder: Path, query: Any) -> list[Any]:
    database = open_database(load_place(folder).database_url)
    try:
        with database.read() as conn:
            return list(conn.execute(query).scalars())
    finally:
        database.close()
