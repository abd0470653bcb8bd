"""A node in process: the right answer, its id and labels, many threads, many tasks, and swaps that nobody notices."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgehone.bundle.card import build_card
from edgehone.testing.bundles import LABELS, Made, write_bundle
from edgehone_agent import Node, durable
from edgehone_agent.bundle import open_bundle
from edgehone_agent.capture import Capture
from edgehone_agent.errors import BundleError, InputError, MissingExtraError, StateError
from edgehone_agent.ids import Ids
from edgehone_agent.lock import lock_owner, take_lock
from edgehone_agent.model import open_model
from edgehone_agent.node import task_names
from edgehone_agent.observer import MAX_ROWS
from edgehone_agent.runtimes.litert import LiteRT

TASK = "gestures"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, ...]:
    """Versions 1 to 6; each answers differently."""
    folder = tmp_path_factory.mktemp("bundles")
    return tuple(write_bundle(folder / f"{version}.bundle", version=version) for version in range(1, 7))


@pytest.fixture
def node(tmp_path: Path, bundles: tuple[Made, ...]) -> Iterator[Node]:
    """A node with version 1."""
    with Node(tmp_path / "state", tasks=[TASK]) as node:
        node.install(TASK, bundles[0].path)
        yield node


def test_it_answers_one_example_and_a_batch(node: Node, bundles: tuple[Made, ...]) -> None:
    one = bundles[0]
    np.testing.assert_array_equal(node.predict(one.x), one.y)
    np.testing.assert_array_equal(node.predict(one.x, TASK), one.y)
    np.testing.assert_allclose(node.predict(np.stack([one.x] * 3)), [one.y] * 3, rtol=1e-6)
    np.testing.assert_allclose(node.predict(one.x.astype(np.float64).tolist()), one.y, rtol=1e-6)
    assert node.predict(np.empty((0, 20), np.float32)).shape == (0, 4)


def test_infer_says_who_answered_and_what_it_means(node: Node, bundles: tuple[Made, ...]) -> None:
    one = bundles[0]
    batch = np.stack([one.x, -one.x])
    answer = node.infer(TASK, batch, top_k=2)
    np.testing.assert_allclose(answer.values, node.predict(batch))
    expected = np.exp(answer.values) / np.exp(answer.values).sum(1, keepdims=True)
    assert answer.confidence is not None
    np.testing.assert_allclose(answer.confidence, expected.max(1), rtol=1e-5)
    assert [row[0][0] for row in answer.top] == [LABELS[i] for i in expected.argmax(1)]
    assert all(len(row) == 2 and row[0][1] >= row[1][1] for row in answer.top)
    assert (answer.task, answer.digest) == (TASK, one.digest) and answer.latency_us > 0
    bare = node.infer(TASK, batch[:1])
    assert bare.confidence is None and bare.top == () and bare.id > answer.id
    assert node.manifest(TASK).version == 1 and node.digest(TASK) == one.digest


@pytest.mark.parametrize(
    "x", [np.zeros(20, np.float32), np.zeros((1, 19), np.float32), np.full((1, 20), np.nan, np.float32)]
)
def test_infer_refuses_what_does_not_fit_and_goes_on(x: np.ndarray, node: Node, bundles: tuple[Made, ...]) -> None:
    with pytest.raises(InputError):
        node.infer(TASK, x)
    np.testing.assert_array_equal(node.predict(bundles[0].x), bundles[0].y)


def test_unknown_and_empty_tasks_are_told_apart(tmp_path: Path) -> None:
    with Node(tmp_path, tasks=["empty"]) as node:
        assert node.tasks() == ("empty",) and not node.ready() and not node.ready("empty")
        for ask in (lambda: node.predict([1.0]), lambda: node.manifest("empty"), lambda: node.digest("empty")):
            with pytest.raises(StateError, match="no model that answers"):
                ask()
        for ask in (lambda: node.predict([1.0], "other"), lambda: node.install("other", tmp_path)):  # type: ignore[return-value]
            with pytest.raises(InputError, match="no task 'other'"):
                ask()
        with pytest.raises(StateError, match="keeps no feedback"):
            node.feedback({})
        with pytest.raises(InputError):
            node.install("empty", tmp_path / "missing.bundle")


def test_one_failing_task_does_not_disturb_another(tmp_path: Path, bundles: tuple[Made, ...]) -> None:
    other = write_bundle(tmp_path / "other.bundle", version=1, task="other", seed=9)
    bad = write_bundle(tmp_path / "bad.bundle", version=2, task="other", wrong_probe=True)
    state = tmp_path / "state"
    with Node(state, tasks=[TASK, "other"]) as node:
        node.install(TASK, bundles[0].path)
        node.install("other", other.path)
        with pytest.raises(BundleError):
            node.install("other", bad.path)
        with pytest.raises(InputError, match="name the task"):
            node.predict(other.x)
        np.testing.assert_array_equal(node.predict(other.x, "other"), other.y)
        assert "wrongly" in node.status()["tasks"]["other"]["fault"]
    for file in (state / "tasks" / "other").rglob("bundle.zip"):
        file.write_bytes(b"")
    with Node(state) as node:
        assert node.tasks() == (TASK, "other") == task_names(state)
        assert node.ready(TASK) and not node.ready("other") and not node.ready()
        np.testing.assert_array_equal(node.predict(bundles[0].x, TASK), bundles[0].y)
        with pytest.raises(StateError, match="damaged"):
            node.predict(other.x, "other")


def test_swaps_under_load_fail_no_call_and_leave_no_session(
    tmp_path: Path, bundles: tuple[Made, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three threads ask without pause; every answer is one of a version that was there."""
    answers = {made.y.tobytes() for made in bundles}
    x, stop, wrong, asked = bundles[0].x, threading.Event(), list[object](), [0, 0, 0]
    with Node(tmp_path, tasks=[TASK], sessions=2) as node:
        node.install(TASK, bundles[0].path)

        def ask(worker: int) -> None:
            while not stop.is_set():
                try:
                    found = node.predict(x) if worker else node.infer(TASK, x[None]).values[0]
                    if found.tobytes() not in answers:
                        wrong.append(found)
                except InputError as error:
                    wrong.append(error)
                asked[worker] += 1

        threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(3)]
        for thread in threads:
            thread.start()
        gone = []
        for made in bundles[1:]:
            gone += [lane.model.session for lane in node._live[TASK].lanes]
            node.install(TASK, made.path)
            node.predict(x)
        node.roll_back(TASK)
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == [] and min(asked) > 50
        np.testing.assert_array_equal(node.predict(x), bundles[-2].y)
        for session in gone:
            with pytest.raises(InputError, match="closed"):
                session.run(np.zeros((1, 20), np.float32))
        status = node.status()["tasks"][TASK]
        assert (status["swaps"], status["roll_backs"], status["version"]) == (6, 1, 5)
        assert status["predictions"] >= sum(asked)


