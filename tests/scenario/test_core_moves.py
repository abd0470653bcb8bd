"""A whole core moves from SQLite to PostgreSQL and back; backups that are cut off; every record arrives."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from core_world import COMMAND, SERVES, CoreProcess, Talker, event, moved, run_core, sample_line, small_disk, wait_until

from edgehone.records.blobs import open_blobs
from edgehone.records.database import open_database
from edgehone.records.tables import audit, evidence, feedback, node, sample
from edgehone.service.settings import load_place
from edgehone.testing.cores import CoreNode, make_core
from edgehone.testing.databases import DIALECTS, new_url
from edgehone.testing.faults import count_calls, run_killed
from edgehone.testing.rows import everything
from edgehone.testing.seeded_cores import TASK, fill
from edgehone_agent.errors import StateError

pytestmark = pytest.mark.slow


def rows_of(url: str) -> Mapping[str, list[tuple[Any, ...]]]:
    """Every value of every row of every table."""
    with closing(open_database(url)) as database:
        return everything(database)


def check_blobs(core: CoreProcess) -> int:
    """Read every blob that a sample needs, its digest compared; how many there are."""
    blobs = open_blobs(core.place.blobs_url)
    found = core.column(sample.c.blob)
    assert all(blobs.get(digest) for digest in found)
    return len(found)


def go_on(core: CoreProcess, known: CoreNode, talker: Talker, name: str) -> None:
    """Nodes of before speak to the core that is here now: they are known, and what they said is."""
    for one in (known, talker.node):
        one.close()
        one.port = core.port
    assert known.beat({TASK: SERVES}).nonce
    told = known.json("POST", "/v1/node/feedback", {"events": [event("before"), event(name)]})[1]
    assert told == {"taken": [name], "known": ["before"]}
    told = json.loads(known.call("POST", "/v1/node/samples", sample_line("before") + b"\n" + sample_line(name))[1])
    assert told == {"taken": [name], "known": ["before"]}
    last = max(core.column(evidence.c.id))
    content = {"task": TASK, "digest": "a" * 64, "content": {"level": 2}}
    assert known.json("POST", "/v1/node/evidence", content)[0] == 204
    assert max(core.column(evidence.c.id)) > last, "an id that was given once is not given again"
    talker.turn()
    assert not core.rows(audit.select().where(audit.c.action == "node.nonce"))


def test_a_core_moves_to_postgresql_and_back_and_its_nodes_with_it(tmp_path: Path) -> None:
    first = CoreProcess(make_core(tmp_path / "first", interval_s=1.0), tmp_path / "log")
    fill(first.place, time.time())
    first.start()
    cores = [first]
    known, talker = first.node(tmp_path / "node", name="gate"), Talker(first.node(tmp_path / "talker"), "t")
    try:
        assert known.beat({TASK: SERVES}).nonce
        known.json("POST", "/v1/node/feedback", {"events": [event("before")]})
        known.call("POST", "/v1/node/samples", sample_line("before"))
        for _ in range(3):
            talker.turn()
        for step, dialect in enumerate(("postgresql", "sqlite")):
            old = cores[-1]
            assert old.end() == 0  # what a node says from here on waits on the node
            before, blobs = rows_of(old.place.database_url), check_blobs(old)
            saved, folder = tmp_path / f"saved{step}", tmp_path / f"core{step}"
            told = run_core("backup", old.place.folder, saved)
            assert told["rows"] == sum(map(len, before.values())) and told["lost"] == []
            url = new_url(dialect, tmp_path, empty=True)
            run_core("restore", saved, folder, "--database", url)
            assert rows_of(url) == before == rows_of(old.place.database_url)
            assert load_place(folder).database_url == url
            new = moved(folder, tmp_path / f"log{step}")
            cores.append(new)
            new.start()
            assert check_blobs(new) == blobs
            go_on(new, known, talker, f"after-{step}")
        last = cores[-1]
        assert {row.name for row in last.rows(node.select())} >= {"gate", "north-1", "harbour-1"}
        assert talker.events <= set(last.column(feedback.c.id)) and talker.samples <= set(last.column(sample.c.id))
        assert all("Traceback" not in core.log() for core in cores)
    finally:
        for core in cores:
            core.close()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_backup_under_load_holds_all_that_was_said_before_it(dialect: str, tmp_path: Path) -> None:
    database = "" if dialect == "sqlite" else new_url(dialect, tmp_path)
    core = CoreProcess(make_core(tmp_path / "core", database=database, interval_s=1.0), tmp_path / "log").start()
    talkers = [Talker(core.node(tmp_path / f"talker-{k}"), f"t{k}") for k in range(2)]
    back: CoreProcess | None = None
    try:
        for talker in talkers:
            talker.start()
        wait_until(lambda: all(talker.beats for talker in talkers), core.log)
        before = [(set(talker.events), set(talker.samples)) for talker in talkers]
        told = run_core("backup", core.place.folder, tmp_path / "saved")
        for talker in talkers:
            talker.stop()
        assert told["lost"] == []
        core.end()
        run_core(
            "restore", tmp_path / "saved", tmp_path / "back", "--database", new_url("sqlite", tmp_path, empty=True)
        )
        back = moved(tmp_path / "back", tmp_path / "log-back").start()
        check_blobs(back)
        for talker, (events, samples) in zip(talkers, before, strict=True):
            assert events <= set(back.column(feedback.c.id)) and samples <= set(back.column(sample.c.id))
            talker.node.close()
            talker.node.port = back.port
            talker.turn()
        assert not {429} & set(talkers[0].refusals) or talkers[0].waits
    finally:
        core.close()
        if back is not None:
            back.close()


@pytest.mark.skipif(shutil.which("strace") is None, reason="Debian package `strace` is not installed")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_restore_that_is_killed_is_no_core_and_is_run_again(dialect: str, tmp_path: Path) -> None:
    place = make_core(tmp_path / "core")
    fill(place, time.time(), nodes=6, samples=8)
    before = rows_of(place.database_url)
    run_core("backup", place.folder, tmp_path / "saved")
    chance = random.Random(dialect)
    url = new_url(dialect, tmp_path, empty=True)

    def command(folder: Path) -> list[str]:
        return [*COMMAND, "restore", str(tmp_path / "saved"), str(folder), "--database", url]

    # A file is linked to its name when all else is there; in PostgreSQL most packets are those of the copy.
    call = "rename" if dialect == "sqlite" else "sendto"
    (tmp_path / "scratch").mkdir()
    scratch = new_url(dialect, tmp_path / "scratch", empty=True)
    calls = count_calls([*command(tmp_path / "whole")[:-1], scratch], call)
    assert calls > 5
    last = ("link,linkat", 1) if dialect == "sqlite" else (call, round(chance.uniform(0.6, 0.85) * calls))
    for at, (cut, number) in enumerate(((call, chance.randrange(1, 5)), last)):
        folder = tmp_path / f"cut-{at}"
        assert run_killed(command(folder), cut, number)
        with pytest.raises(StateError, match="no core"):
            load_place(folder)
        again = tmp_path / f"again-{at}"
        done = subprocess.run(command(again), capture_output=True, text=True, timeout=120)
        if done.returncode:  # its database was there already: it comes last, so nothing is missing in the folder
            assert rows_of(url) == before and "database" in done.stderr
        else:
            assert rows_of(load_place(again).database_url) == before
            assert not run_core("status", again)["running"]
        url = new_url(dialect, tmp_path, empty=True)
    assert rows_of(place.database_url) == before


def test_a_backup_to_a_full_disk_is_none_and_the_core_goes_on(tmp_path: Path) -> None:
    core = CoreProcess(make_core(tmp_path / "core", interval_s=1.0), tmp_path / "log")
    fill(core.place, time.time(), nodes=6, samples=8)
    core.start()
    try:
        known = core.node(tmp_path / "node")
        with small_disk(tmp_path / "disk", "200k") as disk:
            told = run_core("backup", core.place.folder, disk / "saved", code=6)["error"]
            assert told["code"] == "EH330" and ("No space" in told["what"] or "full" in told["what"]), told
            refused = run_core("restore", disk / "saved", tmp_path / "back", code=6)["error"]
            assert refused["do"], refused
        assert not (tmp_path / "back" / "core.toml").exists()
        assert known.beat({TASK: SERVES}).nonce
        core.close()  # a core that runs takes its rollout on between two looks
        before = rows_of(core.place.database_url)
        run_core("backup", core.place.folder, tmp_path / "saved")  # there is room here
        run_core("restore", tmp_path / "saved", tmp_path / "whole")
        assert rows_of(load_place(tmp_path / "whole").database_url) == before
    finally:
        core.close()
