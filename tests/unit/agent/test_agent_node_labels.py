"""Labels that reach a node: from the answer over the capture and an export back to the risk of the right model."""

from __future__ import annotations

import http.client
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgehone.bundle.archive import Content, bundle_bytes
from edgehone.testing.bundles import LABELS, Made, write_bundle
from edgehone.testing.hosts import serving
from edgehone_agent import Node
from edgehone_agent.bundle import open_bundle
from edgehone_agent.capture import Capture
from edgehone_agent.errors import InputError

TASK = "gestures"
ACCURACY = {"value": 0.9, "n": 2_000, "unit": "accuracy", "kind": "measured"}


def with_accuracy(made: Made, figure: dict[str, Any] | None = ACCURACY) -> Made:
    """The bundle with a measured accuracy."""
    with open_bundle(made.path) as bundle:
        parts = [Content(p.path, p.role, bundle.read(p), p.runtime) for p in bundle.manifest.parts]
        manifest = replace(bundle.manifest, measured={"accuracy test": figure} if figure else {})
    made.path.write_bytes(bundle_bytes(manifest, parts))
    with open_bundle(made.path) as bundle:
        return replace(made, digest=bundle.digest)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, ...]:
    """Versions 1 to 3."""
    folder = tmp_path_factory.mktemp("bundles")
    return tuple(with_accuracy(write_bundle(folder / f"{n}.bundle", version=n)) for n in (1, 2, 3))


@contextmanager
def node_with_capture(folder: Path, max_bytes: int = 4_000_000, seed: int = 0) -> Iterator[tuple[Node, Capture]]:
    with (
        Capture(folder / "capture", key=b"k" * 32, max_bytes=max_bytes, max_age_s=1e6, seed=seed) as capture,
        Node(folder / "state", tasks=[TASK], capture=capture) as node,
    ):
        yield node, capture


def settle(node: Node, capture: Capture) -> None:
    node._live[TASK].feed.drain()  # type: ignore[union-attr]
    capture.flush()


