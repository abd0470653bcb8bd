"""A core process on PostgreSQL: every page and answer as on SQLite, and a release from its rollout to its round."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parent))
import loop_world
from core_world import CoreProcess, Puppet, event, sample_line, wait_until
from test_loop_rounds import drive

from edgehone.fleet import rollouts
from edgehone.fleet.rollout import RolloutPlan
from edgehone.records.blobs import open_blobs
from edgehone.records.database import open_database
from edgehone.records.tables import dataset, feedback, release, rollout, sample, served
from edgehone.registry.create import load_anchor
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.registry.publish import publish
from edgehone.registry.store import Store
from edgehone.testing.bundles import write_bundle
from edgehone.testing.cores import PASSWORD, make_core
from edgehone.testing.databases import new_url
from edgehone.testing.seeded_cores import TASK, fill

pytestmark = pytest.mark.slow

QUICK = RolloutPlan(shadow_rows=0, stages=(1.0,), soak_s=1.0, patience_s=60.0)
FIRST = ("/", "/label", "/rounds", "/rollouts", "/datasets", "/data", "/audit", "/nodes", "/models", "/enrol")
CALLS = ("/v1/nodes", "/v1/nodes?limit=3", "/v1/tokens")
_LINK = re.compile(r'(?:href|src|hx-get)="(/[^"#]*)"')


def pages(core: CoreProcess) -> Mapping[str, tuple[int, str]]:
    """Every page that a person can reach by links, and every call that lists, without what is random or a clock's."""
    connection = http.client.HTTPConnection("127.0.0.1", core.port, timeout=60)
    found: dict[str, tuple[int, str]] = {}
    with closing(connection):
        who = json.dumps({"name": "ada", "password": PASSWORD})
        connection.request("POST", "/v1/sign-in", who, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        cookie = answer.headers["set-cookie"].partition(";")[0]
        todo = [*FIRST, *CALLS]
        while todo and len(found) < 120:
            path = todo.pop(0)
            if path in found or path.startswith(("/static", "/registry", "/v1/node/")) or "sign" in path:
                continue
            if "after=" in path or any(word in path for word in ("live", "events", "stream")):  # these have no end
                continue
            connection.request("GET", path, headers={"cookie": cookie})
            answer = connection.getresponse()
            content = answer.read().decode("utf-8", "replace")
            found[path] = answer.status, _still(content)
            if "html" in (answer.headers.get("content-type") or ""):
                todo += [link.replace("&amp;", "&") for link in _LINK.findall(content)]
    return found


def _still(content: str) -> str:
    """Without ages, times and what is random: the token of a form and the id of the event that it would make."""
    content = re.sub(r"<time.*?</time>|\d\d:\d\d:\d\d", "", content, flags=re.DOTALL)
    return re.sub(r'name="(csrf|event)" value="[^"]+"|csrf[-\w]*["\':=&;# a-z\d]+[-\w]{20,}', "", content)


def test_every_page_and_list_is_the_same_on_both(tmp_path: Path) -> None:
    now_s = time.time()
    seen: list[Mapping[str, tuple[int, str]]] = []
    for database in ("", new_url("postgresql", tmp_path)):
        folder = tmp_path / f"core-{len(seen)}"
        core = CoreProcess(make_core(folder, database=database), tmp_path / f"log-{len(seen)}")
        fill(core.place, now_s)
        core.start()
        try:
            seen.append(pages(core))
            assert "Traceback" not in core.log(), core.log()
        finally:
            core.close()
    ours, theirs = seen
    assert sum(status == 200 for status, _ in ours.values()) >= 25, {k: v[0] for k, v in ours.items()}
    assert not [path for path, (status, _) in ours.items() if status >= 500]
    assert ours.keys() == theirs.keys()
    different = {path: (ours[path], theirs[path]) for path in ours if ours[path] != theirs[path]}
    assert not different, "\n".join(f"{path}: {_first(*both)}" for path, both in different.items())


def _first(one: tuple[int, str], other: tuple[int, str]) -> str:
    at = next((k for k, (a, b) in enumerate(zip(one[1], other[1], strict=False)) if a != b), 0)
    return f"{one[0]} {one[1][max(0, at - 80) : at + 80]!r} | {other[0]} {other[1][max(0, at - 80) : at + 80]!r}"


def test_a_release_is_rolled_out_and_the_core_killed_on_the_way(tmp_path: Path) -> None:
    place = make_core(
        tmp_path / "core", database=new_url("postgresql", tmp_path), interval_s=10.0, tasks=(TASK,)
    )  # fmt: skip
    core = CoreProcess(place, tmp_path / "log").start()
    digests: dict[int, str] = {}
    puppets = [Puppet(core.node(tmp_path / f"node-{k}"), TASK, digests) for k in range(3)]
    database = open_database(place.database_url)
    try:
        ring, store = KeyRing([place.keys], Passphrases(["a passphrase for tests"])), Store(place.registry)
        for version in (1, 2):
            made = write_bundle(tmp_path / f"{version}.bundle", version=version, task=TASK)
            digests[version] = made.digest
            publish(store, ring, [made.path], [], datetime.now(UTC), anchor=load_anchor(ring))
            wait_until(lambda digest=made.digest: digest in core.column(release.c.digest), core.log)
            begun = rollouts.start(database, TASK, version, now_s=time.time(), actor="core", plan=QUICK)
            if version == 2:
                puppets[0].beat()
                core.end(signal.SIGKILL)
                core.start()
                for puppet in puppets:
                    puppet.node.close()

            def is_done(id: str = begun.id) -> bool:
                for puppet in puppets:
                    puppet.beat()
                time.sleep(0.9)  # a node may have a heartbeat in a second
                with database.read() as conn:
                    return rollouts.find_rollout(conn, id).state == "done"

            wait_until(is_done, core.log)
            wait_until(lambda v=version: is_done() and all(one.status.version == v for one in puppets), core.log)
        one = puppets[0].node
        assert one.json("POST", "/v1/node/feedback", {"events": [event("e1")]})[1]["taken"] == ["e1"]
        assert json.loads(one.call("POST", "/v1/node/samples", sample_line("s1"))[1])["taken"] == ["s1"]
        assert (core.column(feedback.c.id), core.column(sample.c.id)) == (["e1"], ["s1"])
        assert open_blobs(place.blobs_url).get(core.column(sample.c.blob)[0])
        history = core.rows(select(served.c.version).where(served.c.node == one.id).order_by(served.c.id))
        assert [row.version for row in history][-1] == 2 and "Traceback" not in core.log()
    finally:
        database.close()
        core.close()


def test_a_round_of_the_loop_from_labels_to_a_promoted_release(
    gas_family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = tmp_path / "core", new_url("postgresql", tmp_path)
    shutil.copytree(gas_family, folder)
    on_sqlite = loop_world.open_site

    def open_site(where: Path, *, create: bool = False) -> Any:
        made = on_sqlite(where, create=create)
        made.database.close()
        return replace(made, database=open_database(url))

    monkeypatch.setattr(loop_world, "open_site", open_site)
    world = loop_world.World(folder, policy={"corrections": 5, "least_gain_pp": 0.5})
    try:
        assert world.site.database.dialect == "postgresql"
        world.see(1.2)
        before = world.accuracy(1.2)
        drive(world)
        found = world.round()
        assert found.state == "done" and world.accuracy(1.2) > before, found.why
        with world.site.database.read() as conn:
            assert conn.execute(select(release.c.version).order_by(release.c.version)).scalars().all() == [1, 2]
            assert conn.execute(select(rollout.c.state)).scalars().all() == ["done"]
            assert conn.execute(select(dataset.c.digest)).scalars().all() == [found.dataset]
            assert world.site.blobs.get(found.dataset)
    finally:
        world.close()
