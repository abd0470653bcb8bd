"""The link of a running node to its core: heartbeats on one thread, the wake-up stream on another.

    link = Uplink(identity, node, capture, facts=describe_node, changed=look_at_the_registry)
    link.start()
    link.wanted("digits")        # what the core wants, also while it cannot be reached
    link.stop()

Rules:
- Each round: renew the certificate when two thirds of its life are over → heartbeat → remember the answer → tell
  whoever updates what changed → send up what is wanted. What fails is told in `status`, tried again later, and disturbs
  nothing.
- A round comes early when the core says "look", and when something happened that it should hear of: another model
  answers, a level of the watch moved, a bundle failed.
- A core that is away costs nothing but a try now and then; the node goes on with what it was told last, for ever.
- Whatever a round or the stream runs into, a defect included, is logged and never the last round.
"""

from __future__ import annotations

import logging
import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgehone_agent._floors import FloorStore
from edgehone_agent.errors import BusyError, EdgehoneError, StateError
from edgehone_agent.uplink.beat import compose, news, next_wait_s
from edgehone_agent.uplink.client import CoreClient, trusting
from edgehone_agent.uplink.desired import Mind, hear, learning_of, load_mind, save_mind, told
from edgehone_agent.uplink.enrol import renew
from edgehone_agent.uplink.identity import Identity, is_renewal_due, life
from edgehone_agent.uplink.upload import Uploads
from edgehone_agent.wire.uplink import HeartbeatAnswer, read, write

if TYPE_CHECKING:
    from edgehone_agent.capture import Capture
    from edgehone_agent.fit import NodeFacts
    from edgehone_agent.learn import Kind
    from edgehone_agent.node import Node
    from edgehone_agent.wire.uplink import Desired

_TICK_S = 1.0
_LEAST_GAP_S = 2.0  # between two heartbeats, whatever happens
_SKEW_S = 300.0  # of the two clocks, before it is told
_SPREAD = 1 / 30  # of the interval: over how long woken nodes come
_MOST_SPREAD_S = 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0  # of the stream after failures
_STOP_S = 5.0
_LOG_EVERY = 20  # failures in a row

log = logging.getLogger("edgehone_agent.uplink")


