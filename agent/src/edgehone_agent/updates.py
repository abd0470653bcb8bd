"""Keeping a node's models up to date: look at the registry, choose, bring, try, take over.

One look per task: check → fit → choose → delta when one starts from what we have, else the whole → apply → slots.

Rules:
- Metadata that is out of date, refused or unreachable stops updates and never service; the status says which.
- What failed here is not tried again; see `slot_rules`.
- The version floor rises when a bundle has taken over, not before.
- The folder downloads/ holds what is being brought and nothing else, so a cut costs what had not arrived.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone_agent import durable
from edgehone_agent.errors import EdgehoneError, HostError, InputError, StateError, UnfitError
from edgehone_agent.slot_rules import SlotState

if TYPE_CHECKING:
    from edgehone_agent.fit import NodeFacts
    from edgehone_agent.node import Node
    from edgehone_agent.verify import Delta, Release, Verifier

log = logging.getLogger("edgehone_agent.updates")

_JITTER = 0.2
_MOST_POLLS = 4.0  # the longest wait after failures, in polls
_SOON_S = 5.0


@dataclass(frozen=True)
class Plan:
    """What to do about one task: take `release`, by way of `delta` where there is one; or nothing, and why."""

    release: Release | None
    delta: Delta | None
    why: str


def plan_update(releases: Iterable[Release], state: SlotState, facts: NodeFacts) -> Plan:
    """What a task should take of what the registry offers. Pure.

    Args:
        releases: newest version first, in a version by rank.
        state: of the task's slots.
        facts: what this node is.

    Raises:
        UnfitError: nothing of the newest version suits this node.
    """
    from edgehone_agent.fit import choose

    offered = tuple(releases)
    left = [release for release in offered if state.failure(release.sha256, release.version) is None]
    if not left:
        return Plan(None, None, "everything that is offered failed here before" if offered else "nothing is offered")
    release, current = choose(left, facts), state.current
    if current is None:
        return Plan(release, None, f"take version {release.version}")
    if release.sha256 == current.digest:
        return Plan(None, None, "up to date")
    if release.version < current.version:
        return Plan(None, None, f"what is offered is older than version {current.version}")
    deltas = (delta for delta in release.deltas if delta.from_sha256 == current.digest)
    delta = next((delta for delta in deltas if delta.size_bytes < release.size_bytes), None)
    return Plan(release, delta, f"take version {release.version}")


def wait_s(poll_s: float, failures: int, rng: random.Random) -> float:
    """Seconds to the next look: about `poll_s`, twice as long after each failure, at most four times.

    The share that is random keeps a fleet from asking all at once.

    Args:
        poll_s: the mean when all is well.
        failures: looks in a row that could not reach the registry.
        rng: for the jitter.
    """
    mean_s = poll_s * min(2.0**failures, _MOST_POLLS) if failures < 8 else poll_s * _MOST_POLLS
    return mean_s * rng.uniform(1 - _JITTER, 1 + _JITTER)


def first_wait_s(poll_s: float, is_ready: bool, rng: random.Random) -> float:
    """Seconds from the start to the first look: none when the node has nothing to serve, else a random few."""
    return rng.uniform(0, min(poll_s, _SOON_S)) if is_ready else 0.0


class Updates:
    """The updates of a node. `look` runs on one thread at a time.

    Args:
        node: whose tasks.
        verifier: the trust in the registry; made anew while it cannot be, hence a function.
        facts: what this node is, asked at every look.
        stopping: whether to leave off; asked between the pieces of a download.
    """

    def __init__(
        self,
        node: Node,
        verifier: Callable[[], Verifier],
        *,
        facts: Callable[[], NodeFacts],
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._node = node
        self._make_verifier = verifier
        self._verifier: Verifier | None = None
        self._facts, self._stopping = facts, stopping
        self._downloads = node.state / "downloads"
        self.failures = 0

    def look(self) -> dict[str, Any]:
        """Look at the registry for every task and act on it; what came of it, by task. Raises nothing of ours."""
        found: dict[str, Any] = {}
        reached = True
        for task in self._node.tasks():
            if self._stopping():
                break
            told: dict[str, Any] = {"flags": []}
            try:
                self._node.reload(task)
                told["did"] = self._update(task, told)
            except _Stopped:
                break
            except (EdgehoneError, OSError) as found_error:
                error = _named(found_error, self._node.state)
                told |= {"error": str(error), "code": error.code}
                reached = reached and not isinstance(error, HostError)
                log.warning("%s: %s", task, error.what, extra={"task": task, "code": error.code, "where": error.where})
            found[task] = told
        self.failures = 0 if reached else self.failures + 1
        return found

    def _update(self, task: str, told: dict[str, Any]) -> str:
        if self._verifier is None:
            self._verifier = self._make_verifier()
        checked = self._verifier.check(task)
        told["flags"] = [{"name": flag.name, "text": flag.text} for flag in checked.flags]
        for flag in checked.flags:
            log.warning("%s: %s", task, flag.text, extra={"task": task, "flag": flag.name})
        if not checked.fresh:
            return "nothing: the registry's metadata is out of date"
        slots = self._node.slots(task)
        plan = plan_update(checked.releases, slots.state, self._facts())
        if plan.release is None:
            return plan.why
        self._node.claim()
        release = plan.release
        bundle = self._bring(task, release, plan.delta)
        before = None if slots.state.current is None else slots.state.current.version
        try:
            self._node.install(task, bundle)
        except InputError:
            bundle.unlink(missing_ok=True)  # it is remembered; a full disk or no memory keeps it for the next look
            raise
        bundle.unlink(missing_ok=True)
        log.info(
            "%s: version %s answers", task, release.version,
            extra={"task": task, "version": release.version, "member": release.member, "before": before},
        )  # fmt: skip
        self._verifier.raise_floor(task, release.version)
        return f"took version {release.version}"

    def _bring(self, task: str, release: Release, delta: Delta | None) -> Path:
        """The release's bundle file, verified."""
        bundle = self._downloads / f"{release.sha256}.bundle"
        wanted = {release.sha256} | ({delta.sha256} if delta is not None else set())
        try:
            self._downloads.mkdir(parents=True, exist_ok=True)
            for file in self._downloads.iterdir():
                if file.name.split(".")[0] not in wanted:
                    file.unlink()
        except OSError as error:
            raise durable.state_error(error, self._downloads) from error
        if delta is not None and not bundle.exists() and self._by_delta(task, release, delta, bundle):
            return bundle
        self._download(release, bundle)
        return bundle

    def _by_delta(self, task: str, release: Release, delta: Delta, bundle: Path) -> bool:
        from edgehone_agent.delta import apply_delta

        old = self._node.slots(task).bundle_file()
        file = self._downloads / f"{delta.sha256}.delta"
        if old is None:
            return False
        try:
            self._download(delta, file)
            apply_delta(old, file, bundle, release.sha256)
        except StateError:
            raise
        except EdgehoneError as error:  # the whole file is as good, only larger
            log.warning("%s: the delta is of no use: %s", task, error.what, extra={"task": task, "code": error.code})
            return False
        finally:
            file.unlink(missing_ok=True)
        return True

    def _download(self, item: Release | Delta, to: Path) -> None:
        if self._verifier is None:
            raise UnfitError("no registry has been looked at")

        if to.exists() and _digest(to) == item.sha256:  # it was all here when the process died
            return

        def progress(*_: int) -> None:
            if self._stopping():
                raise _Stopped

        self._verifier.download(item, to, progress)


def _named(error: EdgehoneError | OSError, state: Path) -> EdgehoneError:
    return error if isinstance(error, EdgehoneError) else durable.state_error(error, state)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class _Stopped(Exception):  # noqa: N818  # no error: the agent ends
    """Leave off a download; what has arrived is kept."""
