"""Keeping a node's models up to date: look at the registry, choose, bring, try, take over.

One look per task: check → fit → choose → delta when one starts from what we have, else the whole → apply → slots.

Rules:
- Metadata that is out of date, refused or unreachable stops updates and never service; the status says which.
- What failed here is not tried again; see `slot_rules`.
- The version floor rises when a bundle has taken over, not before.
- Nothing older than what serves is taken, and nothing below the newest that ever served, whoever signed it. Going back
  is for a person, `edgehone-agent rollback`, and for the core, which both only reach the node's own last good bundle.
- With a core, it says which version and which members, among what the registry signed, see `wanted`; without one the
  newest is taken.
- One exception, for a stolen key that released version 9,000,000 must not stop updates for ever: a person has replaced
  the key, and the new one does not know of any release as high as the one that serves. Then that one was the thief's.
  It is disowned: what the new key offers may take its place, and the node does not go back to it.
- The folder downloads/TASK holds what is being brought for a task and nothing else, so a cut costs what had not
  arrived. Only who holds the node's lock touches it.
- A look at one task raises only what is a defect; the caller goes on with the other tasks and looks again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgehone_agent import durable
from edgehone_agent.errors import EdgehoneError, HostError, InputError, StateError, UnfitError
from edgehone_agent.slot_rules import SlotState

if TYPE_CHECKING:
    from edgehone_agent.fit import NodeFacts
    from edgehone_agent.node import Node
    from edgehone_agent.verify import Checked, Delta, Release, Verifier
    from edgehone_agent.wire.uplink import Desired

log = logging.getLogger("edgehone_agent.updates")

SHADOWS = "shadows"  # folder of bundles that answer beside those that serve, by task
_JITTER = 0.2
_MOST_POLLS = 4.0  # the longest wait after failures, in polls
_SOON_S = 5.0


@dataclass(frozen=True)
class Plan:
    """What to do about one task: take `release`, by way of `delta` where there is one; or nothing, and why.

    Attributes:
        disowns: what serves is newer, and known to nobody who may release.
        goes_back: to the last good bundle.
        flag: name of what is odd; empty for nothing.
    """

    release: Release | None
    delta: Delta | None
    why: str
    disowns: bool = False
    goes_back: bool = False
    flag: str = ""


def plan_update(releases: Iterable[Release], state: SlotState, facts: NodeFacts, *, highest: int | None = None) -> Plan:
    """What a task should take of what the registry offers. Pure.

    Args:
        releases: newest version first, in a version by rank.
        state: of the task's slots.
        facts: what this node is.
        highest: the highest version that the task's present keys know to have been released; None for not known.

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
        if highest is None or current.version <= highest:
            return Plan(None, None, f"what is offered is older than version {current.version}")
        why = f"take version {release.version}: the registry's new key knows of no version {current.version}"
        return Plan(release, None, why, disowns=True)
    return Plan(release, _delta(release, current.digest), f"take version {release.version}")


def plan_wanted(
    releases: Iterable[Release],
    state: SlotState,
    facts: NodeFacts,
    wanted: Desired | None,
    *,
    highest: int | None = None,
) -> Plan:
    """The same for a node that has a core: only what the core wants, among what the registry signed. Pure.

    Args:
        releases, state, facts, highest: as for `plan_update`.
        wanted: what the core wants; None when it has not said so yet.

    Raises:
        UnfitError: nothing of what it wants suits this node.
    """
    current = state.current
    if wanted is None:
        return Plan(None, None, "the core has not said yet what to run")
    if wanted.version is None:
        return Plan(None, None, "the core wants nothing else")
    if current is not None and wanted.version < current.version:
        if highest is not None and current.version > highest:
            return plan_update(
                [one for one in releases if one.version == wanted.version], state, facts, highest=highest
            )
        if state.previous is not None and state.previous.version == wanted.version:
            return Plan(None, None, f"the core wants version {wanted.version}", goes_back=True)
        why = (
            f"the core wants version {wanted.version}, which is not the last good one here, and older than what serves"
        )
        return Plan(None, None, why, flag="cannot_go_back")
    offered = [release for release in releases if release.version == wanted.version]
    if not offered:
        why = f"the core wants version {wanted.version}, which the registry does not offer"
        return Plan(None, None, why, flag="not_offered")
    left = [release for release in offered if state.failure(release.sha256, release.version) is None]
    if not left:
        return Plan(None, None, f"version {wanted.version}, which the core wants, failed here before")
    release = _preferred(left, wanted.members, facts)
    if current is None:
        return Plan(release, None, f"take version {release.version}")
    if release.sha256 == current.digest:
        return Plan(None, None, "up to date")
    return Plan(release, _delta(release, current.digest), f"take version {release.version}")


