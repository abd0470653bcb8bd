"""Feedback that comes twice, in any order, years late, cut off by a kill of the core, or malformed: it counts once."""

from __future__ import annotations

import base64
import io
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parent))
from loop_world import LABELS, draw
from proof_world import QuickSite

from edgehone.loop.dataset import compose
from edgehone.loop.policy import LoopPolicy
from edgehone.loop.said import read_said
from edgehone.loop.trust import settle
from edgehone.records.tables import feedback, sample
from edgehone.testing.cores import CoreNode, new_token
from edgehone.testing.http_fleets import second_link
from edgehone.testing.sites import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TASK, NODES, SAMPLES, COPIES, LINKS = "gas", 4, 40, 3, 2
YEAR_S = 365 * 86_400.0
Event = dict[str, Any]


@pytest.fixture
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="eh-"))
    with QuickSite(folder) as site:
        site.make_core((), interval_s=1.0)
        yield site
    shutil.rmtree(folder, ignore_errors=True)


def enrolled(site: Site, number: int) -> CoreNode:
    node = CoreNode(site.port, site.folder / f"node-{number}", site.place.authority / "ca.pem")
    node.enrol(new_token(site.place))
    return node


def lines(number: int) -> list[bytes]:
    """The captured readings of a node."""
    x, _ = draw(SAMPLES, number, 0.0)
    found = []
    for row, reading in enumerate(x):
        file = io.BytesIO()
        np.save(file, reading)
        body = {
            "id": f"p{row}", "task": TASK, "digest": "a" * 64, "time_s": 5.0, "share": "uniform", "propensity": 0.5,
            "informativeness": 0.1, "stratum": "air", "answer": [0.9, 0.05, 0.05],
            "x": base64.b64encode(file.getvalue()).decode(),
        }  # fmt: skip
        found.append(json.dumps(body).encode())
    return found


def words(now_s: float) -> list[Event]:
    """Two words about each sample: what was said last counts, however late the other one comes."""
    found = []
    for row in range(SAMPLES):
        said_s = now_s - (5 * YEAR_S if row % 2 else 60.0)  # half of it lay on a node for five years
        for name, label, time_s in (("first", LABELS[2], said_s), ("last", LABELS[1], said_s + 10.0)):
            found.append({
                "id": f"{name}-{row}", "prediction_id": f"p{row}", "kind": "correct", "label": label, "time": time_s,
                "share": "uniform",
            })  # fmt: skip
    return found


GOOD = {"id": "mixed", "prediction_id": "p0", "kind": "correct", "label": "air"}
MALFORMED: tuple[bytes, ...] = (
    b"", b"{", b"[]", b"null", b'{"events":{}}', b'{"events":[null]}', b'{"events":[[]]}', b"\xff\xfe",
    b'{"events":[{"id":"x","prediction_id":"p0","kind":"correct","label":"air","trust":NaN}]}',
    b'{"events":[' + b"[" * 2000 + b"]" * 2000 + b"]}",
    *(
        json.dumps({"events": [GOOD, {**GOOD, **wrong}]}).encode()
        for wrong in (
            {"id": ""}, {"id": "a\0b"}, {"id": 3}, {"id": "x" * 300}, {"prediction_id": None}, {"kind": "maybe"},
            {"label": None}, {"label": ["air"]}, {"trust": 2.0}, {"trust": True}, {"time": "now"}, {"time": 1e400},
            {"share": "whole"}, {"annotator": ""}, {"value": "seven"},
        )
    ),
    json.dumps({"events": [GOOD | {"id": f"m{number}"} for number in range(1001)]}).encode(),
)  # fmt: skip


class Sender(threading.Thread):
    """Sends batches over one connection until each is answered, as a node does, whatever happens to the core."""

    def __init__(self, link: CoreNode, batches: Sequence[tuple[str, bytes]]) -> None:
        super().__init__()
        self.link, self.batches = link, batches
        self.taken: Counter[str] = Counter()
        self.lost = 0
        self.wrong: list[Any] = []

    def run(self) -> None:
        for name, body in self.batches:
            for _ in range(600):
                try:
                    status, content, headers = self.link.call("POST", f"/v1/node/{name}", body)
                except OSError:  # the core is away; what it took then is not known
                    self.lost += 1
                    self.link.close()
                    time.sleep(0.1)
                    continue
                if status == 429:
                    time.sleep(min(1.0, float(headers["retry-after"])))
                    continue
                if status == 200:
                    self.taken.update(json.loads(content)["taken"])
                else:
                    self.wrong.append((status, content))
                break
            else:
                self.wrong.append(f"{name} was never answered")
        self.link.close()


