"""What a core says of a disk that takes nothing, and the room that uploads leave."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgehone.service.limits import Limits
from edgehone.service.trouble import AGAIN_S, Room, Trouble
from edgehone_agent.errors import InputError, StateError


def test_trouble_is_told_once_now_and_then_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    times_s = iter((1.0, 2.0, AGAIN_S, AGAIN_S + 1.0, AGAIN_S + 2.0, AGAIN_S + 3.0, AGAIN_S + 11.0))
    trouble = Trouble("the disk", clock=lambda: next(times_s))
    trouble.tell(None)
    for _ in range(5):
        trouble.tell(StateError("no room"))
    trouble.tell(None)
    trouble.tell(None)
    found = [(record.levelno, record.message.splitlines()[0]) for record in caplog.records]
    assert found == [
        (logging.ERROR, "the disk: no room"),
        (logging.ERROR, "the disk: no room"),
        (logging.WARNING, "the disk: it works again"),
    ]
    for _ in range(2):  # it breaks again at once, and still is a little later
        trouble.tell(StateError("no room"))
        trouble.tell(None)
    assert [record.levelno for record in caplog.records[3:]] == [logging.ERROR, logging.WARNING]
    with pytest.raises(InputError), trouble.watched():  # somebody's mistake says nothing about the disk
        raise InputError("no")
    assert len(caplog.records) == 5


def test_room_is_looked_at_on_every_disk(tmp_path: Path) -> None:
    Room([tmp_path], share=0.0, most_bytes=0).check()
    with pytest.raises(StateError, match="nearly full"):
        Room([tmp_path], share=1.0, most_bytes=1 << 60).check()
    with pytest.raises(StateError, match="No such file"):
        Room([tmp_path, tmp_path / "gone"], share=0.0, most_bytes=0).check()
    Room([], share=1.0, most_bytes=1 << 60).check()  # all of it is elsewhere


def test_uploads_leave_room_and_heartbeats_go_on(
    start: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    core = start(limits=Limits(free_share=1.0, free_bytes=1 << 60, node_rows_per_day=3))
    one = core.node(tmp_path)
    body = json.dumps({"events": [{"id": "e1", "prediction_id": "p1", "kind": "confirm"}]}).encode()
    for _ in range(5):  # more than its share of rows: what is not kept does not count
        status, said, headers = one.call("POST", "/v1/node/feedback", body)
        assert status == 503 and headers["retry-after"] == "5", said
        assert "nearly full" in json.loads(said)["error"]["what"]
    assert one.beat().nonce
    assert sum("nearly full" in record.message for record in caplog.records) == 1
