"""Updates from a real signed repository: what is taken, by which way, and what stops one without stopping service."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.bundle.delta import make_delta
from edgehone.testing.bundles import Made, write_bundle
from edgehone.testing.trust import Repository
from edgehone_agent.errors import UnfitError
from edgehone_agent.fit import NodeFacts, describe_node
from edgehone_agent.node import Node
from edgehone_agent.slot_rules import Failure, Placed, SlotState
from edgehone_agent.transport import open_source
from edgehone_agent.updates import Updates, first_wait_s, plan_update, wait_s
from edgehone_agent.verify import Delta, Release, Verifier
from edgehone_agent.wire.manifest import Fit

TASK = "gestures"
FIT = {"runtimes": ["litert"]}


class Site:
    """A registry and a node that looks at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = Repository(folder / "registry", now_s=time.time(), tasks=(TASK,))
        self.node = Node(folder / "state", tasks=[TASK])
        self.verifier = Verifier(folder / "state", open_source(str(folder / "registry")), self.repository.root)
        self.stopping = False
        self.updates = Updates(
            self.node, lambda: self.verifier, facts=describe_node, stopping=lambda: self.stopping
        )  # fmt: skip

    def publish(
        self, version: int, *, about: dict[str, Any] | None = None, member: str = "linear", **more: Any
    ) -> Made:
        made = write_bundle(self.folder / f"{version}-{member}.bundle", version=version, member=member, **more)
        content = made.path.read_bytes()
        self.repository.release(TASK, version, content, member=member, **{"fit": FIT, **(about or {})})
        self.repository.commit()
        return made

    def look(self) -> dict[str, Any]:
        told: dict[str, Any] = self.updates.look()[TASK]
        return told

    def answers(self, made: Made) -> bool:
        return bool(np.array_equal(self.node.predict(made.x), made.y))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.node.close()


def left_over(site: Site) -> list[Path]:
    """Files that a download left behind."""
    return [file for file in (site.node.state / "downloads").rglob("*") if file.is_file()]


# --- pure


def release(version: int, name: str, rank: int = 0, size: int = 100, deltas: tuple[Delta, ...] = ()) -> Release:
    return Release(
        TASK,
        f"{TASK}/{version}-{name}.bundle",
        version,
        name,
        f"{name}{version}",
        size,
        rank,
        Fit(runtimes=("litert",)),
        deltas,
    )


FACTS = NodeFacts("x86_64", ("litert",), 10**9)


def test_the_newest_version_is_taken_and_of_it_the_first_that_fits() -> None:
    huge = replace(release(2, "big"), fit=Fit(runtimes=("litert",), memory_bytes=10**12))
    offered = (huge, release(2, "small", 1), release(1, "big"))
    assert plan_update(offered, SlotState(), FACTS).release == offered[1]
    with pytest.raises(UnfitError, match="no member of version 2 fits"):
        plan_update(offered[:1], SlotState(), FACTS)


def test_what_failed_is_passed_over_and_nothing_older_is_taken() -> None:
    offered = (release(3, "a"), release(3, "b", 1), release(2, "a"))
    serving = SlotState(Placed("a", "a2", 2))
    assert plan_update(offered, serving, FACTS).release == offered[0]
    once = replace(serving, failed=(Failure("a3", 3, "slow"),))
    assert plan_update(offered, once, FACTS).release == offered[1]
    twice = replace(once, failed=(*once.failed, Failure("b3", 3, "slow")))
    assert (plan_update(offered, twice, FACTS).release, plan_update(offered, twice, FACTS).why) == (None, "up to date")
    every = replace(twice, failed=(*twice.failed, Failure("a2", 2, "bad")))
    assert "failed here before" in plan_update(offered, every, FACTS).why
    newer = SlotState(Placed("a", "z9", 9))
    assert "older than version 9" in plan_update(offered, newer, FACTS).why
    assert plan_update((), SlotState(), FACTS).why == "nothing is offered"