def answers(node: Node, capture: Capture, rows: int, seed: int = 0) -> dict[str, int]:
    """Ask in batches of 100; the class of every answer by prediction id."""
    rng, found = np.random.default_rng(seed), {}
    for _ in range(rows // 100):
        answer = node.infer(TASK, rng.standard_normal((100, 20), np.float32))
        found |= {f"{answer.id}.{row}": int(c) for row, c in enumerate(answer.values.argmax(1))}
        settle(node, capture)
    return found


def exported(capture: Capture, folder: Path) -> list[dict[str, Any]]:
    """The samples of an export."""
    capture.export(folder)
    return [json.loads(t) for f in sorted((folder / "samples").glob("*.jsonl")) for t in f.read_text().splitlines()]


def uniform(capture: Capture, folder: Path) -> list[str]:
    """Ids of the uniform share, as a core finds them in an export."""
    return [line["id"] for line in exported(capture, folder) if "uniform" in line["shares"]]


def label(id: str, answered: int, /, is_wrong: bool, **more: Any) -> dict[str, Any]:
    """What a person says who looks at a sample that was drawn."""
    name = LABELS[(answered + 1) % len(LABELS)] if is_wrong else LABELS[answered]
    event = {"id": f"e-{id}", "prediction_id": id, "kind": "correct", "label": name, "share": "uniform"} | more
    return {field: value for field, value in event.items() if value is not None}


def send(take: Callable[[dict[str, Any]], None], events: list[dict[str, Any]]) -> None:
    with ThreadPoolExecutor(8) as pool:  # they are committed together
        list(pool.map(take, events))


def risk(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = node.status()["tasks"][TASK]["risk"]
    return found


@pytest.mark.slow  # it waits for the disk
def test_the_measured_error_is_quiet(tmp_path: Path, bundles: tuple[Made, ...]) -> None:
    """5,000 answers, and 20 times the labels of the uniform share of them; the bound allows T / A alarms."""
    with node_with_capture(tmp_path / "0") as (node, capture):
        node.install(TASK, bundles[0].path)
        classes = answers(node, capture, 5_000)
        drawn = uniform(capture, tmp_path / "out")
    assert 300 < len(drawn) < 800
    alarms = np.zeros(3)
    for seed in range(20):
        folder = tmp_path / str(seed + 1)
        shutil.copytree(tmp_path / "0", folder)
        wrong = np.random.default_rng(100 + seed).random(len(drawn)) < 0.1
        with node_with_capture(folder) as (node, _):
            send(node.feedback, [label(id, classes[id], bool(w)) for id, w in zip(drawn, wrong, strict=True)])
            assert risk(node)["drawn"] == {"rows": len(drawn), "wrong": int(wrong.sum())}
            alarms += node.evidence()[TASK]["risk"]["detector"]["alarms"]
    assert alarms[0] <= 20 * len(drawn) / 1e3 and alarms[1:].sum() == 0


def test_a_doubled_error_rings_over_http_and_a_restart_forgets_nothing(
    tmp_path: Path, bundles: tuple[Made, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with node_with_capture(tmp_path, max_bytes=16_000_000) as (node, capture):
        node.install(TASK, bundles[0].path)
        classes = answers(node, capture, 5_000)
        drawn = uniform(capture, tmp_path / "out")
        assert len(drawn) > 1_500
        wrong = np.random.default_rng(1).random(len(drawn)) < 0.2
        with serving(node) as (address,), caplog.at_level(logging.WARNING, "edgehone_agent.watch"):

            def ask(method: str, path: str, body: str | None = None) -> str:
                with closing(http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)) as line:
                    line.request(method, path, body)
                    response = line.getresponse()
                    assert response.status == 200
                    return response.read().decode()

            def post(event: dict[str, Any]) -> None:
                assert json.loads(ask("POST", f"/v2/models/{TASK}/feedback", json.dumps(event))) == {"accepted": True}

            rows = 0
            while risk(node)["level"] < 2 and rows < 1_500:
                some = slice(rows, rows + 50)
                send(post, [label(id, classes[id], bool(w)) for id, w in zip(drawn[some], wrong[some], strict=True)])
                rows += 50
            assert 50 < rows <= 900
            post(label(drawn[0], classes[drawn[0]], bool(wrong[0])))  # the same event again
            post(label(drawn[0], classes[drawn[0]], True, id="another"))
            assert risk(node)["drawn"]["rows"] == rows
            level, figures = risk(node)["level"], ask("GET", "/metrics")
        assert f'edgehone_labelled_rows{{rows="drawn",task="{TASK}"}} {rows}' in _sorted_labels(figures)
        assert level >= 2 and f'edgehone_risk_level{{task="{TASK}"}} {level}' in figures
        assert any("the errors are at level 2" in record.message for record in caplog.records)
        before = node.evidence()[TASK]["risk"]
        assert before["detector"]["rows"] == rows and before["baseline"]["figure"] == "accuracy test"
    with node_with_capture(tmp_path, max_bytes=16_000_000) as (node, capture):
        assert node.evidence()[TASK]["risk"] == before and risk(node)["level"] == level
        late = drawn[rows]
        node.feedback(label(late, classes[late], is_wrong=True))  # of an answer before the restart, exported since
        node.feedback(label(drawn[0], classes[drawn[0]], True, id="a third"))
        assert risk(node)["drawn"]["rows"] == rows + 1


def _sorted_labels(text: str) -> str:
    """The figures with the labels of each in order."""

    def put(line: str) -> str:
        name, brace, rest = line.partition("{")
        told, _, value = rest.partition("}")
        return f"{name}{{{','.join(sorted(told.split(',')))}}}{value}" if brace else line

    return "\n".join(map(put, text.splitlines()))


def test_what_people_send_by_themselves_is_told_apart(tmp_path: Path, bundles: tuple[Made, ...]) -> None:
    """While there is room every sample is in the uniform share: that alone says nothing of why it was labelled."""
    with node_with_capture(tmp_path, max_bytes=64_000_000) as (node, capture):
        node.install(TASK, bundles[0].path)
        classes = answers(node, capture, 400)
        send(node.feedback, [label(id, c, is_wrong=True, share=None) for id, c in classes.items()])
        found = risk(node)
        assert found["sent"] == {"rows": 400, "wrong": 400} and found["drawn"]["rows"] == 0 and found["level"] == 0


def test_who_claims_the_uniform_share_for_another_sample_is_not_believed(
    tmp_path: Path, bundles: tuple[Made, ...]
) -> None:
    with node_with_capture(tmp_path, max_bytes=1 << 20) as (node, capture):
        node.install(TASK, bundles[0].path)
        classes = answers(node, capture, 2_500)
        lines = exported(capture, tmp_path / "out")
        assert any("uniform" not in line["shares"] for line in lines)
        missing = [id for id in classes if id not in {line["id"] for line in lines}]
        others = [line["id"] for line in lines if "uniform" not in line["shares"]]
        others = [*others[:30], *missing[:30]]
        send(node.feedback, [label(id, classes[id], is_wrong=True) for id in others])
        found = risk(node)
        assert found["sent"]["rows"] == 60 and found["drawn"]["rows"] == 0 == found["unknown"]


def test_only_the_first_event_about_an_answer_counts(tmp_path: Path, bundles: tuple[Made, ...]) -> None:
    with node_with_capture(tmp_path) as (node, _):
        node.install(TASK, bundles[0].path)
        one, two, three, four = (node.infer(TASK, bundles[0].x[None]) for _ in range(4))
        said = int(one.values.argmax())
        event = label(one.id, said, is_wrong=True)
        for _ in range(3):
            node.feedback(event)  # at once: the answer need not have been looked at
        node.feedback(label(one.id, said, is_wrong=False, id="second"))
        assert risk(node)["drawn"] == {"rows": 1, "wrong": 1}
        for number, kind in enumerate(("ignore", "delete")):
            id = (two, three)[number].id
            node.feedback({"id": kind, "prediction_id": id, "kind": kind})
            node.feedback(label(id, said, is_wrong=True))
        assert risk(node)["drawn"] == {"rows": 1, "wrong": 1} and risk(node)["sent"]["rows"] == 0
        node.feedback(label("never given", 0, is_wrong=True))
        node.feedback(label(four.id, said, is_wrong=True, label="no such class"))
        assert (risk(node)["unknown"], risk(node)["unclear"]) == (1, 1)
        with pytest.raises(InputError):
            node.feedback(label(four.id, said, is_wrong=True))  # another event with an id that was taken
        with pytest.raises(InputError, match="share"):
            node.feedback(label(four.id, said, is_wrong=True, id="x", share="mine"))


def test_late_labels_find_their_model_or_none(tmp_path: Path, bundles: tuple[Made, ...]) -> None:
    with node_with_capture(tmp_path, max_bytes=64_000_000) as (node, capture):
        node.install(TASK, bundles[0].path)
        of_one = list(answers(node, capture, 100).items())
        node.feedback(label(*of_one[0], is_wrong=True))
        assert risk(node)["drawn"]["rows"] == 1
        node.install(TASK, bundles[1].path)
        assert risk(node)["drawn"]["rows"] == 0
        of_two = list(answers(node, capture, 100, seed=1).items())
        node.feedback(label(*of_one[1], is_wrong=True))
        node.feedback(label(*of_two[0], is_wrong=False))
        assert (risk(node)["drawn"], risk(node)["of_others"]) == ({"rows": 1, "wrong": 0}, 1)
        uniform(capture, tmp_path / "out")  # and once they have left, too
        node.feedback(label(*of_one[2], is_wrong=True))
        node.feedback(label(*of_two[1], is_wrong=True))
        assert (risk(node)["drawn"], risk(node)["of_others"]) == ({"rows": 2, "wrong": 1}, 2)
        node.roll_back(TASK)
        assert (risk(node)["drawn"]["rows"], risk(node)["of_others"]) == (0, 0)
        node.feedback(label(*of_two[2], is_wrong=True))
        node.feedback(label(*of_one[3], is_wrong=True))
        assert (risk(node)["drawn"], risk(node)["of_others"]) == ({"rows": 1, "wrong": 1}, 1)
        assert node.evidence()[TASK]["risk"]["bundle"] == bundles[0].digest


def test_a_rollback_starts_anew_also_after_a_restart(tmp_path: Path, bundles: tuple[Made, ...]) -> None:
    with node_with_capture(tmp_path) as (node, capture):
        node.install(TASK, bundles[0].path)
        node.feedback(label(*next(iter(answers(node, capture, 100).items())), is_wrong=True))
        node.install(TASK, bundles[1].path)
    with node_with_capture(tmp_path) as (node, capture):
        node.roll_back(TASK)
        assert risk(node)["drawn"]["rows"] == 0


def test_a_label_is_on_disk_soon_and_a_damaged_state_is_begun_anew(tmp_path: Path, bundles: tuple[Made, ...]) -> None:
    file = tmp_path / "state" / "watch" / f"{TASK}.labels"
    with node_with_capture(tmp_path) as (node, capture):
        node.install(TASK, bundles[0].path)
        id, said = next(iter(answers(node, capture, 100).items()))
        until = time.monotonic() + 10
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.02)
        empty = file.read_bytes()
        node.feedback(label(id, said, is_wrong=True))
        while file.read_bytes() == empty and time.monotonic() < until:
            time.sleep(0.02)
        assert file.read_bytes() != empty
    file.write_bytes(file.read_bytes()[:-1])
    with node_with_capture(tmp_path) as (node, capture):
        assert risk(node)["drawn"]["rows"] == 0


def test_without_a_measured_accuracy_labels_are_counted(tmp_path: Path) -> None:
    made = write_bundle(tmp_path / "plain.bundle", version=1)
    with node_with_capture(tmp_path) as (node, capture):
        node.install(TASK, made.path)
        id, said = next(iter(answers(node, capture, 100).items()))
        node.feedback(label(id, said, is_wrong=True))
        found = risk(node)
        assert found["level"] is None and "no measured accuracy" in found["why"]
        assert found["drawn"] == {"rows": 1, "wrong": 1}
        assert node.evidence()[TASK]["risk"]["detector"] is None
    with Node(tmp_path / "state") as node:
        assert node.status()["tasks"][TASK]["risk"] is None  # a node without a capture takes no labels
