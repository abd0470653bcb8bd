"""A node that learns: drift without labels, other labels, wrong labels, restarts, updates, and the policy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.testing.bundles import write_bundle
from edgehone_agent import Node
from edgehone_agent.capture import Capture

TASK = "digits-like"
Settle = Callable[[Node], dict[str, Any]]


@contextmanager
def node_of(folder: Path, **settings: Any) -> Iterator[Node]:
    with ExitStack() as stack:
        capture = stack.enter_context(Capture(folder / "c", key=b"k" * 32, max_bytes=8_000_000, max_age_s=1e6))
        yield stack.enter_context(Node(folder / "state", tasks=[TASK], capture=capture, **settings))


def right(node: Node, x: np.ndarray, label: np.ndarray) -> float:
    return float((node.predict(x).argmax(1) == label).mean())


def see(node: Node, settle: Settle, x: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for start in range(0, len(x), 32):
        node.predict(x[start : start + 32])
        found = settle(node)
    return found


def teach(node: Node, settle: Settle, x: np.ndarray, labels: Sequence[int] | np.ndarray, name: str) -> dict[str, Any]:
    """Ask one by one and say what is right; stops where what was learnt is dropped."""
    found: dict[str, Any] = {}
    for n, (row, label) in enumerate(zip(x, labels, strict=True)):
        id = node.infer(TASK, row[None]).id
        node.feedback({"id": f"{name}{n}", "prediction_id": id, "kind": "correct", "label": int(label)})
        if n % 8 == 7:
            found = settle(node)
            if found["state"] == "dropped":
                break
    return found


def test_haze_is_taken_out_without_labels_and_goes_with_the_haze(tmp_path: Path, world: Any, settle: Settle) -> None:
    x, digit = world.x, world.digit
    hazy = x * np.float32(0.4) + np.float32(8)
    before = hashlib.sha256(world.one.read_bytes()).digest()
    with node_of(tmp_path) as node:
        node.install(TASK, world.one)
        clear, bad = right(node, x, digit), right(node, hazy, digit)
        assert clear > 0.95 and bad < 0.5
        node.set_policy(TASK, learn="statistics")
        assert see(node, settle, x[:200])["state"] == "waiting"  # nothing to adapt to
        told = see(node, settle, hazy[:320])
        assert told["state"] == "active" and told["rows"] >= 32 and "gain 2." in told["why"]
        assert right(node, hazy[320:], digit[320:]) > clear - 0.03
        answer = node.infer(TASK, hazy[:1])
        np.testing.assert_array_equal(answer.values[0], node.predict(hazy[0]))
    file = tmp_path / "state" / "learn" / f"{TASK}.delta"
    assert file.stat().st_size < 500
    with node_of(tmp_path, policy=("statistics", 0.0)) as node:
        assert right(node, hazy[320:], digit[320:]) > clear - 0.03  # at once, after a restart
        told = see(node, settle, x[:320])
        assert told["state"] == "waiting" and right(node, x, digit) == clear
        signed = node.slots(TASK).bundle_file()
        assert signed is not None and hashlib.sha256(signed.read_bytes()).digest() == before
    assert not file.exists()


def test_other_labels_are_learnt_and_forgotten_with_the_policy(tmp_path: Path, world: Any, settle: Settle) -> None:
    turned = (world.digit + 1) % 10
    file = tmp_path / "state" / "learn" / f"{TASK}.delta"
    with node_of(tmp_path) as node:
        node.install(TASK, world.one)
        own = node.predict(world.x)
        node.set_policy(TASK, learn="last-layer")
        assert right(node, world.x[200:], turned[200:]) < 0.05
        told = teach(node, settle, world.x[:200], turned[:200], "e")
        assert told["state"] == "active" and told["rows"] > 150
        good = right(node, world.x[200:], turned[200:])
        assert good > 0.9
        batch = node.predict(world.x[:40])
        singles = np.stack([node.predict(row) for row in world.x[:40]])
        np.testing.assert_allclose(batch, singles, rtol=1e-5, atol=1e-5)
    with node_of(tmp_path) as node:  # nobody has said yet what to learn: it answers as signed, and keeps the file
        np.testing.assert_array_equal(node.predict(world.x), own)
        node.set_policy(TASK, learn="last-layer")
        assert right(node, world.x[200:], turned[200:]) == good
        node.set_policy(TASK, learn=None)
        np.testing.assert_array_equal(node.predict(world.x), own)
        assert node.status()["tasks"][TASK]["learn"] is None and not file.exists()


def test_wrong_labels_are_found_out_by_right_ones(
    tmp_path: Path, world: Any, settle: Settle, caplog: pytest.LogCaptureFixture
) -> None:
    x, digit = world.x, world.digit
    with node_of(tmp_path) as node:
        node.install(TASK, world.one)
        own = node.predict(x)
        node.set_policy(TASK, learn="last-layer")
        assert teach(node, settle, x[:120], (digit[:120] + 1) % 10, "p")["state"] == "active"
        told = teach(node, settle, x[120:220], digit[120:220], "h")
        assert told["state"] == "dropped" and "worse than the signed model" in told["why"]
        np.testing.assert_array_equal(node.predict(x), own)
        assert any("worse than the signed model" in record.message for record in caplog.records)
        assert teach(node, settle, x[:64], (digit[:64] + 1) % 10, "q")["state"] == "dropped"  # not tried again
    with node_of(tmp_path, policy=("last-layer", 0.0)) as node:
        told = settle(node)
        assert told["state"] == "dropped" and "worse" in told["why"]
        node.install(TASK, world.two)  # another bundle is another start
        assert settle(node)["state"] == "waiting"
        assert teach(node, settle, x[:96], (digit[:96] + 1) % 10, "r")["state"] == "active"


def test_labels_that_agree_with_the_model_change_nothing(tmp_path: Path, world: Any, settle: Settle) -> None:
    with node_of(tmp_path, policy=("last-layer", 0.1)) as node:
        node.install(TASK, world.one)
        own = node.predict(world.x)
        told = teach(node, settle, world.x[:120], world.digit[:120], "e")
        assert told["state"] == "waiting" and "nothing to gain" in told["why"]
        np.testing.assert_array_equal(node.predict(world.x), own)
        risk = node.evidence()[TASK]["risk"]["detector"]
        assert risk is None or risk["label_error"] == pytest.approx(0.1)


def test_a_label_finds_its_reading_in_the_capture_and_a_deletion_takes_it_out(
    tmp_path: Path, world: Any, settle: Settle
) -> None:
    with node_of(tmp_path) as node:
        node.install(TASK, world.one)
        ids = [node.infer(TASK, row[None]).id for row in world.x[:40]]
        settle(node)
    with node_of(tmp_path, policy=("last-layer", 0.0)) as node:  # the last readings are forgotten
        for n, id in enumerate(ids):
            node.feedback({"id": f"e{n}", "prediction_id": id, "kind": "confirm"})
        rows = settle(node)["rows"]
        assert 20 <= rows <= 40
        node.feedback({"id": "d", "prediction_id": ids[0], "kind": "delete"})
        node.feedback({"id": "d1", "prediction_id": "never given", "kind": "delete"})
        learner = node._tasks[TASK].learner
        assert learner is not None and ids[0] not in {row.id for row in learner._rows}


def test_what_cannot_learn_says_why(tmp_path: Path, world: Any) -> None:
    plain = write_bundle(tmp_path / "plain.bundle", version=1).path
    for kind, words in (("statistics", "has no card"), ("last-layer", "no embedding")):
        with Node(tmp_path / kind, tasks=["gestures"], policy=(kind, 0.0)) as node:
            node.install("gestures", plain)
            told = node.status()["tasks"]["gestures"]["learn"]
            assert told["state"] == "waiting" and words in told["why"], told
    with Node(tmp_path / "blind", tasks=[TASK], watch=False, policy=("statistics", 0.0)) as node:
        node.install(TASK, world.one)
        assert "watch is turned off" in node.status()["tasks"][TASK]["learn"]["why"]
        node.set_policy(TASK, learn="last-layer")
        assert "no labels" in node.status()["tasks"][TASK]["learn"]["why"]
        assert node._live[TASK].change is None


def test_a_damaged_file_is_a_new_start(tmp_path: Path, world: Any, settle: Settle) -> None:
    file = tmp_path / "state" / "learn" / f"{TASK}.delta"
    with node_of(tmp_path, policy=("last-layer", 0.0)) as node:
        node.install(TASK, world.one)
        own = node.predict(world.x[:8])
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"EHLT" * 40)
    with node_of(tmp_path, policy=("last-layer", 0.0)) as node:
        assert settle(node)["state"] == "waiting"
        np.testing.assert_array_equal(node.predict(world.x[:8]), own)