def plan_shadow(
    releases: Iterable[Release], state: SlotState, facts: NodeFacts, wanted: Desired | None
) -> Release | None:
    """The release to answer beside what serves, None for none. Pure.

    Nothing that is on trial gets company: a process that dies must be blamed on one of them.
    """
    if wanted is None or wanted.shadow is None or state.current is None or state.trial is not None:
        return None
    offered = [
        release
        for release in releases
        if release.version == wanted.shadow
        and release.sha256 != state.current.digest
        and state.failure(release.sha256, release.version) is None
    ]
    try:
        return _preferred(offered, wanted.members, facts) if offered else None
    except UnfitError:
        return None


def _preferred(offered: Sequence[Release], members: Sequence[str], facts: NodeFacts) -> Release:
    """The first member in the core's order that fits; what it does not name comes after. Raises UnfitError."""
    from edgehone_agent.fit import choose

    places = {name: place for place, name in enumerate(members)}
    return choose(sorted(offered, key=lambda one: places.get(one.member, len(places))), facts)


def _delta(release: Release, digest: str) -> Delta | None:
    """A way from what is here that is shorter than the whole file."""
    deltas = (delta for delta in release.deltas if delta.from_sha256 == digest)
    return next((delta for delta in deltas if delta.size_bytes < release.size_bytes), None)


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
        wanted: task → what the core wants, None when it has not said; no function for a node without a core.
        shadow_share: see `Node.shadow`.
    """

    def __init__(
        self,
        node: Node,
        verifier: Callable[[], Verifier],
        *,
        facts: Callable[[], NodeFacts],
        stopping: Callable[[], bool] = lambda: False,
        wanted: Callable[[str], Desired | None] | None = None,
        shadow_share: float | None = None,
    ) -> None:
        self._node = node
        self._make_verifier = verifier
        self._verifier: Verifier | None = None
        self._facts, self._stopping, self._wanted = facts, stopping, wanted
        self._shadow_share = shadow_share
        self._downloads = node.state / "downloads"
        self._reached = True
        self.failures = 0

    def look(self) -> dict[str, Any]:
        """Look at the registry for every task and act on it; what came of it, by task. Raises nothing of ours."""
        self.begin()
        found: dict[str, Any] = {}
        for task in self._node.tasks():
            told = self.look_at(task)
            if told is None:
                break
            found[task] = told
        self.end()
        return found

    def forget_registry(self) -> None:
        """Reach it anew with the next look, for this node's certificate is another one."""
        self._verifier = None

    def begin(self) -> None:
        """Before the tasks are looked at, one by one."""
        self._reached = True
        tasks = self._node.tasks()
        with contextlib.suppress(OSError):  # what cannot be removed is said when room is needed
            if self._downloads.is_dir() and self._node.claim():
                _keep_only(self._downloads, set(tasks))

    def look_at(self, task: str) -> dict[str, Any] | None:
        """Look at the registry for one task and act on it; what came of it, None when the node stops meanwhile."""
        if self._stopping():
            return None
        told: dict[str, Any] = {"flags": []}
        try:
            self._node.reload(task)
            told["did"] = self._update(task, told)
        except Stopped:
            return None
        except (EdgehoneError, OSError, MemoryError) as found:
            error = _named(found, self._node.state)
            told |= {"error": str(error), "code": error.code}
            self._reached = self._reached and not isinstance(error, HostError)
            log.warning("%s: %s", task, error.what, extra={"task": task, "code": error.code, "where": error.where})
        return told

    def end(self, *, broken: bool = False) -> None:
        """After the last task; `broken` when a look ended in a defect."""
        self.failures = 0 if self._reached and not broken else self.failures + 1

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
        if self._wanted is None:
            plan = plan_update(checked.releases, slots.state, self._facts(), highest=checked.highest)
            return self._carry_out(task, plan, checked)
        wanted = self._wanted(task)
        plan = plan_wanted(checked.releases, slots.state, self._facts(), wanted, highest=checked.highest)
        if plan.flag:
            told["flags"].append({"name": plan.flag, "text": plan.why})
            log.warning("%s: %s", task, plan.why, extra={"task": task, "flag": plan.flag})
        did = self._carry_out(task, plan, checked)
        self._shadow(task, plan_shadow(checked.releases, slots.state, self._facts(), wanted), wanted)
        return did

    def _carry_out(self, task: str, plan: Plan, checked: Checked) -> str:
        slots = self._node.slots(task)
        if plan.release is None and not plan.goes_back:
            self._settle(task, checked.releases, slots.state)
            return plan.why
        if not self._node.claim():
            raise StateError(
                "another process writes this folder, or nobody can",
                where=str(self._node.state),
                do="see whether the disk is read-only, or which process it is: edgehone-agent doctor",
            )
        if plan.release is None:
            back = self._node.roll_back(task, plan.why)
            log.warning("%s: back to version %s: %s", task, back.version, plan.why, extra={"task": task})
            return f"went back to version {back.version}"
        release = plan.release
        bundle = self._bring(task, release, plan.delta)
        before = None if slots.state.current is None else slots.state.current.version
        if plan.disowns:
            log.warning("%s: %s", task, plan.why, extra={"task": task, "before": before})
            slots.disown(checked.highest)
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
        if self._verifier is not None:
            self._verifier.raise_floor(task, release.version)
        return f"took version {release.version}"

    def _shadow(self, task: str, release: Release | None, wanted: Desired | None) -> None:
        """Let a release answer beside what serves, or none. What goes wrong with it is its own fault, and told so."""
        folder = self._node.state / SHADOWS / task
        if release is None:
            if wanted is None or wanted.shadow is None:
                self._node.shadow(task, None)
                if folder.is_dir() and self._node.claim():
                    shutil.rmtree(folder)
            return
        if self._node.shadow_digest(task) == release.sha256 or not self._node.claim():
            return
        bundle = folder / f"{release.sha256}.bundle"
        folder.mkdir(parents=True, exist_ok=True)
        _keep_only(folder, {release.sha256, "tries"})
        self._download(release, bundle)
        self._node.shadow(task, bundle, share=self._shadow_share)

    def _settle(self, task: str, releases: Iterable[Release], state: SlotState) -> None:
        """Make up for what a process that died after a swap had left undone: the floor, and the download."""
        current = state.current
        offered = {release.sha256 for release in releases}
        if self._verifier is not None and current is not None and current.digest in offered:
            self._verifier.raise_floor(task, current.version)
        folder = self._downloads / task
        if folder.is_dir() and self._node.claim():
            _keep_only(folder, set())

    def _bring(self, task: str, release: Release, delta: Delta | None) -> Path:
        """The release's bundle file, verified."""
        folder = self._downloads / task
        bundle = folder / f"{release.sha256}.bundle"
        folder.mkdir(parents=True, exist_ok=True)
        _keep_only(folder, {release.sha256} | ({delta.sha256} if delta is not None else set()))
        beside = self._node.state / SHADOWS / task / bundle.name
        if not bundle.exists() and beside.exists():  # it answered as a shadow before; its digest is looked at below
            shutil.copyfile(beside, bundle)
        if delta is not None and not bundle.exists() and self._by_delta(task, release, delta, bundle):
            return bundle
        self._download(release, bundle)
        return bundle

    def _by_delta(self, task: str, release: Release, delta: Delta, bundle: Path) -> bool:
        from edgehone_agent.delta import apply_delta

        old = self._node.slots(task).bundle_file()
        file = bundle.with_name(f"{delta.sha256}.delta")
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
                raise Stopped

        self._verifier.download(item, to, progress)


def _named(error: EdgehoneError | OSError | MemoryError, state: Path) -> EdgehoneError:
    if isinstance(error, MemoryError):
        return StateError("there is not enough memory", where=str(state), do="free some; it is tried again")
    return error if isinstance(error, EdgehoneError) else durable.state_error(error, Path(error.filename or state))


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _keep_only(folder: Path, wanted: set[str]) -> None:
    """Remove whatever is in a folder but for names that begin so, up to their first dot or as a whole."""
    for file in folder.iterdir():
        if file.name in wanted or file.name.partition(".")[0] in wanted:
            continue
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink()


class Stopped(Exception):  # noqa: N818  # no error: the agent ends
    """Leave off a download; what has arrived is kept."""