def batches_of(events: Sequence[Event], rng: random.Random) -> list[tuple[str, bytes]]:
    """Every event several times, shuffled, in calls of all sizes; some calls hold an event twice."""
    many = [one for one in events for _ in range(COPIES)]
    rng.shuffle(many)
    found = []
    while many:
        size = rng.randint(1, 24)
        found.append(("feedback", json.dumps({"events": many[:size]}).encode()))
        many = many[size:]
    return found


def test_each_event_counts_once_whatever_happens_to_it(site: Site) -> None:
    rng, events = random.Random(7), words(time.time())
    nodes = [enrolled(site, number) for number in range(NODES)]
    senders = []
    for number, node in enumerate(nodes):
        for link in range(LINKS):
            batches = batches_of(events, rng)
            captured = lines(number)
            for start in range(0, SAMPLES, 10):  # readings come before, between and after what is said of them
                batches.insert(rng.randrange(len(batches) + 1), ("samples", b"\n".join(captured[start : start + 10])))
            senders.append(Sender(node if link == 0 else second_link(node), batches))
    for sender in senders:
        sender.start()
    for _ in range(2):
        time.sleep(0.4)
        site.kill_core()
        site.run_core()
    for sender in senders:
        sender.join()
    assert not [wrong for sender in senders for wrong in sender.wrong]
    assert sum(sender.lost for sender in senders) > 0  # else the kills hit nothing
    for position, node in enumerate(nodes):
        taken = sum((sender.taken for sender in senders[LINKS * position : LINKS * position + LINKS]), Counter[str]())
        assert max(taken.values()) == 1  # told as new at most once
        assert node.json("POST", "/v1/node/feedback", {"events": events})[1]["taken"] == []
        node.close()
    check_rows(site, nodes, events)


def check_rows(site: Site, nodes: Sequence[CoreNode], events: Sequence[Event]) -> None:
    """What is stored, and what the loop makes of it: one row for each event, one example for each sample."""
    with site.database.read() as conn:
        rows = conn.execute(select(feedback)).all()
        readings = conn.execute(select(sample.c.node, sample.c.id)).all()
        said = read_said(conn, TASK, LABELS)
    assert Counter((row.node, row.id) for row in rows) == Counter(
        (node.id, event["id"]) for node in nodes for event in events
    )
    by_id = {event["id"]: event for event in events}
    for row in rows:
        event = by_id[row.id]
        assert (row.prediction, row.label, row.time_s) == (event["prediction_id"], event["label"], event["time"])
    assert sorted(readings) == sorted((node.id, f"p{row}") for node in nodes for row in range(SAMPLES))
    settled = settle(said)
    assert len(settled) == NODES * SAMPLES and {one.label for one in settled} == {1}  # the word that was said last
    policy = LoopPolicy(TASK, "x.py", "family", ("int8",), node_share=1.0)
    manifest = compose(policy, LABELS, settled)
    assert Counter((one.node, one.id) for one in manifest.examples) == Counter(map(tuple, readings))


def test_a_call_that_holds_a_malformed_event_changes_nothing(site: Site) -> None:
    node = enrolled(site, 0)
    for body in MALFORMED:
        while (told := node.call("POST", "/v1/node/feedback", body))[0] == 429:
            time.sleep(min(1.0, float(told[2]["retry-after"])))
        assert told[0] == 400, (told, body[:200])
        error = json.loads(told[1])["error"]
        assert error["code"] in ("EH100", "EH180") and error["what"]
    with site.database.read() as conn:
        assert conn.execute(select(feedback)).all() == []
    assert node.json("POST", "/v1/node/feedback", {"events": [GOOD]})[1] == {"taken": ["mixed"], "known": []}
    other = {**GOOD, "label": "smoke", "kind": "correct"}  # the same id with another content: what came first stays
    assert node.json("POST", "/v1/node/feedback", {"events": [other]})[1] == {"taken": [], "known": ["mixed"]}
    with site.database.read() as conn:
        assert conn.execute(select(feedback.c.label)).scalars().all() == ["air"]
    node.close()
