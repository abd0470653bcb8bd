"""The core is killed, the power goes, the disk is full: what was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from edgehone.records.backup import restore, verify
from edgehone.records.backup_manifest import MANIFEST
from edgehone.records.blobs import open_blobs
from edgehone.records.database import open_database, sqlite_url
from edgehone.records.tables import setting
from edgehone.testing.databases import need_postgres, new_url
from edgehone.testing.faults import count_calls, run_failing, run_killed
from edgehone.testing.postgres import start
from edgehone.testing.power import record
from edgehone.testing.rows import everything, fill
from edgehone_agent.errors import StateError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="Debian package `strace` is not installed"),
]

KILLS = 6  # of a backup and of a restore, on every day
WRITE = """
import sys
from sqlalchemy import insert
from edgehone.records.blobs import open_blobs
from edgehone.records.database import open_database
from edgehone.records.tables import setting
url, place, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
database, blobs = open_database(url), open_blobs(place)
for number in range(first, last):
    digest = blobs.put(b"reading %d" % number)
    with database.write() as connection:
        connection.execute(insert(setting), {"key": f"{number:06d}", "value": digest, "changed_s": 1.0})
    print(number, flush=True)
"""
PUT = """
import sys
from pathlib import Path
from edgehone.records.blobs import open_blobs
from edgehone_agent.durable import write_bytes
folder = Path(sys.argv[1])
blobs = open_blobs(str(folder / "blobs"))
for part in ([b"one"], [b"two", b"three", b"two"], [b"one"]):
    for digest in blobs.put_many(part):
        write_bytes(folder / "answered" / digest, b"")
"""
SAVE = """
import sys
from pathlib import Path
from edgehone.records.backup import backup
from edgehone.records.blobs import open_blobs
from edgehone.records.database import open_database
url, place, target = sys.argv[1:4]
backup(open_database(url), open_blobs(place), Path(target), now_s=1.0, files={"ca": Path(place).parent / "ca"})
"""
RESTORE = """
import sys
from pathlib import Path
from edgehone.records.backup import restore
from edgehone.records.blobs import open_blobs
from edgehone.records.database import sqlite_url
saved, core = map(Path, sys.argv[1:3])
restore(saved, sqlite_url(core / "core.sqlite"), open_blobs(str(core / "blobs")), files={"ca": core / "ca"})
"""


def check_what_was_answered(url: str, place: Path, answered: set[int]) -> None:
    blobs = open_blobs(str(place))
    with closing(open_database(url)) as database, database.read() as connection:
        rows = {int(row.key): row.value for row in connection.execute(select(setting))}
    assert answered <= set(rows) <= answered | {max(answered, default=-1) + 1}
    for number, digest in rows.items():
        assert blobs.get(digest) == b"reading %d" % number
    for left in place.rglob("*.part"):  # of a killed writer; one that writes now would have a young one
        os.utime(left, (0, 0))
    open_blobs(str(place))
    assert not list(place.rglob("*.part"))


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_kill_loses_nothing_that_was_answered(dialect: str, tmp_path: Path) -> None:
    url, place = new_url(dialect, tmp_path), tmp_path / "blobs"
    chance = random.Random(1)
    answered: set[int] = set()
    for _ in range(5):
        first = max(answered, default=-1) + 1
        with closing(open_database(url)) as database, database.read() as connection:
            first = max([first, *(int(key) + 1 for key in connection.scalars(select(setting.c.key)))])
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE, url, str(place), str(first), "1000000"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        answered.add(int(process.stdout.readline()))
        time.sleep(chance.uniform(0.0, 0.4))
        process.kill()
        answered.update(int(line) for line in process.stdout.read().splitlines())
        process.wait()
        process.stdout.close()
    with closing(open_database(url)) as database, database.read() as connection:
        stored = {int(key) for key in connection.scalars(select(setting.c.key))}
    assert len(answered) >= 5
    assert answered <= stored
    assert len(stored - answered) <= 5  # at most the one on its way at each kill
    check_what_was_answered(url, place, stored)


def test_a_crash_of_postgres_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    need_postgres()
    with start(durable=True) as server:
        url, place = server.new_database(), tmp_path / "blobs"
        open_database(url, create=True).close()
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE, url, str(place), "0", "1000000"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(0.3)
        server.stop(signal="QUIT")
        rest, said = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "StateError" in said
        server.start_again()
        check_what_was_answered(url, place, {int(line) for line in (first + rest).split()})


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_disk_that_takes_no_more_is_said_and_loses_nothing(error: str, tmp_path: Path) -> None:
    url, place = new_url("sqlite", tmp_path), tmp_path / "blobs"
    command = [sys.executable, "-c", WRITE, url, str(place), "0", "6"]
    done = run_failing(command, "pwrite64", error, 30)
    assert done.returncode == 1
    assert "StateError" in done.stderr
    assert "disk" in done.stderr.splitlines()[-2]
    answered = {int(line) for line in done.stdout.split()}
    assert answered
    check_what_was_answered(url, place, answered)


def test_a_power_cut_leaves_whole_blobs_and_all_that_were_answered(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    (folder / "answered").mkdir(parents=True)  # its name is certain: it was there before
    disk, operations = record([sys.executable, "-c", PUT, str(folder)], folder)
    seen = set()
    for number, (_, survival) in enumerate(disk.cuts(operations)):
        left = tmp_path / f"cut-{number}"
        disk.leave(left, survival)
        blobs = open_blobs(str(left / "blobs"))
        answered = {path.name for path in left.glob("answered/*") if not path.name.startswith(".")}
        there = set(blobs.digests())
        assert answered <= there
        assert {blobs.get(digest) for digest in there} <= {b"one", b"two", b"three"}
        seen.add((len(answered), len(there)))
        shutil.rmtree(left)
    assert {count for count, _ in seen} == {0, 1, 2, 3}
    assert (0, 1) in seen  # cuts between a name and its answer are among them


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """A core's folder with rows, blobs and a key."""
    folder = tmp_path / "core"
    (folder / "ca").mkdir(parents=True)
    (folder / "ca" / "ca.key").write_bytes(b"key")
    with closing(open_database(sqlite_url(folder / "core.sqlite"), create=True)) as database:
        fill(database, random.Random(5), rows=2, longest=1000)
    open_blobs(str(folder / "blobs")).put_many([b"one", b"two"])
    return folder


