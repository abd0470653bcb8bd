"""What a node holds of each task: the sessions that answer, what changes their answers here, and the counts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from edgehone_agent.fast import FastModel
from edgehone_agent.loading import Loaded
from edgehone_agent.model import Array
from edgehone_agent.observer import Feed
from edgehone_agent.slots import Slots

if TYPE_CHECKING:
    from edgehone_agent.learn import Kind
    from edgehone_agent.learn.kept import Change
    from edgehone_agent.learn.learner import Learner
    from edgehone_agent.uplink.shadow import Shadow


class Lane:
    """One session and its lock."""

    __slots__ = ("answered", "is_open", "lock", "model")

    def __init__(self, model: FastModel) -> None:
        self.lock = threading.Lock()
        self.model = model
        self.is_open = True
        self.answered = 0


class Live:
    """A loaded bundle that answers."""

    def __init__(self, loaded: Loaded, feed: Feed | None) -> None:
        self.loaded = loaded
        self.feed = feed
        self.change: Change | None = None  # learnt here; None for the signed model alone
        self.lanes = tuple(Lane(model) for model in loaded.models)
        for lane in self.lanes:
            lane.model.take_embedding()  # of the probe, which nobody watches

    def take(self) -> Lane:
        """A lane whose lock the caller holds from now on: a free one, else the one this thread waits for."""
        for lane in self.lanes:
            if lane.lock.acquire(blocking=False):
                return lane
        lane = self.lanes[threading.get_ident() // 4096 % len(self.lanes)]
        lane.lock.acquire()
        return lane

    def ask(self, x: Array) -> tuple[Array, Array | None] | None:
        """The signed model's answer to one reading, and its embedding; None when it answers no more."""
        lane = self.take()
        try:
            if not lane.is_open:
                return None
            return lane.model.predict(x), lane.model.take_embedding()
        finally:
            lane.lock.release()

    def retire(self) -> None:
        """Free each session after the call that runs in it. Whoever comes later looks for another model."""
        for lane in self.lanes:
            with lane.lock:
                lane.is_open = False
                lane.model.close()

    @property
    def answered(self) -> int:
        """Calls that were answered."""
        return sum(lane.answered for lane in self.lanes)


class Task:
    """One task of a node: its slots, what answers now, and its counts."""

    def __init__(self, name: str, slots: Slots) -> None:
        self.name = name
        self.slots = slots
        self.live: Live | None = None
        self.fault: str | None = None
        self.since_s = 0.0  # monotonic, of the last swap or start
        self.swaps = self.roll_backs = 0
        self.answered_before = 0  # by models that are gone
        self.infer_count, self.infer_seconds = 0, 0.0
        self.lock = threading.Lock()  # one change of the slots at a time
        self.shadow: Shadow | None = None
        self.context: str | None = None  # whose drift reference is watched with
        self.is_told = False  # what to learn, by whoever may say so
        self.learn: Kind | None = None
        self.label_error: float | None = None
        self.learner: Learner | None = None
