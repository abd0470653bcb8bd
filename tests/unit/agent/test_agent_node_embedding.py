"""Embeddings from a file's second output to the watch: in the order in which the card was built, and bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgehone.bundle.build import Wishes, build
from edgehone.testing import studies
from edgehone.testing.studies import readings, write_study
from edgehone_agent import Node
from edgehone_agent.bundle import open_bundle
from edgehone_agent.errors import InputError
from edgehone_agent.observer import MAX_BYTES, Feed
from edgehone_agent.wire.card import Card

TASK, SHAPE = "digits-like", (1, 8, 8)


def with_picture(shape: tuple[int, ...], kind: str, seed: int) -> nn.Module:
    """A network whose embedding is a picture (3, 4, 4): what its last layer flattens."""
    torch.manual_seed(seed)
    conv = nn.Conv2d(shape[0], 3, 3, stride=2, padding=1)
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()


@pytest.fixture(scope="module", params=["picture", "vector"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """A bundle from a study whose files have a second output, and its card."""
    folder = tmp_path_factory.mktemp("family")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "picture":
            patch.setattr(studies, "network", with_picture)
        study = write_study(folder, shape=SHAPE, embedding=True)
    content = build(study, "int8", folder, Wishes(latency_us=float("inf")), readings(SHAPE, 3_000))
    (folder / "1.bundle").write_bytes(content)
    with open_bundle(folder / "1.bundle") as opened:
        card = Card.from_bytes(opened.read(opened.manifest.part("card")))
    assert card.embedding_size == (48 if request.param == "picture" else 8)
    return folder / "1.bundle", card


def feed_of(node: Node) -> Feed:
    feed = node._live[TASK].feed
    assert feed is not None
    return feed


def test_what_is_like_validation_data_is_quiet(tmp_path: Path, bundle: tuple[Path, Card]) -> None:
    """Singles and batches, in process and by infer; the probe and the timing of the bundle came before."""
    with Node(tmp_path, tasks=[TASK]) as node:
        node.install(TASK, bundle[0])
        x = readings(SHAPE, 1_200, seed=9)
        for row in x[:200]:
            node.predict(row)
        for start in range(200, 1_200, 100):
            (node.predict if start < 600 else lambda rows: node.infer(TASK, rows))(x[start : start + 100])
            feed_of(node).drain()
        node.predict(x[:0])  # nothing asked, nothing seen
        feed_of(node).drain()
        watch = node.status()["tasks"][TASK]["watch"]
        assert watch["level"] <= 1  # level 1 may err once in a thousand rows
        assert watch == {"level": watch["level"], "dropped_rows": 0, "fault": None}
        assert node.evidence()[TASK]["rows"] == 1_200


def test_values_in_another_order_are_seen(
    tmp_path: Path, bundle: tuple[Path, Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the test above could not fail."""
    put = Feed.put

    def turned(self: Feed, x: np.ndarray, y: np.ndarray, embedding: np.ndarray, id: str | None) -> None:
        put(self, x, y, embedding.reshape(len(x), -1)[:, ::-1], id)

    monkeypatch.setattr(Feed, "put", turned)
    with Node(tmp_path, tasks=[TASK]) as node:
        node.install(TASK, bundle[0])
        x = readings(SHAPE, 1_200, seed=9)
        for start in range(0, 1_200, 100):
            node.predict(x[start : start + 100])
            feed_of(node).drain()
        assert node.status()["tasks"][TASK]["watch"]["level"] == 3


def test_a_refused_call_leaves_nothing_for_the_next(tmp_path: Path, bundle: tuple[Path, Card]) -> None:
    with Node(tmp_path, tasks=[TASK]) as node:
        node.install(TASK, bundle[0])
        model = node._live[TASK].lanes[0].model
        x = readings(SHAPE, 5, seed=9)
        run, calls = model.session.run, []

        def fails(fed: np.ndarray) -> np.ndarray:
            calls.append(fed)
            if len(calls) == 3:
                raise InputError("the file does not take this input")
            return run(fed)

        model.session.run = fails  # type: ignore[method-assign]
        for ask in (lambda: node.predict(x), lambda: node.infer(TASK, x)):
            calls.clear()
            with pytest.raises(InputError):
                ask()
        node.predict(x)
        feed_of(node).drain()
        assert feed_of(node).fault is None and node.evidence()[TASK]["rows"] == 5


def test_nothing_piles_up_where_nobody_watches(tmp_path: Path, bundle: tuple[Path, Card]) -> None:
    with Node(tmp_path, tasks=[TASK], watch=False) as node:
        node.install(TASK, bundle[0])
        model, x = node._live[TASK].lanes[0].model, readings(SHAPE, 2)
        for _ in range(3):
            node.predict(x[0])
            node.infer(TASK, x)
        assert model.take_embedding() is None


def test_embeddings_count_for_the_bytes_that_wait(tmp_path: Path, bundle: tuple[Path, Card]) -> None:
    with Node(tmp_path, tasks=[TASK]) as node:
        node.install(TASK, bundle[0])
        feed = feed_of(node)
        with feed._draining:  # the node's thread cannot look
            x, y = np.zeros((1, *SHAPE), np.float32), np.zeros((1, 4), np.float32)
            for _ in range(200):
                feed.put(x, y, np.zeros((1, 1 << 15), np.float32), None)  # 128 kB each
            waiting = sum(seen.nbytes for seen in feed._queue)
            assert waiting == feed._bytes and MAX_BYTES - (1 << 18) < waiting <= MAX_BYTES
            assert feed.dropped_rows == 200 - len(feed._queue)
            feed._queue[-1].x[...] = 7.0
            assert not x.any() and feed._queue[-1].embedding is not None
        feed.drain()
        assert (feed._bytes, feed._rows) == (0, 0)
