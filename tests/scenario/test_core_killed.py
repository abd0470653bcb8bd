"""A core that is killed again and again while nodes write to it: what it acknowledged is there, each of it once."""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from core_world import CoreProcess, Talker, wait_until

from edgehone.records.blobs import open_blobs
from edgehone.records.tables import audit, feedback, node, sample, served
from edgehone.testing.cores import make_core
from edgehone.testing.databases import DIALECTS, new_url

pytestmark = pytest.mark.slow

KILLS = 3
TALKERS = 3


@pytest.mark.parametrize("dialect", DIALECTS)
def test_kills_under_load_lose_nothing_that_was_acknowledged(dialect: str, tmp_path: Path) -> None:
    database = "" if dialect == "sqlite" else new_url(dialect, tmp_path)
    core = CoreProcess(make_core(tmp_path / "core", database=database, interval_s=1.0), tmp_path / "log").start()
    talkers = [Talker(core.node(tmp_path / f"talker-{k}"), f"t{k}") for k in range(TALKERS)]
    chance = random.Random(7)
    try:
        for talker in talkers:
            talker.start()
        for _ in range(KILLS):
            before = [len(talker.beats) for talker in talkers]  # the last word of a turn
            wait_until(lambda b=before: all(len(t.beats) > n + 1 for t, n in zip(talkers, b, strict=True)), core.log)
            time.sleep(chance.uniform(0.0, 0.2))
            assert core.end(signal.SIGKILL) == -signal.SIGKILL
            core.start()
    finally:
        for talker in talkers:
            talker.stop()
        core.end()
        core.close()
    events, samples, digests = (core.column(column) for column in (feedback.c.id, sample.c.id, served.c.digest))
    for found in (events, samples, digests):
        assert len(found) == len(set(found))
    for talker in talkers:
        assert len(talker.events) >= 4 * KILLS and len(talker.samples) >= 2 * KILLS and len(talker.beats) >= 2 * KILLS
        assert talker.events <= set(events) and talker.samples <= set(samples) and set(talker.beats) <= set(digests)
    blobs = open_blobs(core.place.blobs_url)
    assert all(blobs.get(digest) for digest in core.column(sample.c.blob))
    # An answer that a kill swallowed is no second node: the nonce before it is still good.
    assert not core.rows(audit.select().where(audit.c.action == "node.nonce"))
    said = sum(len(talker.beats) for talker in talkers)
    assert said <= sum(core.column(node.c.beats)) <= said + TALKERS * KILLS
    assert not [word for word in ("Traceback", "BEGIN", "EH1-") if word in core.log()]  # a token, a key
