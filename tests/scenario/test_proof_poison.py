"""One node in twenty says the wrong class on purpose: its labels teach nothing, and what is promoted is no worse."""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

sys.path.insert(0, str(Path(__file__).parent))
from loop_world import LABELS, draw
from proof_world import (
    QUICK,
    QuickSite,
    accuracy,
    event,
    hard_world,
    make_families,
    moved,
    release_first,
    served_model,
    set_policy,
    until,
)

from edgehone.fleet import rollouts
from edgehone.fleet.rollout import RolloutPlan
from edgehone.loop.rounds import list_rounds
from edgehone.loop.trust import POISONED
from edgehone.records.tables import decision, feedback, release
from edgehone.testing.cores import new_token
from edgehone.testing.fleets import Model
from edgehone.testing.http_fleets import HttpFleet, second_link
from edgehone.testing.sites import Site
from edgehone_agent.model import open_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TASK, NODES, READINGS = "gas", 20, 40
EPSILON = 0.01
SIZE = 2.4


class Town:
    """A core that learns by itself, and nodes in memory, the first of which lies."""

    def __init__(self, site: Site, folder: Path, gas_family: Path) -> None:
        self.site, self.folder, self.turn = site, folder, 0
        make_families(folder, (TASK,), gas_family)
        site.make_core((TASK,), interval_s=1.0)
        release_first(site, folder, TASK)
        self.fleet = HttpFleet(site.port, site.folder / "nodes", site.place.authority / "ca.pem", TASK)
        self.fleet.models |= {version: Model(latency_us=10.0) for version in range(1, 9)}
        self.ids = self.fleet.enrol([new_token(site.place) for _ in range(NODES)])
        self.liar = self.ids[0]
        self.uplinks = {id: second_link(link) for id, link in self.fleet.links.items()}

    def say(self, towards: int) -> None:
        """Every node sends what it has seen and answered, and then what people said of it."""
        self.turn += 1
        model = served_model(self.site.database, self.folder, TASK)
        with self.site.database.read() as conn:
            digest = conn.execute(select(release.c.digest).order_by(release.c.version.desc()).limit(1)).scalar_one()
        for number, id in enumerate(self.ids):
            x, y = moved(READINGS, 1000 * self.turn + number, towards, SIZE)
            with open_model(model) as opened:
                answers = opened.predict(x)
            names = [f"p{self.turn}-{row}" for row in range(READINGS)]
            lines = [line(name, digest, one, answer) for name, one, answer in zip(names, x, answers, strict=True)]
            status, told, _ = self.uplinks[id].call("POST", "/v1/node/samples", b"\n".join(lines))
            assert status == 200 and len(json.loads(told)["taken"]) == READINGS, told
            said = (y + 1) % len(LABELS) if id == self.liar else y
            events = [event(f"e-{name}", name, int(label)) for name, label in zip(names, said, strict=True)]
            assert self.uplinks[id].json("POST", "/v1/node/feedback", {"events": events})[0] == 200

    def round(self) -> Any:
        """What became of the next round that is allowed."""
        with self.site.database.read() as conn:
            known = {one.id for one in list_rounds(conn, TASK)}
        self.policy(cool_down_s=0.0)
        with self.site.database.write() as conn:  # a word of the core makes the loop look at once
            values = {
                "node": "core", "id": f"look-{self.turn}", "task": TASK, "prediction": "none", "kind": "ignore",
                "annotator": "ann", "trust": 1.0, "time_s": time.time(), "received_s": time.time(), "content": {},
            }  # fmt: skip
            conn.execute(feedback.insert().values(**values))

        def ended() -> Any:
            with self.site.database.read() as conn:
                return next((one for one in list_rounds(conn, TASK) if one.ended and one.id not in known), None)

        found = until(ended, "the round ends")
        self.policy(cool_down_s=1e6)
        return found

    def policy(self, **values: Any) -> None:
        set_policy(
            self.site, self.folder, TASK, corrections=20, min_labels=NODES * READINGS // 2, epsilon_pp=100 * EPSILON,
            **values,
        )  # fmt: skip

    def put_aside(self) -> dict[str, tuple[int, int]]:
        """Node → its events, and how many of them were put aside for poison."""
        is_poison = feedback.c.quarantined.startswith(POISONED)
        query = select(feedback.c.node, func.count(), func.count().filter(is_poison)).group_by(feedback.c.node)
        with self.site.database.read() as conn:
            return {name: (events, aside) for name, events, aside in conn.execute(query) if name != "core"}


def line(id: str, digest: str, x: Any, answer: Any) -> bytes:
    """A captured reading, as a node sends it."""
    file = io.BytesIO()
    np.save(file, x)
    body = {
        "id": id, "task": TASK, "digest": digest, "time_s": time.time(), "share": "uniform", "propensity": 0.5,
        "informativeness": 0.5, "stratum": str(int(answer.argmax())), "answer": answer.tolist(),
        "x": base64.b64encode(file.getvalue()).decode(),
    }  # fmt: skip
    return json.dumps(body).encode()


@pytest.fixture
def town(tmp_path: Path, gas_family: Path) -> Iterator[Town]:
    folder = Path(tempfile.mkdtemp(prefix="eh-"))
    with QuickSite(folder) as site:
        found = Town(site, tmp_path, gas_family)
        with found.fleet.beating(1.0):
            plan = RolloutPlan.from_json({**RolloutPlan().__dict__, "limits": {}, **QUICK})
            rollouts.start(site.database, TASK, 1, now_s=time.time(), actor="core", plan=plan)
            until(lambda: all(node.version == 1 for node in found.fleet.nodes.values()), "all serve version 1")
            yield found
        found.fleet.close()
        for link in found.uplinks.values():
            link.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_labels_that_are_flipped_on_purpose(town: Town) -> None:
    old = draw(4000, 77, 0.0)
    promoted = 0
    for turn in (1, 2):
        before = served_model(town.site.database, town.folder, TASK)
        towards = hard_world(before, turn, SIZE)
        new = moved(4000, 55, towards, SIZE)
        town.say(towards)
        found = town.round()
        assert found.state in ("done", "refused"), found.why
        aside = town.put_aside()
        assert aside.pop(town.liar) == (turn * READINGS, turn * READINGS)
        assert len(aside) == NODES - 1 and set(aside.values()) == {(turn * READINGS, 0)}
        if found.state == "done":
            promoted += 1
            after = served_model(town.site.database, town.folder, TASK)
            assert found.id in str(after)
            for world in (old, new):
                assert accuracy(after, *world) >= accuracy(before, *world) - EPSILON
            assert accuracy(after, *new) > accuracy(before, *new)
    assert promoted >= 1
    with town.site.database.read() as conn:
        told = conn.execute(select(decision).where(decision.c.trigger == "poison")).all()
    assert {row.evidence["name"] for row in told} == {town.liar} and {row.answer for row in told} == {"quarantine"}
    assert "look poisoned" in told[0].why
    assert not town.fleet.failures