def test_a_delta_is_used_when_it_starts_from_what_serves_and_is_smaller() -> None:
    small, large = (Delta("a1", "p", "d", size) for size in (10, 200))
    other = Delta("zz", "p", "d", 1)
    for deltas, expected in (((other, small), small), ((large,), None), ((other,), None)):
        plan = plan_update((release(2, "a", deltas=deltas),), SlotState(Placed("a", "a1", 1)), FACTS)
        assert plan.delta == expected
    assert plan_update((release(2, "a", deltas=(small,)),), SlotState(), FACTS).delta is None


def test_an_older_version_is_taken_only_from_a_key_that_does_not_know_what_serves() -> None:
    serving = SlotState(Placed("a", "t9", 9))
    offered = (release(4, "a"),)
    assert plan_update(offered, serving, FACTS, highest=9).release is None
    assert plan_update(offered, serving, FACTS, highest=12).release is None
    plan = plan_update(offered, serving, FACTS, highest=8)
    assert plan.release == offered[0] and plan.disowns and plan.delta is None
    assert not plan_update((release(9, "b"),), serving, FACTS, highest=8).disowns


def test_waits_jitter_and_back_off_and_are_bounded() -> None:
    rng = random.Random(0)
    for failures, mean in ((0, 100.0), (1, 200.0), (2, 400.0), (3, 400.0), (10**6, 400.0)):
        waits = [wait_s(100.0, failures, rng) for _ in range(400)]
        assert min(waits) >= 0.8 * mean and max(waits) <= 1.2 * mean
        assert np.std(waits) > 0.05 * mean and np.mean(waits) == pytest.approx(mean, rel=0.05)
    assert first_wait_s(100.0, False, rng) == 0
    assert all(0 <= first_wait_s(100.0, True, rng) <= 5 for _ in range(50))


# --- with a registry


def test_a_release_is_taken_and_then_nothing_until_the_next(site: Site) -> None:
    one = site.publish(1)
    assert site.look() == {"flags": [], "did": "took version 1"}
    assert site.answers(one) and site.verifier.floor(TASK) == 1
    assert site.look()["did"] == "up to date"
    two = site.publish(2)
    assert site.look()["did"] == "took version 2" and site.answers(two)
    assert left_over(site) == []


