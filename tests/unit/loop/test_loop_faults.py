"""What reports say about a broken sensor: by the rows since the report before, and since when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert

from edgehone.bundle.card import build_card
from edgehone.loop.faults import FAULT_ROWS, Report, Trouble, beyond_of, fault_of, trouble_of
from edgehone.loop.policy import LoopPolicy
from edgehone.loop.sight import NodeSight, look_at_nodes, with_trouble
from edgehone.records.database import Database
from edgehone.records.tables import evidence, node
from edgehone_agent.watch import Watcher
from edgehone_agent.wire.card import BINS


def channel(counts: dict[int, int], name: str = "input 2", log_e: float = 50.0) -> dict[str, Any]:
    return {"channel": name, "counts": [counts.get(index, 0) for index in range(BINS)], "log_e_all_rows": log_e}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (channel({5: 500}), "stands still"),
        (channel({0: 300, 4: 200}), "missing"),
        (channel({BINS - 1: 500}), ""),  # it has moved out of the range, as a darker picture does
        (channel({5: 400, 6: 100}), ""),
        (channel({5: 40}), ""),  # too few rows
        (channel({5: 500}, log_e=1.0), ""),  # that is what it was like in validation
        ({**channel({5: 500}, log_e=-9.0), "log_e": {"tolerant": 18.0}}, "stands still"),  # it is not, by now
        ({**channel({5: 500}, log_e=-9.0), "log_e": {"tolerant": 17.0}}, ""),  # 500 rows may give that by chance
        ({**channel({5: 500}, log_e=-9.0), "log_e": {"tolerant": "much"}}, ""),
        (channel({5: 500}, name="confidence"), ""),
        ({"channel": "input 1", "counts": "many"}, ""),
    ],
)
def test_sensor_faults(found: dict[str, Any], words: str) -> None:
    fault = fault_of([found])
    assert (words in fault) if words else fault == ""


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (channel({BINS - 1: 96, 5: 4}), "above"),
        (channel({1: 500}), "below"),
        (channel({BINS - 1: 90, 5: 10}), ""),
        (channel({BINS - 1: 60, 1: 40}), ""),  # wide, not off
        (channel({BINS - 1: 60}), ""),  # too few rows
        (channel({BINS - 1: 500}, log_e=1.0), ""),  # a constant that always was
        (channel({BINS - 1: 500}, name="distance"), ""),
    ],
)
def test_readings_far_out(found: dict[str, Any], words: str) -> None:
    told = beyond_of([found])
    assert (words in told) if words else told == ""


GOOD = dict.fromkeys(range(2, 12), 1000)


def reports(*counts: dict[int, int]) -> list[Report]:
    """Of counts since the start, the oldest first, every 600 s; the newest first."""
    return [Report(600.0 * number, {"channels": [channel(one)]}) for number, one in enumerate(counts)][::-1]


def hung(rows: int) -> dict[int, int]:
    """After 10,000 good rows so many in one bin."""
    return {**GOOD, 5: 1000 + rows}


@pytest.mark.parametrize(
    ("counts", "since_s", "count"),
    [
        ((GOOD, hung(100), hung(200)), 600.0, 2),
        ((GOOD, hung(100)), 600.0, 1),
        ((GOOD, hung(FAULT_ROWS - 1)), None, 0),  # too few to tell
        ((GOOD, hung(40), hung(80), hung(120)), 1200.0, 2),  # windows of two reports
        ((GOOD, {**hung(100), 6: 1100}, hung(200)), None, 0),  # it began anew; what is there looks good
        ((GOOD, {5: 100}, {5: 200}), 600.0, 2),  # it began anew and hangs since
        (({5: 100}, {5: 200}, {**GOOD, 5: 1000}), None, 0),  # it hung, and does no more
        ((hung(100), {5: 80}), 600.0, 1),
        ((), None, 0),
    ],
)
def test_what_lasts_is_counted_in_reports(
    counts: tuple[dict[int, int], ...], since_s: float | None, count: int
) -> None:
    found = trouble_of(reports(*counts), 0.0)
    assert (found.since_s, found.reports) == (since_s, count)
    assert ("stands still" in found.fault) == (since_s is not None)


def test_reports_are_read_as_far_as_is_needed() -> None:
    read = []

    def endless() -> Any:
        for number in range(1000):
            read.append(number)
            yield Report(-600.0 * number, {"channels": [channel(hung(100 * (1000 - number)))]})

    found = trouble_of(endless(), -3000.0)
    assert (found.reports, found.is_whole, len(read)) == (6, False, 8)
    longer = with_trouble(NodeSight("a", "gas", since_s=-90_000.0), found)
    assert (longer.trouble_s, longer.reports) == (-90_000.0, 6)
    assert with_trouble(NodeSight("a", "gas", since_s=-90_000.0), Trouble()).trouble_s is None


def test_a_sensor_that_hangs_late_is_seen_in_what_a_watch_reports(database: Database) -> None:
    """20,000 good rows, then 200 with one value that stands still: less than a hundredth of all that was seen."""
    rng = np.random.default_rng(0)

    def rows(n: int) -> tuple[Any, Any]:
        x = rng.normal(size=(n, 3)).astype(np.float32)
        return x, np.stack([x[:, 0], -x[:, 0]], 1)

    digest = "d" * 64
    card = build_card(*rows(2000), None, model_digest=digest, kind="classification")
    watcher, policy = Watcher(card, seed=1), LoopPolicy("gas", "gas", "family", ("int8",))
    with database.write() as conn:
        status = {"gas": {"digest": digest, "version": 1, "member": "int8", "ready": True}}
        conn.execute(
            insert(node).values(
                id="a", name="door", tags={}, state="active", why="", facts={}, enrolled_s=0.0, status=status, beats=0
            )
        )
    seen = []
    for number in range(5):
        x, y = rows(20_000 if number == 0 else 100)
        if number in (2, 3):
            x[:, 1] = 0.3
        watcher.observe(x, y)
        with database.write() as conn:
            conn.execute(
                insert(evidence).values(
                    node="a", task="gas", digest=digest, received_s=600.0 * number, watch_level=watcher.level,
                    risk_level=0, rows=0, content=watcher.evidence(),
                )
            )  # fmt: skip
        with database.read() as conn:
            (found,) = look_at_nodes(conn, policy)
        seen.append((found.fault[:7], found.trouble_s, found.reports))
    assert seen == [("", None, 0), ("", None, 0), ("input 1", 1200.0, 1), ("input 1", 1200.0, 2), ("", None, 0)]
