"""A cohort whose world has changed while its answers stay as good: the same model with a drift reference of its own.

The worker, signing, registry and rollout are real; the family is made without training.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import insert, select, update

sys.path.insert(0, str(Path(__file__).parent))
from loop_world import SOURCE, TASK, World, draw

from edgehone.data.load import load_task
from edgehone.data.prepare import prepare
from edgehone.fleet.cohorts import put_cohort
from edgehone.fleet.orders import load_orders
from edgehone.fleet.rollouts import find_rollout
from edgehone.loop.dataset import read_manifest
from edgehone.loop.process import Workers
from edgehone.loop.rounds import abort, advance, approve, begin, family, own_contexts
from edgehone.loop.worker import BUNDLES, TRAINED
from edgehone.records.tables import decision, evidence, feedback, node, release, sample
from edgehone.registry.names import blob_path, bundle_path
from edgehone.testing.studies import write_study
from edgehone_agent.bundle import open_bundle
from edgehone_agent.fast import FastModel
from edgehone_agent.runtimes import RUNTIMES
from edgehone_agent.watch.watcher import Watcher
from edgehone_agent.wire.card import Card

pytestmark = pytest.mark.slow
WAIT_S = 120.0
SHIFT = 1.2


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rebaseline") / "world"
    folder.mkdir()
    (folder / "gas_task.py").write_text(SOURCE)
    digest = prepare(load_task(str(folder / "gas_task.py")), 0).validation.digest()
    write_study(folder / "family", shape=(8,), task=TASK, digest={"validation": digest}, embedding=True)
    return folder


@pytest.fixture
def make(prepared: Path, tmp_path: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def world(**policy: Any) -> World:
        folder = tmp_path / f"core{len(made)}"
        shutil.copytree(prepared, folder)
        values = {"tolerance": 0.05, "corrections": 0, **policy}
        made.append(World(folder, nodes=4, policy=values))
        with made[-1].site.database.write() as conn:
            put_cohort(conn, "north", TASK, tags={"site": "north"}, actor="test", now_s=1.0)
            for name in made[-1].names[:2]:
                conn.execute(update(node).where(node.c.id == name).values(tags={"site": "north"}))
        return made[-1]

    yield world
    for one in made:
        one.close()


def drift_north(world: World, count: int) -> None:
    """Both nodes of the north see another world and answer it as well as ever, which people confirm."""
    digest, now_s = world.digest(), world.now_s
    for position, name in enumerate(world.names[:2]):
        x, _ = draw(count, 500 + position, SHIFT)
        about = {"node": name, "task": TASK, "time_s": now_s, "received_s": now_s}
        with world.site.database.write() as conn:
            for row, one in enumerate(x):
                conn.execute(
                    insert(sample).values(
                        **about, id=f"p{row}", digest=digest, share="uniform", propensity=0.1, informativeness=0.5,
                        stratum="0", answer=[0.9, 0.1, 0.0], blob=world.site.blobs.put(npy(one)), size_bytes=160,
                    )
                )  # fmt: skip
                conn.execute(
                    insert(feedback).values(
                        **about, id=f"e{row}", prediction=f"p{row}", kind="confirm", label=None, value=None,
                        annotator="", trust=1.0, content={"share": "uniform"}, quarantined=None,
                    )
                )  # fmt: skip
            conn.execute(
                insert(evidence).values(
                    node=name,
                    task=TASK,
                    digest=digest,
                    received_s=now_s,
                    watch_level=2,
                    risk_level=0,
                    rows=count,
                    content={"tolerant": {"index": 1e6, "channel": "input 0", "direction": "higher"}},
                )
            )


def npy(x: NDArray[np.float32]) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


def drive(world: World, until: Callable[[Any], bool]) -> Any:
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s:
        world.loop.tick(world.now_s)
        world.beat()
        found = world.round()
        if until(found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"not over in time: {world.round()}")


def bundle_of(world: World, version: int) -> Path:
    with world.site.database.read() as conn:
        row = conn.execute(select(release).where(release.c.version == version)).one()
    return world.site.registry / blob_path(bundle_path(TASK, version, row.member), row.digest)


def cards(path: Path, folder: Path) -> tuple[dict[str, Card], Path, dict[str, str]]:
    """The cards of a bundle by path, its .tflite file, and digests of its model files."""
    with open_bundle(path) as bundle:
        parts = bundle.manifest.parts
        model = next(part for part in parts if part.role == "model" and part.path.endswith(".tflite"))
        (folder / "model.tflite").write_bytes(bundle.read(model))
        found = {part.path: Card.from_bytes(bundle.read(part)) for part in parts if part.role == "card"}
        return found, folder / "model.tflite", {part.path: part.sha256 for part in parts if part.role == "model"}


def level(card: Card, model: Path, x: NDArray[np.float32]) -> int:
    """Of a watch after these readings."""
    session = RUNTIMES.get("litert").load(model)
    watcher = Watcher(card, seed=1)
    with FastModel(session, tap=session.embedding is not None) as asked:
        y = asked.predict(x)
        watcher.observe(x, y, asked.take_embedding())
    return watcher.level


def check_cards(path: Path, folder: Path) -> None:
    """The north is calm by its own card and alarms by the task's, and the other way round."""
    found, model, _ = cards(path, folder)
    assert set(found) == {"card.bin", "cards/north.bin"}
    north, usual = draw(2000, 77, SHIFT)[0], draw(2000, 78, 0.0)[0]
    assert level(found["card.bin"], model, north) >= 2 and level(found["card.bin"], model, usual) == 0
    assert level(found["cards/north.bin"], model, north) == 0 and level(found["cards/north.bin"], model, usual) >= 2