def test_a_swap_waits_for_no_caller_and_no_caller_for_a_swap(node: Node, bundles: tuple[Made, ...]) -> None:
    """A call that hangs in the old model delays neither the swap's new answers nor fails itself."""
    old = node._live[TASK].lanes[0]
    with old.lock:  # as a call that is running does
        swapping = threading.Thread(target=node.install, args=(TASK, bundles[1].path))
        swapping.start()
        until = time.monotonic() + 20
        while node.digest(TASK) != bundles[1].digest and time.monotonic() < until:
            time.sleep(0.01)
        np.testing.assert_array_equal(node.predict(bundles[1].x), bundles[1].y)
        assert old.is_open and swapping.is_alive()
    swapping.join()
    assert not old.is_open


def test_a_second_node_reads_beside_the_first(node: Node, bundles: tuple[Made, ...]) -> None:
    with Node(node.state) as reader:
        np.testing.assert_array_equal(reader.predict(bundles[0].x), bundles[0].y)
        assert node.status()["writes"] and not reader.status()["writes"]
        with pytest.raises(StateError, match="another process"):
            reader.install(TASK, bundles[1].path)
    node.install(TASK, bundles[1].path)


def test_it_settles_after_a_minute_and_a_stop_is_no_death(tmp_path: Path, bundles: tuple[Made, ...]) -> None:
    now = [0.0]
    with Node(tmp_path, tasks=[TASK], monotonic=lambda: now[0]) as node:
        node.install(TASK, bundles[0].path)
        time.sleep(0.6)
        assert node.status()["tasks"][TASK]["trial"]["version"] == 1
    for _ in range(3):
        with Node(tmp_path, monotonic=lambda: now[0]) as node:
            assert node.ready()
    with Node(tmp_path, monotonic=lambda: now[0]) as node:
        now[0] = 61.0
        until = time.monotonic() + 10
        while node.status()["tasks"][TASK]["trial"] and time.monotonic() < until:
            time.sleep(0.05)
        assert node.status()["tasks"][TASK]["trial"] is None


