"""Dataset versions: the same inputs, the same digest; sides that never change; caps; deletes; sources kept apart."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert, select

from edgehone.loop.dataset import (
    HELD,
    LEARN,
    Manifest,
    Readings,
    compose,
    forget,
    load,
    load_contexts,
    read_manifest,
    side,
    store,
)
from edgehone.loop.policy import LoopPolicy
from edgehone.loop.said import put_aside, read_said
from edgehone.loop.trust import Settled, Suspect, settle
from edgehone.records.blobs import open_blobs
from edgehone.records.database import Database
from edgehone.records.tables import dataset, feedback, node, sample
from edgehone_agent.errors import StateError

POLICY = LoopPolicy("gas", "gas", "family", ("int8",), min_labels_per_class=1, node_share=1.0, annotator_share=1.0)
LABELS = ("air", "methane")
BLOBS = open_blobs("memory://")


def npy(number: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.full(4, number, np.float32))
    return file.getvalue()


def one(number: int, **values: Any) -> Settled:
    base = Settled(
        "n1", f"p{number}", "d" * 64, f"{number:064x}", "uniform", 0.1, "field", "", label=number % 2, kind="correct",
        voices=("node:n1",), senders=("n1",), trust=0.8, received_s=float(number), is_wrong=True,
    )  # fmt: skip
    return replace(base, **values)


def test_the_order_of_the_inputs_does_not_matter() -> None:
    rows = [one(number) for number in range(200)]
    first = compose(POLICY, LABELS, rows)
    assert first.to_bytes() == compose(POLICY, LABELS, rows[::-1]).to_bytes()
    assert Manifest.from_bytes(first.to_bytes()) == first
    assert first.counts()["labels"] == {"air": 100, "methane": 100}


def test_an_example_never_changes_sides() -> None:
    small = {e.id: e.split for e in compose(POLICY, LABELS, [one(n) for n in range(0, 300, 3)]).examples}
    large = {e.id: e.split for e in compose(POLICY, LABELS, [one(n) for n in range(300)]).examples}
    assert small.items() <= large.items()
    held = sum(split == HELD for split in large.values())
    assert 60 <= held <= 120
    assert side("f" * 64, 0.3) == side("f" * 64, 0.3) and side("0" * 64, 0.999999) == HELD


def test_no_node_gives_more_than_its_share() -> None:
    policy = replace(POLICY, node_share=0.25, annotator_share=0.25)
    rows = [one(n, node="loud", senders=("loud",), voices=("node:loud",)) for n in range(300)]
    rows += [one(1000 + n, node=f"n{n % 5}", senders=(f"n{n % 5}",), voices=(f"node:n{n % 5}",)) for n in range(100)]
    found = compose(policy, LABELS, rows)
    loud = sum(e.node == "loud" for e in found.examples)
    assert 0 < loud <= 0.25 * len(found.examples) + 1
    assert found.left_out["share of one node"] >= 250
    people = [one(n, senders=("core",), voices=("person:ann",)) for n in range(100)]
    assert len(compose(policy, LABELS, people).examples) == 100  # people at the core are not capped


def test_what_is_left_out_is_told() -> None:
    policy = replace(POLICY, min_labels_per_class=3, min_labels=1, most_examples=5)
    rows = [one(n, label=0) for n in range(8)] + [one(20, label=1), one(21, label=None), one(22, blob=None)]
    assert compose(policy, LABELS, rows).left_out == {
        "class with too few labels": 1, "deleted": 1, "no usable label": 1, "older than the newest": 3,
    }  # fmt: skip


def test_two_names_of_one_reading_are_one_example() -> None:
    found = compose(POLICY, LABELS, [one(1), replace(one(1), node="n2", trust=0.9)])
    assert [e.node for e in found.examples] == ["n2"]


def test_sources_keep_their_provenance_and_licence() -> None:
    found = compose(POLICY, LABELS, [one(1), one(2, source="lab", licence="CC-BY-4.0", is_wrong=False)])
    assert {(e.provenance, e.licence, e.source) for e in found.examples} == {
        ("field", "", "feedback"), ("lab", "CC-BY-4.0", "field"),
    }  # fmt: skip


def test_a_manifest_of_the_future_is_refused() -> None:
    content = compose(POLICY, LABELS, [one(1)]).to_bytes().replace(b'"schema":1', b'"schema":2')
    with pytest.raises(StateError, match="newer"):
        Manifest.from_bytes(content)


def test_readings_of_cohorts_come_back_within_bounds() -> None:
    blobs = [BLOBS.put(npy(number)) for number in range(50)]
    other = io.BytesIO()
    np.save(other, np.zeros(5, np.float32))
    contexts = {
        "north": Readings(
            7.5, (*blobs[:40], "f" * 64, BLOBS.put(other.getvalue()))
        ),  # one is deleted, one another shape
        "south": Readings(0.0, tuple(blobs[40:49])),
    }
    manifest = replace(compose(POLICY, LABELS, [one(1)]), contexts=contexts)
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest and manifest.counts()["contexts"]["north"] == 42
    old = json.loads(manifest.to_bytes())
    del old["contexts"]
    assert Manifest.from_bytes(json.dumps(old).encode()).contexts == {}  # of an earlier version
    digest = BLOBS.put(manifest.to_bytes())
    found = load_contexts(BLOBS, digest, (4,), least=10, most_bytes=1 << 20)
    assert list(found) == ["north"] and found["north"][:, 0].tolist() == list(range(40))
    few = load_contexts(BLOBS, digest, (4,), least=5, most_bytes=16 * 2 * 20)["north"]
    assert len(few) <= 20 and few[0, 0] == 0.0  # evenly over time


def fill(database: Database, count: int) -> None:
    with database.write() as conn:
        conn.execute(
            insert(node).values(
                id="n1", name="n1", tags={}, state="active", why="", facts={}, enrolled_s=0.0, status={}, beats=0
            )
        )
        for number in range(count):
            conn.execute(
                insert(sample).values(
                    node="n1", id=f"p{number}", task="gas", digest="d" * 64, time_s=0.0, received_s=0.0,
                    share="uniform", propensity=0.1, informativeness=0.0, stratum="0", answer=[0.9, 0.1],
                    blob=BLOBS.put(npy(number)), size_bytes=10,
                )
            )  # fmt: skip
            say(conn, f"e{number}", f"p{number}", "correct", label=LABELS[number % 2])


def say(conn: Any, id: str, prediction: str, kind: str, **values: Any) -> None:
    row = {
        "node": "n1", "task": "gas", "label": None, "value": None, "annotator": "", "trust": 1.0, "time_s": 1.0,
        "received_s": 1.0, "content": {"share": "uniform"}, "quarantined": None,
    }  # fmt: skip
    conn.execute(insert(feedback).values(**{**row, "id": id, "prediction": prediction, "kind": kind, **values}))


def version(database: Database, now_s: float) -> str:
    with database.read() as conn:
        said = read_said(conn, "gas", LABELS)
    return store(database, BLOBS, compose(POLICY, LABELS, settle(said)), now_s)


def test_from_rows_to_arrays_and_deletes_propagate(database: Database) -> None:
    fill(database, 60)
    first = version(database, 1.0)
    assert version(database, 2.0) == first  # the same again
    data = load(BLOBS, first)
    assert len(data.y) + len(data.held_y) == 60 and data.x.shape[1:] == (4,) and data.digest == first
    assert all(x[0] % 2 == y for x, y in zip(data.x, data.y, strict=True))
    gone = next(e for e in read_manifest(BLOBS, first).examples if e.split == LEARN)
    with database.write() as conn:
        say(conn, "d1", gone.id, "delete")
        say(conn, "d2", "p59", "delete", node="core", content={"node": "n1"}, annotator="ann")
    assert forget(database, BLOBS, "gas") == 2 and forget(database, BLOBS, "gas") == 0
    assert not BLOBS.has(gone.blob)
    second = version(database, 3.0)
    assert second != first and len(read_manifest(BLOBS, second).examples) == 58
    assert len(load(BLOBS, first).y) + len(load(BLOBS, first).held_y) == 58  # an old version forgets, too
    with database.read() as conn:
        rows = conn.execute(select(dataset).order_by(dataset.c.created_s)).all()
        assert [(row.digest, row.parent) for row in rows] == [(first, None), (second, first)]
        assert conn.execute(select(sample.c.blob).where(sample.c.id == gone.id)).scalar() is None


def test_a_blob_that_two_samples_share_stays_for_the_other(database: Database) -> None:
    fill(database, 2)
    with database.write() as conn:
        conn.execute(sample.update().where(sample.c.id == "p1").values(blob=BLOBS.put(npy(0))))
        say(conn, "d1", "p1", "delete")
    assert forget(database, BLOBS, "gas") == 1
    with database.read() as conn:
        assert BLOBS.has(conn.execute(select(sample.c.blob).where(sample.c.id == "p0")).scalar_one())


def test_labels_of_a_suspect_are_put_aside_once(database: Database) -> None:
    fill(database, 10)
    found = [Suspect("node", "n1", 10, 9, 0.2, 20.0, "labels look poisoned: 9 of 10")]
    with database.write() as conn:
        assert put_aside(conn, "gas", found) == {("node", "n1"): 10}
        assert put_aside(conn, "gas", found) == {}
    with database.read() as conn:
        said = read_said(conn, "gas", LABELS)
    assert len(said) == 10 and all(one.label is None for one in settle(said))
