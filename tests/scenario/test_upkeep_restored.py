"""The loop goes on in a core that was restored on a machine where nothing else is: its families are in the backup."""

from __future__ import annotations

import shutil
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parent))
from loop_world import TASK, World

from edgehone.cli import _core_deeds
from edgehone.fleet.authority import Authority
from edgehone.loop.policy import load_policy
from edgehone.loop.rounds import approve, family
from edgehone.records.tables import release
from edgehone.service.settings import Place, write_settings

pytestmark = pytest.mark.slow
LIMIT_S = 120.0


def drive(world: World, last: str = "") -> None:
    """Tick and beat until a newer round than the last one waits or has ended."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        world.loop.tick(world.now_s)
        world.beat()
        found = world.round()
        if found.id != last and (found.ended or found.state == "waiting"):
            return
        time.sleep(0.1)
    raise AssertionError(f"not in time: {world.round()}")


def move(old: Path, backup: Path, new: Path) -> None:
    """Save a core, lose the machine that it was on, and restore it on another one."""
    _core_deeds.backup(Namespace(core=old, to=backup))
    shutil.rmtree(old)
    told, lines = _core_deeds.restore(Namespace(backup=backup, core=new, database="", blobs=""))
    assert told["missing"] == [], lines


def test_a_round_that_waited_is_approved_and_the_next_one_learns_from_its_family(
    gas_family: Path, tmp_path: Path
) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    shutil.copytree(gas_family, one)
    world = World(one, policy={"approve": "manual", "corrections": 5})
    Authority.make(one / "ca", time.time())
    write_settings(Place(one))
    world.see(1.2)
    drive(world)
    waiting = world.round()
    assert waiting.state == "waiting", waiting.why
    world.close()

    move(one, tmp_path / "first backup", two)
    world = World(two)
    assert world.round().id == waiting.id
    approve(world.site.database, waiting.id, actor="person:ann", now_s=world.now_s)
    while not world.round().ended:
        drive(world)
    assert world.round().state == "done", world.round().why
    with world.site.database.read() as conn:
        assert conn.execute(select(release.c.version).order_by(release.c.version)).scalars().all() == [1, 2]
    world.close()

    move(two, tmp_path / "second backup", three)
    world = World(three)
    with world.site.database.read() as conn:
        policy = load_policy(conn, TASK)
        assert policy is not None
        assert family(conn, policy) == str(three.resolve() / "rounds" / waiting.id / "study")
        assert policy.source == str(three.resolve() / "tasks" / Path(policy.source).name)
    world.now_s += 3600.0
    world.serial = 10  # of samples that were seen in its life before
    world.see(-2.0)
    drive(world, waiting.id)
    assert world.round().state == "waiting", world.round().why
    assert world.round().study == str(three.resolve() / "rounds" / waiting.id / "study")
    world.close()
