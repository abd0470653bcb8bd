"""The loop over several rounds on a small task: labels and evidence as rows, training and signing for real."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parent))
from loop_world import TASK, World

from edgehone.errors import InputError
from edgehone.fleet.lineage import lineage
from edgehone.loop.rounds import abort, approve, list_rounds
from edgehone.records.tables import dataset, release, rollout

pytestmark = pytest.mark.slow
WAIT_S = 120.0


@pytest.fixture
def make(gas_family: Path, tmp_path: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def world(**values: object) -> World:
        folder = tmp_path / f"core{len(made)}"
        shutil.copytree(gas_family, folder)
        made.append(World(folder, **values))  # type: ignore[arg-type]
        return made[-1]

    yield world
    for one in made:
        one.close()


def drive(world: World, last: str = "") -> None:
    """Tick and beat until a round has ended that is newer than the last one."""
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s:
        world.loop.tick(world.now_s)
        world.beat()
        with world.site.database.read() as conn:
            found = list_rounds(conn, TASK, limit=1)
        if found and found[0].ended and found[0].id != last:
            return
        time.sleep(0.1)
    raise AssertionError(f"not over in time: {world.round()}")


DRIVER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from loop_world import World
world = World(Path(sys.argv[2]))
end_s = time.monotonic() + 100
while time.monotonic() < end_s:
    world.loop.tick(world.now_s)
    world.beat()
    found = world.round()
    print(found.phase, found.state, flush=True)
    if found.ended:
        break
    time.sleep(0.05)
world.close()
"""


def test_killed_in_every_phase_it_goes_on(make: Callable[..., World], tmp_path: Path) -> None:
    """kill -9 as soon as a phase shows, and in the middle of the training; in the end one release, one rollout."""
    world = make()
    world.see(1.2)
    command = [sys.executable, "-c", DRIVER, str(Path(__file__).parent), str(world.folder)]
    killed: set[str] = set()
    state = ""
    for _ in range(12):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            phase, state = line.split()
            if phase not in killed and state == "running":
                killed.add(phase)
                process.kill()
                break
        process.wait()
        process.stdout.close()
        if state == "done":
            break
    assert state == "done", (killed, world.round())
    assert "train" in killed and "observe" in killed, killed
    with world.site.database.read() as conn:
        assert conn.execute(select(release.c.version).order_by(release.c.version)).scalars().all() == [1, 2]
        assert len(conn.execute(select(rollout.c.id)).all()) == 1
        assert len(conn.execute(select(dataset.c.digest)).all()) == 1
    assert world.accuracy(1.2) > 0.88


def test_a_person_approves_or_the_round_waits(make: Callable[..., World]) -> None:
    world = make(policy={"approve": "manual"})
    world.see(1.2)
    end_s = time.monotonic() + WAIT_S
    world.loop.tick(world.now_s)
    while world.round().state == "running" and time.monotonic() < end_s:
        world.loop.tick(world.now_s)
        time.sleep(0.1)
    found = world.round()
    assert (found.phase, found.state) == ("sign", "waiting") and "approve" in found.why
    world.loop.tick(world.now_s + 1e6)
    assert world.round() == found  # it waits as long as it takes
    approve(world.site.database, found.id[:6], actor="person:ann", now_s=world.now_s)
    drive(world)
    with world.site.database.read() as conn:
        assert conn.execute(select(release.c.approved_by).where(release.c.version == 2)).scalar() == "person:ann"
        made = conn.execute(select(release).where(release.c.version == 2)).one()
        stint = lineage(conn, world.names[0], task=TASK)
    assert made.round == found.id and made.dataset == found.dataset and made.parent
    assert stint.name


def test_aborted_it_stops_training_and_the_next_may_begin(make: Callable[..., World]) -> None:
    world = make()
    world.see(1.2)
    world.loop.tick(world.now_s)
    first = world.round()
    assert first.phase == "train"
    abort(world.site, first.id, actor="person:ann", now_s=world.now_s, why="not now")
    end_s = time.monotonic() + 20
    while world.loop.workers.is_alive(world.site.rounds / first.id) and time.monotonic() < end_s:
        time.sleep(0.1)
    assert not world.loop.workers.is_alive(world.site.rounds / first.id)
    assert world.round().why == "not now"
    with pytest.raises(InputError, match="aborted"):
        abort(world.site, first.id, actor="person:ann", now_s=world.now_s)
    world.now_s += 3600
    world.loop.tick(world.now_s)
    assert world.round().id != first.id and world.round().state == "running"
