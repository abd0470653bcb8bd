"""Group commit, token buckets, remembered wishes, settings and drivers, each by itself."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from edgehone.errors import InputError
from edgehone.fleet import serial
from edgehone.fleet.heartbeat import Asking, Wish
from edgehone.fleet.nodes import Standing, standing
from edgehone.records.database import Database, open_database
from edgehone.records.tables import node, setting
from edgehone.service import core as core_module
from edgehone.service import jobs
from edgehone.service.core import Core
from edgehone.service.rates import Buckets
from edgehone.service.serving import serve
from edgehone.service.settings import Place, Settings, load_place, read_settings, write_settings
from edgehone.service.wishes import Remembered
from edgehone.service.writing import Writer
from edgehone.testing.cores import make_core
from edgehone_agent.errors import BusyError, ConfigError, EdgehoneError, HostError, StateError
from edgehone_agent.wire.uplink import TaskStatus


def put(key: str) -> Callable[[Any], str]:
    """A job that writes one row."""

    def job(conn: Any) -> str:
        conn.execute(insert(setting).values(key=key, value={}, changed_s=0.0))
        return key

    return job


def keys(database: Database) -> set[str]:
    with database.read() as conn:
        return set(conn.execute(select(setting.c.key)).scalars())


def test_many_writes_share_a_commit_and_one_bad_job_spoils_itself_only(database: Database) -> None:
    writer = Writer(database, linger_s=0.05)

    def refuse(conn: Any) -> None:
        put("half done")(conn)
        raise InputError("no")

    def defect(conn: Any) -> None:
        raise KeyError("a defect")

    async def main() -> list[Any]:
        jobs: list[Any] = [put(f"k{k}") for k in range(50)]
        jobs[20:20] = [refuse, put("k3"), defect]  # k3 comes twice: the rows contradict each other
        return list(await asyncio.gather(*map(writer.run, jobs), return_exceptions=True))

    results = asyncio.run(main())
    writer.close()
    errors = [result for result in results if isinstance(result, BaseException)]
    assert len(errors) == 3
    assert all(isinstance(error, EdgehoneError) for error in errors)
    assert keys(database) == {f"k{k}" for k in range(50)}
    assert writer.commits < 6


def test_a_batch_is_handed_over_whole_and_item_by_item_when_one_spoils_it(database: Database) -> None:
    writer = Writer(database, linger_s=0.05)
    seen: list[list[str]] = []

    def batch(conn: Any, items: Any) -> list[str]:
        seen.append(list(items))
        for item in items:
            put(item)(conn)
        return list(items)

    async def main() -> list[Any]:
        return list(await asyncio.gather(*(writer.batch(batch, k) for k in "abca"), return_exceptions=True))

    results = asyncio.run(main())
    writer.close()
    assert seen[0] == list("abca")
    assert results[:3] == list("abc")
    assert isinstance(results[3], InputError)
    assert keys(database) == set("abc")


def test_a_batch_that_answers_nonsense_leaves_nobody_waiting(database: Database) -> None:
    writer = Writer(database)

    async def work() -> str:
        with pytest.raises(HostError, match="defect"):
            await writer.batch(lambda conn, items: [], "x")
        return await writer.run(put("after"))

    try:
        assert asyncio.run(work()) == "after"
    finally:
        writer.close()
    assert keys(database) == {"after"}


def test_what_was_read_first_does_not_replace_what_was_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_race(make_core(tmp_path), monkeypatch))


async def _race(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    core = await Core.open(place)
    read, go = threading.Event(), threading.Event()

    def slow(conn: Any, now_s: float) -> Standing:
        found = standing(conn, now_s)
        if not read.is_set():
            read.set()
            go.wait(20)
        return found

    monkeypatch.setattr(core_module, "standing", slow)
    row = {"tags": {}, "state": "revoked", "why": "", "facts": {}, "enrolled_s": 0.0, "status": {}, "beats": 0}
    job = asyncio.create_task(asyncio.to_thread(core.refresh_standing))  # as the jobs do all the time
    await asyncio.to_thread(read.wait, 20)
    await core.writer.run(lambda conn: conn.execute(insert(node).values(id="ab" * 8, name="one", **row)))
    request = asyncio.create_task(asyncio.to_thread(core.refresh_standing))
    await asyncio.wait([request], timeout=0.05)
    go.set()
    await asyncio.gather(job, request)
    assert core.standing.refuses("ab" * 8, "1")
    await core.close()


def test_too_much_work_is_refused_and_what_waits_is_written(database: Database) -> None:
    writer = Writer(database, depth=5, linger_s=0.2)

    async def main() -> list[Any]:
        return list(await asyncio.gather(*(writer.run(put(f"k{k}")) for k in range(20)), return_exceptions=True))

    results = asyncio.run(main())
    writer.close()
    assert sum(isinstance(result, BusyError) for result in results) >= 10
    assert keys(database) == {result for result in results if isinstance(result, str)}
    with pytest.raises(BusyError):
        writer.run_now(put("late"))


def test_a_database_that_takes_nothing_fails_everybody_and_recovers(database: Database, database_url: str) -> None:
    writer = Writer(database, linger_s=0.01)
    writer.run_now(put("before"))
    blocker = open_database(database_url)
    hold, held = threading.Event(), threading.Event()

    def block() -> None:
        with blocker.write():
            held.set()
            hold.wait(20)

    thread = threading.Thread(target=block)
    thread.start()
    held.wait(10)
    slow = threading.Thread(target=lambda: writer.run_now(put("after")))
    slow.start()
    time.sleep(0.2)
    assert keys(database) == {"before"}
    hold.set()
    slow.join(20)
    thread.join()
    assert keys(database) == {"before", "after"}
    writer.close()
    blocker.close()


def test_buckets_fill_at_their_rate_and_forget_the_full() -> None:
    buckets = Buckets(per_s=2.0, burst=4.0, most=10)
    assert [buckets.take("a", 0.0) for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert buckets.take("b", 0.0) == 0
    assert buckets.take("a", 0.5) == 0
    assert buckets.take("a", 0.5) > 0
    buckets.give("a")
    assert buckets.take("a", 0.5) == 0
    assert buckets.take("a", -5.0) > 0  # a clock that was set back gives nothing
    assert buckets.take("c", 0.0, units=100) > 0
    for k in range(100):
        buckets.take(f"other {k}", 100.0)
    assert len(buckets._levels) <= 10


def test_a_wish_is_worked_out_again_when_something_it_depends_on_changed(database: Database) -> None:
    worked_out = []

    def work_out(conn: Any, asking: Asking) -> Wish:
        worked_out.append(asking)
        return Wish()

    remembered = Remembered(work_out)
    first = Asking("n", "active", {"site": "a"}, {"machine": "arm"}, {"digits": TaskStatus(predictions=1)}, 0.0)
    counted = replace(first, tasks={"digits": TaskStatus(predictions=9)}, now_s=60.0)
    with database.write() as conn:
        for asking, times in (
            (first, 1), (counted, 1), (replace(first, tags={}), 2), (replace(first, state="quarantined"), 3),
            (replace(first, tasks={"digits": TaskStatus(latency_us=5.0)}), 4), (replace(first, facts={}), 5),
            (replace(first, facts={}, now_s=1e6), 6),
        ):  # fmt: skip
            remembered.refresh(conn)
            remembered(conn, asking)
            assert len(worked_out) == times
        serial.bump(conn, 0.0)
        remembered.refresh(conn)
        remembered(conn, replace(first, facts={}, now_s=1e6))
    assert len(worked_out) == 7


def test_a_wish_that_ends_at_a_time_is_worked_out_again_then(database: Database) -> None:
    times = []

    def work_out(conn: Any, asking: Asking) -> Wish:
        times.append(asking.now_s)
        return Wish(until_s=100.0 if asking.now_s < 100.0 else math.inf)

    remembered = Remembered(work_out)
    with database.read() as conn:
        for now_s in (0.0, 99.0, 100.0, 160.0, -5000.0, 0.0):
            remembered(conn, Asking("n", "active", {}, {}, {}, now_s))
    assert times == [0.0, 100.0, -5000.0, 0.0]


def test_settings_out_and_in_again(tmp_path: Path) -> None:
    settings = Settings(("0.0.0.0:1",), ('a"b\\',), "postgresql://x", "s3://y", 5.0, 0.5)
    write_settings(Place(tmp_path, settings))
    assert load_place(tmp_path).settings == settings
    write_settings(Place(tmp_path))
    assert load_place(tmp_path).settings == Settings()
    assert all(not line or line.startswith("#") for line in (tmp_path / "core.toml").read_text().splitlines())


@pytest.mark.parametrize(
    "data", [{"listn": []}, {"listen": []}, {"listen": "x"}, {"interval_s": 0}, {"node_days": True}]
)
def test_settings_that_are_wrong_are_named(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(data, "core.toml")
    assert next(iter(data)) in caught.value.what


@pytest.mark.parametrize("text", [b"listen = [", b"\xff", b"x = 1"])
def test_files_that_are_no_settings(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "core.toml").write_bytes(text)
    with pytest.raises(ConfigError):
        load_place(tmp_path)
    with pytest.raises(StateError):
        load_place(tmp_path / "nothing")


def test_a_driver_ticks_beside_the_core_and_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "DRIVE_S", 0.05)
    said: list[str] = []

    class Driver:
        def tick(self, now_s: float) -> None:
            said.append("tick")
            raise StateError("no disk")  # is logged, and tried again

        def close(self) -> None:
            said.append("close")

    async def main() -> None:
        stop = asyncio.Event()

        async def end() -> None:
            while said.count("tick") < 2:
                await asyncio.sleep(0.05)
            stop.set()

        ending = asyncio.create_task(end())
        place = make_core(tmp_path / "core")
        await serve(place, listen=["127.0.0.1:0"], stop=stop, dashboard=False, drivers=[lambda core: Driver()])
        await ending

    asyncio.run(main())
    assert said[-1] == "close"