def rows_of(file: Path) -> object:
    with closing(open_database(sqlite_url(file))) as database:
        return everything(database)


def test_a_backup_that_is_killed_is_none_and_the_core_is_whole(
    core: Path, tmp_path: Path, kill_points: Callable[[int, int], list[int]]
) -> None:
    before = rows_of(core / "core.sqlite")
    target = tmp_path / "saved"
    command = [sys.executable, "-c", SAVE, sqlite_url(core / "core.sqlite"), str(core / "blobs"), str(target)]
    calls = count_calls(command, "fsync")
    verify(target)
    for number in kill_points(calls, KILLS):
        shutil.rmtree(target, ignore_errors=True)
        assert run_killed(command, "fsync", number)
        if (target / MANIFEST).exists():
            verify(target)
        else:
            with pytest.raises(StateError, match="no backup"):
                verify(target)
    assert rows_of(core / "core.sqlite") == before


def test_a_restore_that_is_killed_is_run_again(
    core: Path, tmp_path: Path, kill_points: Callable[[int, int], list[int]]
) -> None:
    before = rows_of(core / "core.sqlite")
    saved, new = tmp_path / "saved", tmp_path / "new"
    save = [sys.executable, "-c", SAVE, sqlite_url(core / "core.sqlite"), str(core / "blobs"), str(saved)]
    subprocess.run(save, check=True)
    command = [sys.executable, "-c", RESTORE, str(saved), str(new)]
    calls = count_calls(command, "fsync")
    for number in kill_points(calls, KILLS):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        assert run_killed(command, "fsync", number)
        if not (new / "core.sqlite").exists():  # it comes last: where it is, all is
            restore(saved, sqlite_url(new / "core.sqlite"), open_blobs(str(new / "blobs")), files={"ca": new / "ca"})
        assert rows_of(new / "core.sqlite") == before
        blobs = open_blobs(str(new / "blobs"))
        assert {blobs.get(digest) for digest in blobs.digests()} == {b"one", b"two"}
        assert (new / "ca" / "ca.key").read_bytes() == b"key"


def test_a_stopped_process_gives_the_write_back(tmp_path: Path) -> None:
    url = new_url("sqlite", tmp_path)
    hold = (
        "import sys, time\nfrom edgehone.records.database import open_database\n"
        "with open_database(sys.argv[1]).write():\n    print('in', flush=True)\n    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", hold, url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    with closing(open_database(url, wait_s=0.3)) as database:
        with pytest.raises(StateError, match="another process"), database.write():
            raise AssertionError
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with database.write():
            pass