def test_the_new_normal_is_signed_and_rolled_out_without_training(make: Callable[..., World], tmp_path: Path) -> None:
    world = make(approve="manual")
    drift_north(world, 200)
    found = drive(world, lambda one: one.state == "waiting")
    assert (found.kind, found.cohorts, found.phase) == ("re-baseline", ("north",), "sign"), found
    assert found.contexts == {"north": 400} and "no new model" in found.began
    approve(world.site.database, found.id, actor="person:ann", now_s=world.now_s)
    found = drive(world, lambda one: one.ended)
    assert (found.state, found.version, found.rollout is not None) == ("done", 2, True), found
    _, _, before = cards(bundle_of(world, 1), tmp_path)
    _, _, after = cards(bundle_of(world, 2), tmp_path)
    assert before == after  # the same model files under a new version
    check_cards(bundle_of(world, 2), tmp_path)
    with world.site.database.read() as conn:
        statuses = conn.execute(select(node.c.status)).scalars().all()
        made = conn.execute(select(release).where(release.c.version == 2)).one()
        answers = conn.execute(select(decision.c.answer, decision.c.round)).all()
        assert find_rollout(conn, found.rollout).plan.limits.flip_rate == 0.0
        policy_study = family(conn, world.policy())
    assert all(status[TASK]["version"] == 2 for status in statuses)
    assert (made.round, made.approved_by, made.dataset) == (found.id, "person:ann", found.dataset)
    assert ("re-baseline", found.id) in [tuple(row) for row in answers]
    assert policy_study == str(world.folder / "family")  # the next round starts from the same family
    assert len(own_contexts(world.site, TASK)["north"].blobs) == 400
    assert not (world.site.rounds / found.id / TRAINED).exists()
    world.now_s += 3600.0
    world.loop.tick(world.now_s)
    assert world.round().id == found.id  # that was it: nothing alarms on the new reference


def test_with_too_few_readings_samples_are_collected_and_a_round_is_refused(make: Callable[..., World]) -> None:
    world = make(collect_s=7200.0, collect_samples=25)
    drift_north(world, 100)
    world.loop.tick(world.now_s)
    with world.site.database.write() as conn:
        (row,) = conn.execute(select(decision)).all()
        asked = load_orders(conn)[1][TASK]
        assert row.answer == "collect" and "300 uniformly drawn readings" in row.why and "north: 200" in row.why
        assert (asked.samples, asked.until_s, asked.cohorts) == (25, world.now_s + 7200.0, {"north"})
        begun = begin(
            conn, world.policy(), now_s=world.now_s, actor="test", trigger="manual", why="", kind="re-baseline",
            cohorts=("north",),
        )  # fmt: skip
    with Workers() as workers:
        ended = advance(world.site, begun, world.now_s, workers)
    assert ended.state == "refused" and "north: 200" in ended.why


def test_another_model_than_what_is_served_never_passes_as_a_re_baseline(make: Callable[..., World]) -> None:
    world = make()
    write_study(world.folder / "family", shape=(8,), task=TASK, digest=_digest(world), embedding=True, seed=9)
    drift_north(world, 200)
    found = drive(world, lambda one: one.ended)
    assert found.state == "refused" and "not those that are served" in found.why


def _digest(world: World) -> dict[str, str]:
    found: dict[str, str] = json.loads((world.folder / "family" / "study.json").read_text())["task"]["digest"]
    return found


def test_a_retraining_makes_references_for_cohorts_as_well(make: Callable[..., World], tmp_path: Path) -> None:
    """The worker's second step alone, on a family that has learnt: what the round would sign."""
    world = make()
    drift_north(world, 200)
    with world.site.database.write() as conn:
        begun = begin(conn, world.policy(), now_s=world.now_s, actor="test", trigger="manual", why="")
    with Workers() as workers:
        begun = advance(world.site, begun, world.now_s, workers, until="data")
    assert begun.phase == "train" and begun.dataset, begun
    contexts = read_manifest(world.site.blobs, begun.dataset).contexts
    assert {name: len(one.blobs) for name, one in contexts.items()} == {"north": 400}  # the others are well as they are
    folder = world.site.rounds / begun.id
    shutil.copytree(world.folder / "family", folder / "study")
    (folder / TRAINED).write_text("{}")
    spec = {
        "folder": str(folder), "study": str(world.folder / "family"), "source": str(world.folder / "gas_task.py"),
        "kind": "retrain", "members": ["int8"], "card_readings": 300, "epochs": 1.0, "seed": 0, "threads": 1,
        "memory_bytes": 0, "dataset": begun.dataset, "blobs": world.site.blobs_url, "version": 2, "parent": {},
        "created": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    with Workers() as workers:
        workers.start(folder, spec)
        end_s = time.monotonic() + WAIT_S
        while workers.is_alive(folder) and time.monotonic() < end_s:
            time.sleep(0.05)
    assert json.loads((folder / BUNDLES).read_text())["contexts"] == {"north": 400}
    check_cards(folder / "int8.bundle", tmp_path)
    abort(world.site, begun.id, actor="test", now_s=world.now_s)