class Uplink:
    """One node's link to its core.

    Args:
        identity: of the node.
        node: that serves.
        capture: what it keeps; None when it keeps nothing.
        facts: what the node is, asked at every heartbeat.
        changed: called when the core wants something else; from this link's thread.
        renewed: called when the node has another certificate.
        sends_samples: whether readings may leave the node.
        tasks: that the node's settings name.
        takes_any_task: serve what the core names besides those tasks and those of the enrolment. Where neither names
            one, any is served in any case.
        learn, label_error: what the node's settings say of learning; the core's word counts over theirs.
        rng: for jitter.
        clock: Unix time.
    """

    def __init__(
        self,
        identity: Identity,
        node: Node,
        capture: Capture | None,
        *,
        facts: Callable[[], NodeFacts],
        changed: Callable[[], None] = lambda: None,
        renewed: Callable[[], None] = lambda: None,
        sends_samples: bool = True,
        tasks: Sequence[str] = (),
        takes_any_task: bool = False,
        learn: Kind | None = None,
        label_error: float = 0.0,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.identity = identity
        self.mind: Mind = load_mind(identity.mind_file)
        self._node, self._capture, self._facts = node, capture, facts
        self._changed, self._renewed, self._sends_samples = changed, renewed, sends_samples
        named = {*tasks, *identity.tasks}
        self._named = None if takes_any_task or not named else named | set(node.tasks())
        self._learn, self._label_error = learn, label_error
        self._rng, self._clock = rng or random.Random(), clock
        self._behind_s = 0.0  # this clock, compared with the core's
        self._stop, self._look = threading.Event(), threading.Event()
        self._client: CoreClient | None = None
        self._listener: CoreClient | None = None
        self._uploads: Uploads | None = None
        self._failures = 0
        self._flags: dict[str, str] = {}
        self._levels: dict[str, int] = {}
        self._status: dict[str, Any] = {"heard_s": None, "error": None, "upload_error": None, "is_listening": False}
        self._threads = [
            threading.Thread(target=self._keep_beating, name="edgehone-uplink", daemon=True),
            threading.Thread(target=self._keep_listening, name="edgehone-wake", daemon=True),
        ]
        self._take_up()

    def start(self) -> None:
        """Begin; returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End within a few seconds, whatever the core does."""
        self._stop.set()
        self._look.set()
        until = time.monotonic() + _STOP_S
        for thread in self._threads:
            while thread.is_alive() and time.monotonic() < until:
                for client in (self._client, self._listener):
                    if client is not None:
                        client.interrupt()
                thread.join(0.1)
        if self._client is not None and not self._threads[0].is_alive():
            self._client.close()

    def wake(self) -> None:
        """Have a round soon. Any thread, any number of times."""
        self._look.set()

    def wanted(self, task: str) -> Desired | None:
        """What the core wants of a task; None while it has not said."""
        return self.mind.desired.get(task)

    def status(self) -> dict[str, Any]:
        """How the link is, JSON-able."""
        mind, uploads = self.mind, self._uploads
        return {
            "address": self.identity.core, "node": self.identity.node, "name": self.identity.name,
            "node_state": None if mind.answer is None else mind.answer.node_state, "interval_s": mind.interval_s,
            **self._status, "failures": self._failures, "flags": sorted(self._flags), "desired": told(mind),
            "uploads": None if uploads is None else dict(uploads.counts.__dict__),
        }  # fmt: skip

    # --- heartbeats

    def _keep_beating(self) -> None:
        wait_s = self._rng.uniform(0, min(_LEAST_GAP_S, self.mind.interval_s / 10))
        while not self._stop.is_set():
            self._pause(wait_s)
            if self._stop.is_set():
                break
            wait_s = self._try_round()
        if self._client is not None:
            self._client.close()

    def _try_round(self) -> float:
        """One round, and how long to wait after it."""
        least_s = 0.0
        try:
            self._round()
            if self._failures:
                log.info("the core answers again after %d failures", self._failures)
            self._failures = 0
            self._status |= {"error": None, "code": None}
        except EdgehoneError as error:
            self._failed(str(error), error.code)
            least_s = error.retry_after_s if isinstance(error, BusyError) else 0.0
        except Exception as error:  # a defect of ours must not keep the node from the next round
            log.exception("a defect in the link to the core")
            self._failed(f"a defect of edgehone: {error!r}", "EH000")
        return max(least_s, next_wait_s(self.mind.interval_s, self._failures, self._rng))

    def _failed(self, text: str, code: str) -> None:
        if self._stop.is_set():
            return
        if self._failures % _LOG_EVERY == 0 or self._status["error"] != text:
            log.warning("the core: %s", text.partition("\n")[0], extra={"code": code})
        self._failures += 1
        self._status |= {"error": text, "code": code}

    def _pause(self, wait_s: float) -> None:
        """Wait so long, or until the core or the node has something to say."""
        started_s = time.monotonic()
        until_s, before = started_s + wait_s, news(self._node.status())
        while not self._stop.is_set():
            now_s = time.monotonic()
            if now_s >= until_s:
                return
            if self._look.wait(min(_TICK_S, until_s - now_s)):
                self._look.clear()
                spread_s = min(_MOST_SPREAD_S, self.mind.interval_s * _SPREAD)
                until_s = min(until_s, max(now_s + self._rng.uniform(0, spread_s), started_s + self._gap_s))
            elif self._failures == 0 and news(self._node.status()) != before:
                until_s = min(until_s, max(now_s, started_s + self._gap_s))

    @property
    def _gap_s(self) -> float:
        return min(_LEAST_GAP_S, self.mind.interval_s / 2)

    def _round(self) -> None:
        client = self._open()
        self._keep_certificate(client)
        status = self._node.status()
        now_s = self._clock()
        beat = compose(
            status, nonce=self.mind.nonce, now_s=now_s, facts=self._facts(), floors=self._floors(),
            disk_free_bytes=self._free_bytes(), flags=tuple(self._flags),
        )  # fmt: skip
        answer = read(HeartbeatAnswer, client.post("heartbeat", write(beat)))
        self._behind_s = answer.time_s - self._clock()
        self._flag("clock_off", abs(self._behind_s) > _SKEW_S, "this clock and the core's differ")
        self._take_in(answer)
        self._status["heard_s"] = self._clock()
        self._send_up(client, status)

    def _take_in(self, answer: HeartbeatAnswer) -> None:
        heard = hear(self.mind, answer)
        self.mind = heard.mind
        for name in ("old_answer", "core_set_back"):
            self._flag(name, name in heard.flags, "the core counts lower than before")
        try:
            save_mind(self.identity.mind_file, heard.mind)
            self._flag("mind_not_writable", False)
        except StateError as error:
            self._flag("mind_not_writable", True, str(error))
        self._take_up()
        if heard.changed:
            log.info("the core wants something else of %s", ", ".join(heard.changed))
            self._changed()

    def _take_up(self) -> None:
        """Serve the tasks that the core names, each with the drift reference of its context."""
        passed_over = [task for task in self.mind.desired if self._named is not None and task not in self._named]
        self._flag("task_not_named", bool(passed_over), f"the core names {', '.join(passed_over)}: see core.tasks")
        for task in (*self.identity.tasks, *self.mind.desired):
            if task not in passed_over:
                self._node.add_task(task)
        is_sick = self.mind.answer is not None and self.mind.answer.node_state == "quarantined"
        for task in self._node.tasks():
            policy = self.mind.policy.get(task, {})
            context = policy.get("context")
            if isinstance(context, str):
                self._node.set_context(task, context)
            learn, label_error = learning_of(policy, self._learn, self._label_error)
            self._node.set_policy(task, learn=None if is_sick else learn, label_error=label_error)

    def _open(self) -> CoreClient:
        if self._client is None:
            self._client = CoreClient(self.identity.core, trusting(self.identity))
            self._uploads = Uploads(self._client, self._capture)
        return self._client

    def _keep_certificate(self, client: CoreClient) -> None:
        """Renew it when it is time. A core that cannot do so now is asked again in the next round."""
        held = life(self.identity.certificate_file)
        now_s = self._clock() + self._behind_s  # the core's clock says when a certificate ends
        self._status["certificate_days"] = round((held[1] - now_s) / 86_400, 2)
        self._flag("certificate_expired", now_s >= held[1], "the certificate has run out")
        if not (is_renewal_due(held, now_s) or client.turned_away):
            return
        try:
            if not renew(self.identity, client, now_s=now_s):
                return
        except EdgehoneError as error:
            log.warning("the certificate cannot be renewed: %s", error.what)
            return
        log.info("the certificate is renewed")
        self._flag("certificate_expired", False)
        self._renewed()

    # --- what goes up

    def _send_up(self, client: CoreClient, status: Mapping[str, Any]) -> None:
        """What the core wants, and what it should have. Nothing of this makes a round a failure."""
        uploads = self._uploads or Uploads(client, self._capture)
        try:
            self._send_evidence(uploads, status)
            uploads.send_feedback()
            most = max((wants.samples for wants in self.mind.wants.values()), default=0)
            if self._sends_samples and most:
                uploads.send_samples(most)
            self._status["upload_error"] = None
        except EdgehoneError as error:
            if self._status["upload_error"] != str(error):
                log.warning("not everything could be sent up: %s", error.what, extra={"code": error.code})
            self._status["upload_error"] = str(error)

    def _send_evidence(self, uploads: Uploads, status: Mapping[str, Any]) -> None:
        found: dict[str, Any] | None = None
        for task, one in status["tasks"].items():
            level = max((one.get("watch") or {}).get("level") or 0, (one.get("risk") or {}).get("level") or 0)
            wants = self.mind.wants.get(task)
            rises = level > self._levels.get(task, 0)
            if one.get("digest") is None or not (rises or (wants is not None and wants.evidence)):
                self._levels[task] = min(level, self._levels.get(task, 0))
                continue
            found = self._node.evidence() if found is None else found
            if task in found and uploads.send_evidence(task, one["digest"], found[task]):
                self._levels[task] = level

    # --- the stream

    def _keep_listening(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stop.is_set():
            try:
                self._listener = CoreClient(self.identity.core, trusting(self.identity))
                for line in self._listener.lines():
                    self._status["is_listening"] = True
                    pause_s = _FIRST_PAUSE_S
                    if self._stop.is_set():
                        break
                    if line.strip() == b"event: look":
                        self.wake()
            except EdgehoneError as error:
                log.debug("the stream of the core: %s", error.what)
            except Exception:  # as for the rounds
                log.exception("a defect in the stream of the core")
            self._status["is_listening"] = False
            self._stop.wait(pause_s * self._rng.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    # --- what else a heartbeat tells

    def _flag(self, name: str, is_on: bool, text: str = "") -> None:
        if is_on and name not in self._flags:
            log.warning("%s", text, extra={"flag": name})
            self._flags[name] = text
        elif not is_on:
            self._flags.pop(name, None)

    def _floors(self) -> dict[str, int]:
        try:
            return {task: mark.version for task, mark in FloorStore(self._node.state).load()[0].tasks.items()}
        except StateError:
            return {}

    def _free_bytes(self) -> int | None:
        try:
            return shutil.disk_usage(self._node.state).free
        except OSError:
            return None
