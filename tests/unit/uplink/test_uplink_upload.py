"""What goes up counts once: cut in the middle, refused in part, told to wait, taken by hand beside it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from edgehone.fleet.uploads import check_reading
from edgehone_agent.capture import Capture
from edgehone_agent.errors import BusyError, InputError, RegistryError
from edgehone_agent.uplink.client import CoreClient
from edgehone_agent.uplink.upload import Uploads
from edgehone_agent.wire.uplink import SampleLine, Taken, read, write


class Core:
    """Takes what comes, each id once, as the core does; fails when it is told to."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.calls = 0
        self.lose_answers: set[int] = set()
        self.refuse: set[str] = set()
        self.busy = False

    def post(self, name: str, body: bytes, content_type: str = "") -> bytes:
        assert content_type == ("application/x-ndjson" if name == "samples" else "application/json")
        if name == "samples":
            lines = [read(SampleLine, line) for line in body.splitlines()]
            found = {line.id: check_reading(line) for line in lines}
        else:
            found = {event["id"]: event for event in json.loads(body)["events"]}
        if self.busy:
            error = BusyError("enough for today")
            error.retry_after_s = 30
            raise error
        if self.refuse & found.keys():
            raise InputError("not like this")
        self.calls += 1
        known = tuple(name for name in found if name in self.rows)
        self.rows = {**found, **self.rows}
        if self.calls in self.lose_answers:
            raise RegistryError("the core cannot be reached")
        return write(Taken(tuple(name for name in found if name not in known), known))


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[Capture]:
    with Capture(tmp_path / "capture", key=b"k" * 32, max_bytes=10**8, max_age_s=1e6) as capture:
        yield capture


def uploads_of(core: Core, capture: Capture, now: list[float] | None = None) -> Uploads:
    clock = now or [0.0]
    return Uploads(cast(CoreClient, core), capture, monotonic=lambda: clock[0])


def say(capture: Capture, rows: int, start: int = 0) -> set[str]:
    names = {f"e{n}" for n in range(start, start + rows)}
    for name in sorted(names):
        capture.feedback({"id": name, "prediction_id": f"p{name}", "kind": "confirm", "note": "x" * 2000})
    return names


def see(capture: Capture, rows: int, size: int = 2000) -> set[str]:
    for n in range(rows):
        x = np.full(size, n, np.float32)
        answer = np.array([n, np.nan if n == 3 else 1], np.float32)
        assert capture.offer(f"p{n}", "digits", "ab" * 32, x, answer, float(n), str(n % 3))
    capture.flush()
    return {f"p{n}" for n in range(rows)}


def test_feedback_whose_answers_are_lost_goes_up_piece_by_piece_and_once(capture: Capture) -> None:
    core = Core()
    names = say(capture, 400)
    core.lose_answers = {2}
    uploads = uploads_of(core, capture)
    with pytest.raises(RegistryError):
        uploads.send_feedback()
    calls = core.calls
    assert capture.stats()["feedback"] == 400 and calls == 2  # nothing is let go before all of it is there
    assert uploads.send_feedback() == 400
    assert set(core.rows) == names and uploads.counts.known > 0
    assert core.calls - calls == 3  # the first piece of the four was not sent again
    assert uploads.send_feedback() == 0
    more = say(capture, 3, 400)
    core.lose_answers = {core.calls + 1}
    with pytest.raises(RegistryError):
        uploads.send_feedback()
    again = uploads_of(core, capture)  # as after a kill
    assert again.send_feedback() == 3 and again.counts.known == 3 and set(core.rows) == names | more


def test_samples_arrive_whole_and_leave_the_node(capture: Capture) -> None:
    core = Core()
    names = see(capture, 40)
    uploads = uploads_of(core, capture)
    assert uploads.send_samples(10) == 40  # a batch is not split
    assert set(core.rows) == names and capture.stats()["samples"] == 0
    line = core.rows["p7"].line
    x = np.load(io.BytesIO(base64.b64decode(line.x)))
    np.testing.assert_array_equal(x, np.full(2000, 7, np.float32))
    assert line.answer == (7.0, 1.0) and line.share == "uniform" and 0 < line.propensity <= 1
    assert core.rows["p3"].line.answer == ()  # it was not finite
    assert uploads.send_samples(10) == 0


def test_what_the_core_never_takes_does_not_block_the_rest(capture: Capture) -> None:
    core = Core()
    names = see(capture, 10)
    core.refuse = {"p4"}
    uploads = uploads_of(core, capture)
    assert uploads.send_samples(10) == 10
    assert set(core.rows) == names - {"p4"} and uploads.counts.refused == 1


def test_nothing_is_sent_until_the_core_wants_it_again(capture: Capture) -> None:
    core, now = Core(), [0.0]
    names = say(capture, 5)
    core.busy = True
    uploads = uploads_of(core, capture, now)
    with pytest.raises(BusyError):
        uploads.send_feedback()
    core.busy = False
    now[0] = 29.0
    assert uploads.send_feedback() == 0 and not uploads.send_evidence("digits", "ab" * 32, {})
    now[0] = 30.5
    assert uploads.send_feedback() == 5 and set(core.rows) == names


def test_what_went_up_is_not_exported_by_hand_as_well(capture: Capture, tmp_path: Path) -> None:
    core = Core()
    say(capture, 4)
    uploads_of(core, capture).send_feedback()
    say(capture, 2, 4)
    assert capture.export(tmp_path / "out")["feedback"] == 2
    assert uploads_of(core, capture).send_feedback() == 0 and len(core.rows) == 4
