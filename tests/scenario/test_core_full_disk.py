"""The core's disk fills up: uploads stop first, then all that writes; it is said, nothing is lost, it goes on."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from core_world import SERVES, CoreProcess, Talker, event, run_core, sample_line, small_disk, wait_until

from edgehone.records.blobs import open_blobs
from edgehone.records.tables import feedback, sample, served
from edgehone.testing.cores import PASSWORD, CoreNode, make_core

pytestmark = pytest.mark.slow

LEAST_FREE = 0.05  # of the disk, that uploads leave


@contextmanager
def ballast(disk: Path, leave_bytes: int = 0) -> Iterator[None]:
    """Somebody else's file that leaves so much room on a disk; none when it may grow until nothing goes."""
    file = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY)
    try:
        if leave_bytes:
            os.posix_fallocate(descriptor, 0, max(1, free - leave_bytes))
        else:
            with pytest.raises(OSError, match="No space left"):
                while True:
                    os.write(descriptor, b"x" * 4096)
        yield
    finally:
        os.close(descriptor)
        file.unlink()


def refused(node: CoreNode, path: str, body: bytes) -> str:
    """What the core says with its refusal, which names a time."""
    status, content, headers = node.call("POST", f"/v1/node/{path}", body)
    assert (status, headers["retry-after"]) == (503, "5"), content
    told = json.loads(content)["error"]
    assert told["code"] == "EH330" and "free space" in told["do"]
    return str(told["what"])


def uploads(node: CoreNode, id: str) -> list[tuple[str, bytes]]:
    """One call of each kind."""
    evidence = {"task": "digits", "digest": "a" * 64, "content": {"level": 1}}
    return [
        ("feedback", json.dumps({"events": [event(f"e-{id}")]}).encode()),
        ("samples", sample_line(f"s-{id}", values=2000)),
        ("evidence", json.dumps(evidence).encode()),
    ]


def test_uploads_fill_the_disk_up_to_what_heartbeats_and_people_need(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        core = CoreProcess(make_core(disk / "core", interval_s=1.0), tmp_path / "log").start()
        try:
            node = core.node(tmp_path / "node")
            talker = Talker(core.node(tmp_path / "talker"), "t", values=200_000)
            with ballast(disk, leave_bytes=8 << 20):
                for _ in range(30):  # 0.8 MB a reading: soon there is no room for another
                    talker.turn(beats=False)
                    if 503 in talker.refusals:
                        break
                assert set(talker.refusals) == {503} and set(talker.waits) == {5.0} and talker.samples
                disk_now = os.statvfs(disk)
                least_bytes = LEAST_FREE * disk_now.f_blocks * disk_now.f_frsize
                assert disk_now.f_bavail * disk_now.f_frsize > least_bytes - (2 << 20)  # one upload and its row
                assert "nearly full" in refused(node, "samples", sample_line("more", values=400_000))
                for _ in range(5):
                    assert node.beat({"digits": SERVES}).nonce  # these go on
                assert core.ask("POST", "/v1/sign-in", {"name": "ada", "password": PASSWORD})[0] == 200
            assert node.call("POST", "/v1/node/samples", sample_line("more", values=400_000))[0] == 200
            assert core.log().count("nearly full") == 1 and "uploads: it works again" in core.log()
        finally:
            core.close()
        assert talker.samples < set(core.column(sample.c.id)) and talker.events <= set(core.column(feedback.c.id))
        assert not list(disk.rglob("*.part"))


def test_a_disk_without_any_room_is_said_and_survived_through_kills(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        core = CoreProcess(make_core(disk / "core", interval_s=1.0), tmp_path / "log").start()
        talkers = [Talker(core.node(tmp_path / f"talker-{k}"), f"t{k}", values=1000) for k in range(3)]
        node = core.node(tmp_path / "node")
        try:
            for talker in talkers:
                talker.start()
            wait_until(lambda: all(talker.said > 20 for talker in talkers), core.log)
            with ballast(disk):  # while they talk
                wait_until(lambda: all(503 in talker.refusals for talker in talkers), core.log)
                for path, body in uploads(node, "full"):
                    refused(node, path, body)
                assert "disk is full" in refused(node, "heartbeat", json.dumps({"sent_s": 1, "agent": "x"}).encode())
                assert core.ask("GET", "/healthz")[0] == 200
                assert core.ask("POST", "/v1/sign-in", {"name": "ada", "password": PASSWORD})[0] == 503
                assert "the database: sqlite:" in core.log() and "the disk is full" in core.log()
                core.end(signal.SIGKILL)
                assert run_core("status", core.place.folder)["running"] is False  # it can be looked at as it is
                core.start()
                node.close()
                assert core.ask("GET", "/healthz")[0] == 200
                refused(node, *uploads(node, "again")[0])
            wait_until(lambda: node.beat({"digits": SERVES}), core.log)
            for path, body in uploads(node, "late"):
                wait_until(lambda p=path, b=body: node.call("POST", f"/v1/node/{p}", b)[0] in (200, 204), core.log)
            before = [talker.said for talker in talkers]
            wait_until(lambda: all(t.said > said + 3 for t, said in zip(talkers, before, strict=True)), core.log)
        finally:
            for talker in talkers:
                talker.stop()
            core.close()
        events, samples, digests = (core.column(column) for column in (feedback.c.id, sample.c.id, served.c.digest))
        for talker in talkers:
            assert talker.events <= set(events) and talker.samples <= set(samples) and set(talker.beats) <= set(digests)
            assert set(talker.refusals) <= {429, 503} and 0 not in talker.waits
        assert len(events) == len(set(events)) and len(samples) == len(set(samples)) and {"e-late"} < set(events)
        blobs = open_blobs(core.place.blobs_url)
        for digest in core.column(sample.c.blob):
            assert blobs.get(digest)
        assert "Traceback" not in core.log()
        errors = core.log().count("ERROR")
        assert errors <= 20, f"{errors} lines about one disk fill it up further"
