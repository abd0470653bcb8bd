"""A node's update as a real process: cut off, killed at every write, without power, on a full or read-only disk."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgehone.testing.faults import count_calls, run_killed
from edgehone.testing.links import CutLink, serving
from edgehone.testing.power import SURVIVALS, record
from edgehone.testing.trust import Repository
from edgehone_agent.errors import StateError, TrustError
from edgehone_agent.transport import FolderSource, open_source
from edgehone_agent.verify import Verifier

pytestmark = pytest.mark.slow
with_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="package strace is not installed")

UPDATE = """
import sys
from pathlib import Path
from edgehone_agent.transport import open_source
from edgehone_agent.verify import Verifier
state, registry, root = sys.argv[1:4]
verifier = Verifier(Path(state), open_source(registry, pause=lambda seconds: None), Path(root).read_bytes())
release = verifier.check("gauge").releases[0]
verifier.download(release, Path(state) / "bundle")
verifier.raise_floor("gauge", release.version)
"""


class Site:
    """A registry whose newest release a node has not seen yet, and the node's folder, which knows the one before."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder, self.state, self.root = folder, folder / "state", folder / "root.json"
        self.repository = Repository(folder / "registry", now_s=time.time())
        self.root.write_bytes(self.repository.root)
        self.repository.release("gauge", 1, b"one")
        self.repository.commit()
        self.older = Path(shutil.copytree(self.repository.folder, folder / "older"))
        self.update(self.state)
        self.content = random.Random(3).randbytes(size_bytes)
        self.repository.write_root()
        self.repository.release("gauge", 2, self.content)
        self.repository.commit()
        self.before = Path(shutil.copytree(self.state, folder / "before", symlinks=True))

    def restore(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.copytree(self.before, self.state, symlinks=True)

    def update(self, state: Path) -> None:
        verifier = self.verifier(state)
        (release,) = verifier.check("gauge").releases
        verifier.download(release, state / "bundle")
        verifier.raise_floor("gauge", release.version)

    def verifier(self, state: Path, registry: Path | None = None) -> Verifier:
        return Verifier(state, FolderSource(registry or self.repository.folder), self.repository.root)

    def command(self, registry: str | None = None) -> list[str]:
        return [
            sys.executable, "-c", UPDATE, str(self.state), registry or str(self.repository.folder), str(self.root)
        ]  # fmt: skip

    def is_sound(self, state: Path) -> None:
        """Old or new, never neither: the bundle is whole, the floor fits it, nothing older is taken, and it goes on.

        With the cache of metadata that was left, and without one.
        """
        bundle = (state / "bundle").read_bytes()
        verifier = self.verifier(state)
        floor = verifier.floor("gauge")
        assert (bundle, floor) in ((b"one", 1), (self.content, 1), (self.content, 2))
        knows_the_newest = verifier._floors.roles["timestamp"].version == self.repository.versions["timestamp"]
        left = state.with_name("left-as-it-is")
        shutil.rmtree(left, ignore_errors=True)
        shutil.copytree(state, left, symlinks=True)
        shutil.rmtree(state / "tuf", ignore_errors=True)  # the floors alone must hold
        for folder in (left, state):
            if knows_the_newest:
                with pytest.raises(TrustError):
                    self.verifier(folder, self.older).check("gauge")
            assert self.verifier(folder).check("gauge").releases[0].version == 2


@pytest.fixture
def site(memory_path: Path) -> Site:
    return Site(memory_path, 50_000)


def test_a_hundred_cuts_and_eight_kills_cost_less_than_a_twentieth(tmp_path: Path) -> None:
    """The node is killed at every eighth of the file, and the link breaks at a hundred random bytes."""
    site = Site(tmp_path, 8_000_000)
    chance = random.Random(5)
    places = sorted(chance.sample(range(1, len(site.content)), 100))
    cuts = [end - start for start, end in zip([0, *places], places, strict=False)]
    kills = 0
    with serving(site.repository.folder) as port, CutLink(port, cuts, pause_s=0.0005) as link:
        command = site.command(f"http://127.0.0.1:{link.port}")
        for at in (*range(1_000_000, 8_000_000, 1_000_000), None):
            node = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            while node.poll() is None and (at is None or link.sent_bytes < at):
                time.sleep(0.001)
            if at is not None:
                node.kill()
            _, error = node.communicate(timeout=60)
            kills += node.returncode == -9
        assert node.returncode == 0, error
        assert (site.state / "bundle").read_bytes() == site.content
        assert kills == 7 and link.breaks == 100
        assert link.sent_bytes <= 1.05 * len(site.content)


@with_strace
@pytest.mark.parametrize("call", ["write", "pwrite64", "fsync", "rename", "unlink", "mkdir", "symlink"])
def test_a_kill_at_every_call_leaves_a_sound_node(site: Site, call: str) -> None:
    calls = count_calls(site.command(), call)
    killed = 0
    for number in range(1, calls + 1):
        site.restore()
        killed += run_killed(site.command(), call, number)
        site.is_sound(site.state)
    assert killed == calls >= 2


@with_strace
def test_a_power_cut_at_every_moment_leaves_a_sound_node(site: Site, memory_path: Path) -> None:
    disk, operations = record(site.command(), site.state)
    calls, survivals = set[str](), set[str]()
    cuts = 0
    for operation, survival in disk.cuts(operations):
        cuts, calls, survivals = cuts + 1, calls | {operation.call}, survivals | {survival}
        left = memory_path / "left"
        shutil.rmtree(left, ignore_errors=True)
        disk.leave(left, survival)
        site.is_sound(left)
    assert cuts >= 60 and survivals == set(SURVIVALS), (cuts, survivals)
    assert {"openat", "write", "pwrite64", "fsync", "rename", "unlink", "symlink"} <= calls, calls
    disk.leave(memory_path / "after", "nothing")
    after = memory_path / "after"
    assert (after / "bundle").read_bytes() == site.content and site.verifier(after).floor("gauge") == 2
    # The cache is certain too, so a node that starts without a link need not begin at its embedded root.
    timestamp = json.loads((after / "tuf" / "timestamp.json").read_text())["signed"]
    assert timestamp["version"] == site.repository.versions["timestamp"]
    assert json.loads((after / "tuf" / "root.json").read_text())["signed"]["version"] == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 600 kB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_said_at_every_step_and_heals(site: Site, small_disk: Path) -> None:
    state = small_disk / "state"
    shutil.copytree(site.before, state, symlinks=True)
    free = os.statvfs(small_disk)
    most = free.f_bavail * free.f_bsize
    said = set()
    for left in range(0, 80_000, 4096):
        filler = small_disk / "filler"
        filler.write_bytes(bytes(most - left))
        try:
            verifier = site.verifier(state)
            release = verifier.check("gauge").releases[0]
            verifier.download(release, state / "bundle")
            said.add("done")
        except StateError as error:
            said.add(error.what.split(" ")[0])
            assert (state / "bundle").read_bytes() == b"one"
        filler.unlink()
        assert site.verifier(state).floor("gauge") == 1
        shutil.rmtree(state)
        shutil.copytree(site.before, state, symlinks=True)
    assert {"No", "done"} <= said
    site.is_sound(state)


def test_a_read_only_disk_is_said_and_heals(site: Site, small_disk: Path) -> None:
    state = small_disk / "state"
    shutil.copytree(site.before, state, symlinks=True)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    verifier = site.verifier(state)
    assert verifier.floor("gauge") == 1
    for attempt in (lambda: verifier.check("gauge"), lambda: verifier.raise_floor("gauge", 2)):
        with pytest.raises(StateError, match="Read-only file system"):
            attempt()
    with pytest.raises(StateError):
        open_source(str(site.repository.folder)).download("metadata/timestamp.json", state / "x", 5, "0" * 64)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert verifier.check("gauge").releases[0].version == 2
    site.is_sound(state)
