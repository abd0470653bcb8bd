"""A release that answers unseen: counted right, bounded, and never a trouble to what is served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.testing.bundles import LABELS, Made, write_bundle
from edgehone_agent.capture import Capture
from edgehone_agent.node import Node
from edgehone_agent.uplink.shadow import open_shadow
from edgehone_agent.wire.manifest import Manifest

TASK = "gestures"


class Pair:
    """A node that serves version 1, and version 2 to answer beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.capture = Capture(folder / "capture", key=b"k" * 32, max_bytes=10**7, max_age_s=1e6)
        self.node = Node(folder / "state", tasks=[TASK], capture=self.capture)
        self.one = write_bundle(folder / "1.bundle", version=1)
        self.two = self.beside(2)
        self.node.install(TASK, self.one.path)

    def beside(self, version: int, **more: Any) -> Made:
        return write_bundle(self.folder / "shadow" / f"{version}.bundle", version=version, **more)

    def told(self) -> dict[str, Any]:
        feed = self.node._tasks[TASK].live.feed  # type: ignore[union-attr]
        assert feed is not None
        feed.drain()
        found: dict[str, Any] = self.node.status()["tasks"][TASK]["shadow"]
        return found


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.node.close()
    pair.capture.close()


def test_rows_disagreements_and_labels_are_counted_as_they_are(pair: Pair) -> None:
    pair.node.shadow(TASK, pair.two.path, share=1.0)
    x = np.random.default_rng(5).standard_normal((30, 20), np.float32)
    ids = [pair.node.infer(TASK, row[None]).id for row in x]
    with Node(pair.folder / "other", tasks=[TASK]) as other:
        other.install(TASK, pair.two.path)
        theirs, mine = (np.concatenate([node.predict(row)[None] for row in x]).argmax(1) for node in (pair.node, other))
    pair.node.predict(x[0])
    told = pair.told()
    assert told["digest"] == pair.two.digest and told["fault"] is None and told["latency_us"] > 0
    assert 30 <= told["rows"] <= 61 and told["disagreements"] >= int((theirs != mine).sum()) > 0
    for n, name in enumerate(ids):
        pair.node.feedback({"id": f"e{n}", "prediction_id": name, "kind": "correct", "label": LABELS[int(mine[n])]})
    labelled = pair.told()["labelled"]
    assert labelled == {"rows": 30, "wrong": 0, "champion_wrong": int((theirs != mine).sum()), "both_wrong": 0}
    pair.node.shadow(TASK, None)
    assert pair.node.status()["tasks"][TASK]["shadow"] is None


def test_a_confirmation_says_that_the_shadow_is_wrong_where_it_differs(pair: Pair) -> None:
    pair.node.shadow(TASK, pair.two.path, share=1.0)
    x = np.random.default_rng(6).standard_normal((20, 20), np.float32)
    ids = [pair.node.infer(TASK, row[None]).id for row in x]
    differ = pair.told()["disagreements"]
    for n, name in enumerate(ids):
        pair.node.feedback({"id": f"e{n}", "prediction_id": name, "kind": "confirm"})
    assert pair.told()["labelled"] == {"rows": 20, "wrong": differ, "champion_wrong": 0, "both_wrong": 0}


def test_when_many_come_it_takes_its_share_and_no_more(pair: Pair) -> None:
    pair.node.shadow(TASK, pair.two.path, share=0.2)
    x = np.random.default_rng(7).standard_normal((256, 20), np.float32)
    pair.node.predict(x)
    told = pair.told()
    assert told["rows"] <= 0.2 * 256 + 1 and told["rows"] + told["passed_over"] == 256


@pytest.mark.parametrize(
    ("fault", "said"),
    [({"wrong_probe": True}, "probe wrongly"), ({"latency_us": 0.001}, "the bound is"), ({"model": b"TFL3"}, "")],
)
def test_one_that_cannot_be_loaded_has_a_fault_and_the_champion_none(
    fault: dict[str, Any], said: str, pair: Pair
) -> None:
    bad = pair.beside(3, **fault)
    pair.node.shadow(TASK, bad.path)
    pair.node.predict(pair.one.x)
    told = pair.told()
    assert told["version"] == 3 and said in told["fault"] and told["rows"] == 0
    assert pair.node.shadow_digest(TASK) == bad.digest  # not tried at every look
    np.testing.assert_array_equal(pair.node.predict(pair.one.x), pair.one.y)
    assert pair.node.status()["tasks"][TASK]["failed"] == []


def test_other_readings_cannot_be_compared_and_other_classes_are_by_name(pair: Pair) -> None:
    pair.node.shadow(TASK, pair.beside(4, widths=(21, 4)).path)
    assert "other readings" in pair.told()["fault"]
    more = pair.beside(5, widths=(20, 5), labels=(*LABELS, "wave"))
    pair.node.shadow(TASK, more.path, share=1.0)
    pair.node.infer(TASK, pair.one.x[None])
    name = pair.node.infer(TASK, pair.one.x[None]).id
    assert pair.told()["rows"] == 2 and pair.told()["fault"] is None
    pair.node.feedback({"id": "e", "prediction_id": name, "kind": "new_class", "label": "wave"})
    champion, shadow = LABELS[int(pair.one.y.argmax())], (*LABELS, "wave")[int(more.y.argmax())]
    assert pair.told()["labelled"] == {
        "rows": 1, "wrong": int(shadow != "wave"), "champion_wrong": int(champion != "wave"),
        "both_wrong": int("wave" not in (champion, shadow)),
    }  # fmt: skip


def test_a_runtime_that_throws_ends_the_shadow_alone(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.node.shadow(TASK, pair.two.path, share=1.0)
    shadow = pair.node._tasks[TASK].shadow
    assert shadow is not None

    def broken(_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(shadow._model, "predict", broken)
    for _ in range(3):
        np.testing.assert_array_equal(pair.node.predict(pair.one.x), pair.one.y)
    assert "out of luck" in pair.told()["fault"]


def test_one_that_killed_the_process_twice_is_not_loaded_again(pair: Pair) -> None:
    manifest: Manifest = pair.node.manifest(TASK)
    tries = pair.two.path.parent / "tries.json"
    for deaths in (0, 1):
        shadow = open_shadow(pair.two.path, manifest)
        assert shadow.fault is None
        assert json.loads(tries.read_text())["deaths"] == deaths + 1  # and here the process dies
    refused = open_shadow(pair.two.path, manifest)
    assert refused.fault is not None and "died 2 times" in refused.fault
    tries.write_text("nonsense")
    fine = open_shadow(pair.two.path, manifest)
    assert fine.fault is None
    fine.close()
    assert json.loads(tries.read_text())["deaths"] == 0


def test_a_swap_ends_the_comparison(pair: Pair) -> None:
    pair.node.shadow(TASK, pair.two.path)
    pair.node.install(TASK, pair.two.path)
    assert pair.node.status()["tasks"][TASK]["shadow"] is None
    np.testing.assert_array_equal(pair.node.predict(pair.two.x), pair.two.y)