def test_a_delta_brings_the_same_bundle(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one = site.publish(1, widths=(20, 200, 4))
    site.look()
    two = write_bundle(site.folder / "two.bundle", version=2, widths=(20, 200, 4), seed=1)
    content = make_delta(one.path, two.path)
    assert content is not None
    path = f"{TASK}/2-from-{one.digest[:16]}.delta"
    site.repository.put_target(TASK, path, content, {"from": one.digest, "to": two.digest})
    site.publish(2, about={"deltas": [{"from": one.digest, "path": path}]}, widths=(20, 200, 4), seed=1)
    brought: list[str] = []
    download = site.verifier.download
    monkeypatch.setattr(
        site.verifier,
        "download",
        lambda item, to, progress=None: (brought.append(item.path), download(item, to, progress)),
    )
    assert site.look()["did"] == "took version 2" and brought == [path]
    assert site.node.digest(TASK) == two.digest and site.answers(two)


def test_a_delta_that_is_of_no_use_costs_only_the_whole_bundle(site: Site) -> None:
    one = site.publish(1)
    site.look()
    path = f"{TASK}/2-from-{one.digest[:16]}.delta"
    bad = write_bundle(site.folder / "two.bundle", version=2)
    site.repository.put_target(TASK, path, b"EHDELTA1 and nonsense", {"from": one.digest, "to": bad.digest})
    two = site.publish(2, about={"deltas": [{"from": one.digest, "path": path}]})
    assert site.look()["did"] == "took version 2" and site.answers(two)


def test_a_bad_release_is_refused_once_and_the_next_one_is_taken(site: Site) -> None:
    one = site.publish(1)
    site.look()
    site.publish(2, wrong_probe=True)
    told = site.look()
    assert told["code"] == "EH180" and "probe wrongly" in told["error"] and site.answers(one)
    assert site.updates.failures == 0 and site.verifier.floor(TASK) == 1
    assert site.look()["did"] == "up to date"
    assert left_over(site) == []
    three = site.publish(3)
    assert site.look()["did"] == "took version 3" and site.answers(three)


def test_the_second_member_is_taken_when_the_first_is_too_slow_here(site: Site) -> None:
    site.publish(1, member="slow", latency_us=0.001, about={"rank": 0})
    fast = site.publish(1, member="fast", seed=5, about={"rank": 1})
    assert "one answer takes" in site.look()["error"]
    assert site.look()["did"] == "took version 1" and site.answers(fast)
    assert site.look()["did"] == "up to date"


def test_what_does_not_fit_is_not_downloaded(site: Site) -> None:
    one = site.publish(1)
    site.look()
    site.publish(2, about={"fit": FIT | {"machines": ["riscv64"]}})
    told = site.look()
    assert told["code"] == "EH195" and "riscv64" in told["error"] and site.answers(one)
    assert left_over(site) == []


def test_a_stolen_key_stops_nothing_once_it_is_replaced(site: Site) -> None:
    """With the thief's version 9,000,000 serving: nothing older before the key is replaced, then the owner's."""
    one = site.publish(1)
    site.look()
    theft = site.publish(9_000_000)
    assert site.look()["did"] == "took version 9000000" and site.answers(theft)
    thief = site.repository.tasks[TASK].targets
    path = f"{TASK}/9000000-linear.bundle"
    kept = thief.pop(path)
    two = site.publish(2)
    assert site.look()["did"] == "nothing is offered" and site.answers(theft)
    thief[path] = kept  # a key that is replaced as a matter of routine
    site.repository.rotate_task(TASK)
    assert site.look()["did"] == "up to date" and site.verifier.floor(TASK) == 9_000_000
    del thief[path]
    site.repository.rotate_task(TASK)
    assert site.look()["did"] == "took version 2" and site.answers(two) and site.verifier.floor(TASK) == 2
    state = site.node.slots(TASK).state
    assert state.previous is None and state.failed == ()
    with pytest.raises(UnfitError, match="no last good"):  # nobody goes back to what the thief had signed
        site.node.roll_back(TASK)
    assert site.look()["did"] == "up to date"
    three = site.publish(3)
    assert site.look()["did"] == "took version 3" and site.answers(three) and not site.answers(one)


def test_an_owner_without_a_new_release_gets_the_one_before_back(site: Site) -> None:
    one = site.publish(1)
    site.look()
    site.publish(9_000_000)
    site.look()
    del site.repository.tasks[TASK].targets[f"{TASK}/9000000-linear.bundle"]
    site.repository.rotate_task(TASK)
    assert site.look()["did"] == "took version 1" and site.answers(one)


@pytest.mark.parametrize("by_hand", [False, True], ids=["serving", "rolled back"])
def test_a_new_key_does_not_bring_back_what_is_older(by_hand: bool, site: Site) -> None:
    one, role = site.publish(1), site.repository.tasks[TASK]
    site.look()
    two = site.publish(2)
    site.look()
    if by_hand:
        site.node.roll_back(TASK)
    site.publish(0 + 1, member="other", seed=7)  # an older version that this node has never seen
    del role.targets[f"{TASK}/2-linear.bundle"]
    role.unrecognized_fields["x-edgehone"] = {"highest_version": 2}
    site.repository.rotate_task(TASK)
    assert site.look()["did"] == "nothing is offered" and site.verifier.floor(TASK) == 2
    assert site.answers(one if by_hand else two)


def test_a_floor_that_a_crash_left_low_is_made_up_for(site: Site) -> None:
    made = site.publish(4)
    site.node.install(TASK, made.path)  # and the process dies before the floor rises
    assert site.verifier.floor(TASK) == 0
    assert site.look()["did"] == "up to date" and site.verifier.floor(TASK) == 4


def test_downloads_of_two_tasks_leave_each_other_alone(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "registry", now_s=time.time(), tasks=("one", "two"))
    for task in ("one", "two"):
        made = write_bundle(tmp_path / f"{task}.bundle", version=1, task=task, widths=(20, 900, 900, 4))
        repository.release(task, 1, made.path.read_bytes(), member="linear", fit=FIT)
    repository.commit()
    left = [2]

    def stopping() -> bool:
        left[0] -= 1
        return left[0] < 0

    with Node(tmp_path / "state", tasks=["one", "two"]) as node:
        verifier = Verifier(node.state, open_source(str(repository.folder)), repository.root)
        stray = node.state / "downloads" / "three"
        stray.mkdir(parents=True)
        (stray / "x.part").write_bytes(b"of a task that is served no more")
        updates = Updates(node, lambda: verifier, facts=describe_node, stopping=stopping)
        assert updates.look_at("one") is None
        (part,) = (node.state / "downloads" / "one").iterdir()
        size = part.stat().st_size
        left[0] = 1000
        told = updates.look_at("two")
        assert told is not None and told["did"] == "took version 1" and part.stat().st_size == size > 0
        assert updates.look()["one"]["did"] == "took version 1" and not part.exists() and not stray.exists()


def test_a_node_that_may_not_write_brings_nothing_and_disturbs_no_download(site: Site) -> None:
    site.publish(1)
    part = site.node.state / "downloads" / TASK / "1.bundle.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    with Node(site.node.state, tasks=[TASK]) as reader:
        told = Updates(reader, lambda: site.verifier, facts=describe_node).look()[TASK]
    assert "another process writes" in told["error"] and part.read_bytes() == b"half"
    assert site.look()["did"] == "took version 1" and left_over(site) == []


def test_no_memory_is_told_and_the_next_look_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one = site.publish(1)

    def short(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(site.verifier, "check", short)
    assert site.look()["code"] == "EH330" and site.updates.failures == 1
    monkeypatch.undo()
    assert site.look()["did"] == "took version 1" and site.answers(one)


def test_an_unreachable_registry_is_a_failure_that_serving_survives(site: Site) -> None:
    one = site.publish(1)
    site.look()
    away = site.folder / "away"
    (site.folder / "registry").rename(away)
    for failures in (1, 2):
        assert site.look()["code"] == "EH340" and site.updates.failures == failures
    assert site.answers(one)
    away.rename(site.folder / "registry")
    assert site.look()["did"] == "up to date" and site.updates.failures == 0


def test_metadata_out_of_date_is_told_and_not_acted_on(site: Site) -> None:
    one = site.publish(1)
    site.look()
    site.repository.now_s -= 30 * 86_400
    site.publish(2)
    told = site.look()
    assert told["did"].startswith("nothing") and "stale_metadata" in [flag["name"] for flag in told["flags"]]
    assert site.answers(one)


def test_a_full_disk_is_told_and_the_next_look_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    one = site.publish(1)
    site.look()
    two = site.publish(2)
    real = os.link

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "link", full)
    told = site.look()
    assert told["code"] == "EH330" and "No space left" in told["error"] and site.answers(one)
    monkeypatch.setattr(os, "link", real)
    shutil.rmtree(site.folder / "registry" / "targets")  # what was brought is still here
    assert site.look()["did"] == "took version 2" and site.answers(two)


def test_a_stop_leaves_a_download_to_be_gone_on_with(site: Site) -> None:
    one = site.publish(1)
    site.look()
    two = site.publish(2, widths=(20, 900, 900, 4))
    asked = [0]

    def stopping() -> bool:
        asked[0] += 1
        return asked[0] > 2

    updates = Updates(site.node, lambda: site.verifier, facts=describe_node, stopping=stopping)
    assert updates.look() == {} and site.answers(one)
    assert [file.suffix for file in (site.node.state / "downloads" / TASK).iterdir()] == [".part"]
    assert site.look()["did"] == "took version 2" and site.answers(two)
