"""A publisher is killed at calls that change the disk: nodes go on, and the same command then succeeds.

At some calls of each kind on every day, at all of them with EDGEHONE_KILLS=all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tuf.ngclient import Updater

from edgehone.cli.main import main
from edgehone.testing.faults import count_calls, run_killed
from edgehone_agent.wire.manifest import Manifest, Part, Values

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="Debian package `strace` is not installed"),
]

PASSPHRASE = "correct horse battery staple"
ENVIRONMENT = {**os.environ, "EDGEHONE_PASSPHRASE": PASSPHRASE, "PYTHONDONTWRITEBYTECODE": "1"}
COMMAND = (sys.executable, "-m", "edgehone.cli.main", "registry")
KILLS = 3  # of each kind of call


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def write_bundle(path: Path, version: int) -> Path:
    model = f"model {version}".encode() * 200
    part = Part("models/litert/model.tflite", "model", hashlib.sha256(model).hexdigest(), len(model), "litert")
    manifest = Manifest(
        "digits", "classification", version, "w22-int8", "2026-01-01T00:00:00Z", (part,),
        Values("picture", (1, 8, 8)), Values("scores", (3,)), labels=("a", "b", "c"),
    )  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("manifest.json"), json.dumps(manifest.to_json()))
        archive.writestr(zipfile.ZipInfo(part.path), model)
    return path


@pytest.fixture(autouse=True)
def _passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHONE_PASSPHRASE", PASSPHRASE)


def run(*words: object) -> None:
    """The command, in this process: only who is killed or comes at once with others needs one of its own."""
    assert main(["registry", *map(str, words)]) == 0


class Fleet:
    """Nodes before a web server that serves whatever lies in `folder` now."""

    def __init__(self, folder: Path, url: str, states: Path) -> None:
        self.folder, self.url, self.states = folder, url, states

    def live(self, node: str) -> set[int]:
        """Versions a node can download, each checked to the last byte."""
        state = self.states / node
        state.mkdir(parents=True, exist_ok=True)
        root = (self.folder / "metadata" / "1.root.json").read_bytes()
        updater = Updater(str(state), f"{self.url}/metadata/", str(state), f"{self.url}/targets/", bootstrap=root)
        updater.refresh()
        found = set()
        for version in (1, 2):
            info = updater.get_targetinfo(f"digits/{version}-w22-int8.bundle")
            if info is not None:
                updater.download_target(info)
                found.add(version)
        return found


@pytest.fixture
def fleet(memory_path: Path) -> Iterator[Fleet]:
    folder = memory_path / "work" / "registry"
    folder.mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Fleet(folder, f"http://127.0.0.1:{server.server_port}", memory_path / "nodes")
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def saved(fleet: Fleet, memory_path: Path) -> Path:
    """A copy of a registry with its keys, version 1 live; `restore` brings it back."""
    run("init", fleet.folder, "--task", "digits")
    run("publish", fleet.folder, write_bundle(memory_path / "1.bundle", 1))
    write_bundle(memory_path / "2.bundle", 2)
    return Path(shutil.copytree(fleet.folder.parent, memory_path / "saved"))


def restore(saved: Path, fleet: Fleet) -> None:
    for path in fleet.folder.parent.iterdir():
        if path != fleet.folder:
            shutil.rmtree(path)
    for path in fleet.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(saved, fleet.folder.parent, dirs_exist_ok=True)


@pytest.mark.parametrize("call", ["rename", "fsync", "mkdir"])
@pytest.mark.parametrize("what", ["publish", "publish, blobs are there", "rotate"])
def test_killed_anywhere(
    what: str, call: str, fleet: Fleet, saved: Path, memory_path: Path, kill_points: Callable[[int, int], list[int]]
) -> None:
    words = ["publish", str(fleet.folder), str(memory_path / "2.bundle")]
    if what == "rotate":
        words = ["rotate-key", str(fleet.folder), "online"]
    elif what != "publish":  # calls are counted per thread, and blobs are written by another one
        run(*words, "--prepare", memory_path / "to-sign")
        shutil.copytree(fleet.folder.parent, saved, dirs_exist_ok=True)
    command = [*COMMAND, *words]
    calls = count_calls(command, call, environment=ENVIRONMENT)
    assert calls >= {"rename": 3, "fsync": 6, "mkdir": 0}[call]
    after = {1} if what == "rotate" else {1, 2}
    assert fleet.live("whole") == after
    killed = 0
    for cut in kill_points(calls, KILLS):
        restore(saved, fleet)
        node = f"{what}-{call}-{cut}"
        assert fleet.live(node) == {1}
        is_killed = run_killed(command, call, cut, environment=ENVIRONMENT)
        killed += is_killed
        for reader in (node, f"fresh-{node}"):
            assert fleet.live(reader) in ({1}, after) if is_killed else fleet.live(reader) == after
        run(*words)  # the same again
        assert fleet.live(node) == after and fleet.live(f"again-{node}") == after
        run("status", fleet.folder)
    assert killed >= 1 or not calls


def test_two_at_once(fleet: Fleet, saved: Path, memory_path: Path) -> None:
    """Either both come one after the other, or one is told to wait; never a mixture."""
    command = [*COMMAND, "publish", str(fleet.folder), str(memory_path / "2.bundle"), "--json"]
    running = [
        subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ends = [(process.communicate(timeout=60), process.returncode) for process in running]
    codes = [code for _, code in ends]
    assert 0 in codes and set(codes) <= {0, 6}
    first = [json.loads(out) for (out, _), code in ends if code == 0 and json.loads(out)["new"]]
    assert len(first) == 1
    assert all("another command is changing this registry" in err for (_, err), code in ends if code == 6)
    assert fleet.live("node") == {1, 2}