def test_answers_are_captured_with_their_ids_and_feedback_is_taken(tmp_path: Path, watched: Made) -> None:
    one = watched
    with (
        Capture(tmp_path / "capture", key=b"k" * 32, max_bytes=10_000_000, max_age_s=1e6) as capture,
        Node(tmp_path / "state", tasks=[TASK], capture=capture) as node,
    ):
        node.install(TASK, one.path)
        answer = node.infer(TASK, np.stack([one.x, one.x + 1]))
        x = one.x.copy()
        node.predict(x)
        x[:] = 0  # the caller's own again: what was captured is a copy
        node.feedback({"id": "e1", "prediction_id": f"{answer.id}.0", "kind": "confirm"})
        node._live[TASK].feed.drain()  # type: ignore[union-attr]
        capture.flush()
        exported = capture.export(tmp_path / "out")
        assert node.status()["capture"]["feedback"] == 1
        assert capture.stats()["samples"] + exported.get("samples", 0) >= 3


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A bundle with a card of its own answers to standard normal readings."""
    folder = tmp_path_factory.mktemp("watched")
    with open_bundle(write_bundle(folder / "bare.bundle", version=1).path) as bundle:
        part = bundle.manifest.part("model")
        (folder / "m.tflite").write_bytes(bundle.read(part))
    x = np.random.default_rng(5).standard_normal((4000, 20), np.float32)
    with open_model(folder / "m.tflite") as model:
        card = build_card(x, model.predict(x), None, kind="classification", model_digest=part.sha256)
    return write_bundle(folder / "watched.bundle", version=1, extra=(("card.bin", "card", card.to_bytes()),))


def ask_for(node: Node, rows: int, shift: float) -> None:
    """Ask about fresh readings, in batches, and let the watch see them all."""
    rng = np.random.default_rng(rows)
    for _ in range(rows // 100):
        node.predict(rng.standard_normal((100, 20), np.float32) + np.float32(shift))
        node._live[TASK].feed.drain()  # type: ignore[union-attr]


def test_the_watch_sees_a_shift_and_a_restart_forgets_nothing(tmp_path: Path, watched: Made) -> None:
    with Node(tmp_path, tasks=[TASK]) as node:
        node.install(TASK, watched.path)
        ask_for(node, 1000, 0.0)
        assert node.status()["tasks"][TASK]["watch"] == {"level": 0, "dropped_rows": 0, "fault": None}
        ask_for(node, 1500, 1.0)
        assert node.status()["tasks"][TASK]["watch"]["level"] >= 2
        before = node.evidence()[TASK]
        assert before["rows"] == 2500
    with Node(tmp_path) as node:
        again = node.evidence()[TASK]
        assert (again["rows"], again["level"], again["card"]) == (2500, before["level"], before["card"])
    (tmp_path / "watch" / f"{TASK}.bin").write_bytes(b"damaged")
    with Node(tmp_path) as node:
        assert node.evidence()[TASK]["rows"] == 0
    with Node(tmp_path, watch=False) as node:
        assert node.evidence() == {} and node.status()["tasks"][TASK]["watch"] is None


def test_what_is_seen_while_the_state_is_written_is_kept(
    tmp_path: Path, watched: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = durable.write_bytes
    with Node(tmp_path, tasks=[TASK]) as node:
        node.install(TASK, watched.path)
        ask_for(node, 100, 0.0)
        feed = node._live[TASK].feed
        assert feed is not None
        feed.save(0.0, at_once=True)

        def slow(path: Path, content: bytes) -> None:
            write(path, content)
            if path.name == f"{TASK}.bin":
                monkeypatch.setattr(durable, "write_bytes", write)
                ask_for(node, 200, 0.0)

        ask_for(node, 100, 0.0)
        monkeypatch.setattr(durable, "write_bytes", slow)
        feed.save(0.0, at_once=True)
    with Node(tmp_path) as node:
        assert node.evidence()[TASK]["rows"] == 400


def test_a_card_of_another_model_is_not_used(tmp_path: Path, watched: Made) -> None:
    with open_bundle(watched.path) as bundle:
        card = bundle.read(bundle.manifest.part("card"))
    other = write_bundle(tmp_path / "o.bundle", version=1, seed=77, extra=(("card.bin", "card", card),))
    with Node(tmp_path / "state", tasks=[TASK]) as node:
        node.install(TASK, other.path)
        assert node.evidence() == {}
    broken = write_bundle(tmp_path / "b.bundle", version=2, extra=(("card.bin", "card", card[:-1]),))
    with Node(tmp_path / "state") as node:
        with pytest.raises(BundleError, match="card is damaged"):
            node.install(TASK, broken.path)
        assert node.ready()


def test_more_than_the_watch_can_take_is_counted_and_fails_nothing(tmp_path: Path, watched: Made) -> None:
    with Node(tmp_path, tasks=[TASK]) as node:
        node.install(TASK, watched.path)
        x = np.zeros((MAX_ROWS - 1, 20), np.float32)
        for _ in range(40):
            assert node.predict(x).shape == (MAX_ROWS - 1, 4)
        feed = node._live[TASK].feed
        assert feed is not None
        feed.drain()
        assert feed.dropped_rows > 0 and feed.dropped_rows % len(x) == 0
        assert node.evidence()[TASK]["rows"] == 40 * len(x) - feed.dropped_rows


def test_what_the_machine_lacks_for_a_while_blames_no_bundle(
    tmp_path: Path, bundles: tuple[Made, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Node(tmp_path, tasks=[TASK]) as node:
        for made in bundles[:2]:
            node.install(TASK, made.path)

    def gone(self: LiteRT) -> str:
        raise MissingExtraError("LiteRT is needed and cannot be imported", do="install it")

    with monkeypatch.context() as patch:
        patch.setattr(LiteRT, "version", gone)
        node = Node(tmp_path)
        assert not node.ready() and "LiteRT" in node.status()["tasks"][TASK]["fault"] and not node.reload(TASK)
        with pytest.raises(StateError, match="LiteRT"):
            node.predict(bundles[1].x)
    with node:
        assert node.reload(TASK) and node.reload(TASK)
        np.testing.assert_array_equal(node.predict(bundles[1].x), bundles[1].y)
    with Node(tmp_path) as node:
        assert node.status()["tasks"][TASK]["previous"]["version"] == 1


def test_metrics_count_per_task(node: Node, bundles: tuple[Made, ...]) -> None:
    for _ in range(3):
        node.infer(TASK, bundles[0].x[None])
    found = {metric.name: metric.samples for metric in node.metrics()}
    assert found["edgehone_predictions_total"] == (({"task": TASK}, 3.0),)
    assert found["edgehone_infer_total"] == (({"task": TASK}, 3.0),)
    assert found["edgehone_ready"] == (({"task": TASK}, 1.0),)


def test_ids_are_unique_short_and_sorted_even_when_the_clock_goes_back() -> None:
    now = [1_800_000_000_000_000_000]
    ids = Ids(lambda: now[0])
    made = []
    for step in (0, 10**6, -(10**12), 5, 10**9):
        now[0] += step
        made += [ids.next() for _ in range(100)]
    assert made == sorted(set(made)) and {len(id) for id in made} == {16}
    assert Ids(lambda: now[0]).next() != Ids(lambda: now[0]).next()


def test_the_lock_is_held_by_one_and_names_it(tmp_path: Path) -> None:
    assert lock_owner(tmp_path) is None
    lock = take_lock(tmp_path / "new")
    assert lock is not None and lock_owner(tmp_path / "new") == os.getpid() and take_lock(tmp_path / "new") is None
    lock.release()
    lock.release()
    assert lock_owner(tmp_path / "new") is None


def test_a_node_closes_twice_and_answers_no_more(node: Node, bundles: tuple[Made, ...]) -> None:
    node.close()
    node.close()
    with pytest.raises(StateError):
        node.predict(bundles[0].x)
