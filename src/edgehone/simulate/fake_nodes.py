"""A node without a process: the agent's own watch, labels and shadow, and a model that it shares with the others.

    node = FakeNode(3, "node-3", "south", task, models, seed=0, clock=clock)
    y = node.see(block, row)                    # readings are answered and watched
    answer = core's answer to node.beat(now_s)
    node.hear(answer)                           # it takes what it is told to take

What it does not have: a socket, a disk, a registry client, trials with a way back after a crash, and learning.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgehone.simulate.fake_models import Models
from edgehone.simulate.streams import Block
from edgehone_agent.errors import EdgehoneError
from edgehone_agent.feedback import UNIFORM_SHARE, Told
from edgehone_agent.fit import NodeFacts
from edgehone_agent.loading import Loaded, read_card
from edgehone_agent.observer import Feed, row_ids
from edgehone_agent.uplink.beat import task_status
from edgehone_agent.uplink.shadow import Shadow
from edgehone_agent.watch import Labels, Watcher
from edgehone_agent.wire.uplink import Desired, Evidence, Heartbeat, HeartbeatAnswer, SampleLine

Array = NDArray[np.float32]
_SLOWEST = 1.5  # times the latency of the study


@dataclass(frozen=True)
class Kept:
    """A reading that is sent up: the line, the row, the true class, and what the node knows when a label comes."""

    line: SampleLine
    row: int
    truth: int
    told: Told


@dataclass
class _Live:
    """What answers."""

    version: int
    member: str
    loaded: Loaded
    feed: Feed


class FakeNode:
    """One node.

    Args:
        number: from 0; its id is that number.
        name, cohort, task: for people and for the core.
        facts: what it says it is.
        models: of all nodes.
        share: of its readings that it sends up.
        seed: of the watch's coin, of the share, and of how fast it is.
        clock: seconds since 1970.
    """

    def __init__(
        self, number: int, name: str, cohort: str, task: str, facts: NodeFacts, models: Models, *, share: float,
        seed: int, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.number, self.name, self.cohort, self.task = number, name, cohort, task
        self.id = f"{number:08d}"
        self.kept: list[Kept] = []
        self.swaps = self.roll_backs = self.predictions = 0
        self.fault: str | None = None
        self._facts, self._models, self._share, self._seed, self._clock = facts, models, share, seed, clock
        self._speed = float(np.random.default_rng([seed, number]).uniform(1.0, _SLOWEST))
        self._live: _Live | None = None
        self._before: _Live | None = None
        self._shadow: tuple[int, Shadow] | None = None
        self._context = ""
        self._nonce: str | None = None
        self._floor = 0

    @property
    def version(self) -> int | None:
        """Of the release that answers; None before one does."""
        return None if self._live is None else self._live.version

    @property
    def level(self) -> int:
        """Of its watch or its labels, whichever is higher."""
        feed = None if self._live is None else self._live.feed
        return 0 if feed is None else max(feed.level, 0 if feed.labels is None else feed.labels.level)

    @property
    def latency_us(self) -> float:
        """Of one answer; 0 before there is a model."""
        live = self._live
        return 0.0 if live is None else (self._models.latency_us(live.version, live.member) or 0.0) * self._speed

    def see(self, block: Block, row: int) -> Array | None:
        """Answer readings, (N, *output shape), and look at them; None before there is a model.

        Args:
            block: readings that follow one another.
            row: of the first.
        """
        live = self._live
        if live is None:
            return None
        y, embedding = self._models.get(live.version, live.member).answers(block)
        name = f"n{self.number}-{row}"
        live.feed.put(block.x, y, embedding, name)
        live.feed.drain()
        self.predictions += len(block)
        self._keep(block, y, row, row_ids(name, len(block)), live.loaded.digest)
        return y

    def judge(self, event: Mapping[str, Any], told: Told) -> None:
        """Take in a label, see `Feed.judge`."""
        if self._live is not None:
            self._live.feed.judge(event, told)

    def status(self) -> dict[str, Any]:
        """What it says of its task, as `edgehone_agent.node.Node.status` does."""
        found: dict[str, Any] = {
            "ready": self._live is not None, "fault": self.fault, "trial": None, "failed": [], "swaps": self.swaps,
            "roll_backs": self.roll_backs, "predictions": self.predictions,
        }  # fmt: skip
        live = self._live
        if live is None:
            return found
        return found | {
            "version": live.version, "member": live.member, "digest": live.loaded.digest,
            "latency_us": self.latency_us or None, "watch": {"level": live.feed.level}, "risk": live.feed.risk(),
            "shadow": None if self._shadow is None else self._shadow[1].status(),
        }  # fmt: skip

    def beat(self, now_s: float) -> Heartbeat:
        """A heartbeat."""
        facts = {
            "machine": self._facts.machine, "runtimes": list(self._facts.runtimes),
            "memory_bytes": self._facts.memory_bytes,
        }  # fmt: skip
        floors = {self.task: self._floor} if self._floor else {}
        tasks = {self.task: task_status(self.status())}
        return Heartbeat(self._nonce, now_s, self._facts.agent, facts, floors, tasks)

    def hear(self, answer: HeartbeatAnswer) -> None:
        """Do what the core says: serve, go back, begin a shadow or end it. Raises EdgehoneError."""
        self._nonce = answer.nonce
        policy = answer.policy.get(self.task, {})
        self._context = str(policy.get("context") or "")
        wish = answer.desired.get(self.task)
        if wish is not None:
            self._serve(wish)
            self._accompany(wish)
        error = policy.get("label_error")
        if self._live is not None and isinstance(error, int | float):
            self._live.feed.set_label_error(float(error))

    def evidence(self) -> Evidence | None:
        """What its watch and its labels know; None before there is a model."""
        content = None if self._live is None else self._live.feed.evidence()
        return None if content is None or self._live is None else Evidence(self.task, self._live.loaded.digest, content)

    def close(self) -> None:
        """End its shadow; the models are not its own."""
        if self._shadow is not None:
            self._shadow[1].close()

    def _serve(self, wish: Desired) -> None:
        live, before = self._live, self._before
        if wish.version is None or not wish.members or (live is not None and live.version == wish.version):
            return
        if before is not None and before.version == wish.version:
            self._live, self._before, self.roll_backs = before, live, self.roll_backs + 1
        else:
            self._live, self._before = self._load(wish.version, wish.members[0]), live
        self._floor = max(self._floor, wish.version)
        self.swaps += live is not None

    def _load(self, version: int, member: str) -> _Live:
        loaded = self._models.get(version, member).loaded
        card = read_card(loaded, self._context) if self._context else loaded.card
        watcher = None if card is None else Watcher(card, seed=(self._seed << 32) + (version << 20) + self.number)
        labels = Labels(loaded.manifest, loaded.digest)
        feed = Feed(
            loaded.manifest, loaded.digest, watcher=watcher, card=card, capture=None, new_id=lambda: "", labels=labels
        )
        return _Live(version, member, loaded, feed)

    def _accompany(self, wish: Desired) -> None:
        """Begin or end a shadow."""
        live, shadow = self._live, self._shadow
        wanted = None if live is None or wish.shadow == live.version else wish.shadow
        if shadow is not None and shadow[0] == wanted and (live is None or live.feed.shadow is shadow[1]):
            return
        if shadow is not None:
            shadow[1].close()
            self._shadow = None
        if live is None:
            return
        live.feed.shadow = None
        if wanted is None or not wish.members:
            return
        try:
            loaded = self._models.load(wanted, wish.members[0])
        except EdgehoneError as error:
            self.fault = error.what
            return
        latency_us = self._models.latency_us(wanted, wish.members[0])
        opened = Shadow(
            loaded.digest, loaded.manifest, live.loaded.manifest, loaded.models[0],
            latency_us=None if latency_us is None else latency_us * self._speed, clock=self._clock,
        )  # fmt: skip
        live.feed.shadow, self._shadow = opened, (wanted, opened)

    def _keep(self, block: Block, y: Array, row: int, ids: list[str], digest: str) -> None:
        """Keep a uniform share of the readings, to be sent up."""
        drawn = np.random.default_rng([self._seed, self.number, row, 1]).random(len(block)) < self._share
        classes = y.reshape(len(y), -1).argmax(1)
        for place in np.flatnonzero(drawn):
            stratum = str(int(classes[place]))
            line = SampleLine(
                id=ids[place], task=self.task, digest=digest, time_s=self._clock(), share=UNIFORM_SHARE,
                propensity=self._share, informativeness=0.0, stratum=stratum,
                answer=tuple(map(float, y[place].reshape(-1))), x=_text(block.x[place]),
            )  # fmt: skip
            told = Told(True, True, self.task, digest, stratum, None, is_drawn=True)
            self.kept.append(Kept(line, row + int(place), int(block.y[place]), told))


def _text(x: Array) -> str:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(x), version=(1, 0), allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()
