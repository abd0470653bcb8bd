"""Commands in any order: after each, a node that slept and a new node both get what is live, and the spec agrees."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from edgehone.registry.create import add_task
from edgehone.registry.rotation import revoke_key, rotate
from edgehone.registry.state import read
from edgehone.registry.upkeep import prune, refresh, revoke_release


@pytest.mark.parametrize(
    ("seed", "place"), [(0, "bucket"), *((seed, "folder") for seed in range(6))], indirect=["place"]
)
def test_any_order(seed: int, place: str, world: Any, second_opinion: Callable[[Any], Any]) -> None:
    choose = random.Random(seed)
    world.create("digits")
    live: dict[str, set[int]] = {"digits": set()}
    newest = {"digits": 0}

    def act() -> None:
        task = choose.choice(sorted(live))
        what = choose.choice(["publish", "publish", "revoke", "rotate", "one key", "refresh", "prune", "task"])
        place = {"anchor": world.anchor}
        if what == "publish":
            newest[task] += choose.choice([1, 3])
            world.publish(task, newest[task])
            live[task].add(newest[task])
        elif what == "revoke" and live[task]:
            version = choose.choice(sorted(live[task]))
            revoke_release(world.store, world.ring(), task, version, world.now, **place)
            live[task].remove(version)
        elif what == "rotate":
            rotate(world.store, world.ring(), choose.choice(["root", "targets", "online", task]), world.now, **place)
        elif what == "one key":
            keys = read(world.store, world.anchor).root.signed.keys
            revoke_key(world.store, world.ring(), choose.choice(sorted(keys))[:12], world.now, **place)
        elif what == "refresh":
            also = choose.sample(["root", "targets", task], choose.randrange(3))
            refresh(world.store, world.ring(), world.now, also=also, **place)
        elif what == "prune":
            prune(world.store, world.now + timedelta(hours=1), keep_days=0, **place)
        elif what == "task" and len(live) < 3:
            name = f"task-{len(live)}"
            add_task(world.store, world.ring(), name, world.now, **place)
            live[name], newest[name] = set(), 0

    world.updater("sleeper").refresh()
    for step in range(15):
        act()
        second_opinion(world)
        for node in ("always", f"new-{step}", *(["sleeper"] if step == 14 else [])):
            updater = world.updater(node)
            updater.refresh()
            for task, versions in live.items():
                for version in range(1, newest[task] + 2):
                    path = f"{task}/{version}-w22-int8.bundle"
                    info = updater.get_targetinfo(path)
                    assert (info is not None) == (version in versions), (step, node, path)
                    if info is not None:
                        updater.download_target(info)
