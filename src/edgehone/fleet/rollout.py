"""How a release reaches a fleet, as a state machine without files or a clock of its own.

    shadow → canary → stage 1 → … → stage n → stable            the states "running" and "paused", then "done"
       └────────┴─────────┴── a gate fails ──→ "rolled back"     a person: "aborted"

Rules:
- Shadow and canary are the same few nodes: first the release answers beside their own model, unseen, then it serves.
  A release that a gate sends back there has touched no other node.
- The share of canaries is of the nodes that were online when they were chosen, rounded down, but at least
  `canary_least`. A canary that went offline before it was told is replaced; one that was told is not, it counts.
- A step is judged by the nodes of it that are online and took the release. Nodes that are offline hold nothing up:
  after `patience_s` the step goes on without them. They take what their cohort wants when they are back.
- Gates are asked at every step. What fails once goes back at once, also while paused: the next desired state of every
  node that was touched is its cohort's version again. A cohort's version changes only when a rollout is done.
- Whatever ends a rollout ends it: nothing that happens later on its nodes holds up the next one. Until the nodes that
  can be reached have gone back it still reports: "reverted", or "stranded" for those that did not within the patience.
  For those that had it and are away it waits as long.
- `step` is a function of its arguments. Taking its result again with the same nodes and time changes nothing.
- A clock that was set back starts the present step's times anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

from edgehone.fleet.canaries import most, spread
from edgehone.fleet.gates import Limits, Step, Verdict, judge, took
from edgehone.fleet.observed import NodeView, Watched, known_fields, position
from edgehone_agent.errors import InputError, StateError
from edgehone_agent.wire.uplink import Desired

State = Literal["running", "paused", "done", "aborted", "rolled back"]

SHADOW, CANARY, STABLE = "shadow", "canary", "stable"
MOST_CANARIES = 500  # more tell nothing more, and what is watched is stored
MOST_WITNESSES = 200  # nodes of a later stage that it is judged by
MOST_OTHERS = 50  # untouched nodes to compare with
LAST_PATIENCE = 10  # patiences after which canaries that are silent together with all others are given up

Views = Mapping[str, NodeView]


@dataclass(frozen=True)
class RolloutPlan:
    """How careful a rollout is.

    Attributes:
        shadow_rows: answers of shadow and champion to compare before it serves anywhere; 0 for no shadow.
        shadow_s: the longest that the shadow waits for them.
        canary_share, canary_least: nodes that try it first.
        stages: shares of all nodes that follow, rising to 1.
        soak_s: how long a step is watched once its nodes have the release.
        patience_s: how long it waits for nodes that have not taken it.
        limits: for the gates.
    """

    shadow_rows: int = 200
    shadow_s: float = 3600.0
    canary_share: float = 0.05
    canary_least: int = 1
    stages: tuple[float, ...] = (0.25, 0.5, 1.0)
    soak_s: float = 600.0
    patience_s: float = 3600.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip((0.0, *self.stages), self.stages, strict=False))
        if not self.stages or self.stages[-1] != 1.0 or not rising:
            raise InputError(
                f"the stages {self.stages} do not rise to 1",
                where="stages",
                do="give rising shares that end in 1, like 0.25,0.5,1",
            )
        if not (0 < self.canary_share <= 1 and self.canary_least >= 1):
            raise InputError(
                f"a canary share of {self.canary_share} with at least {self.canary_least} nodes is out of range",
                where="canary",
                do="give a share above 0 up to 1, and at least 1 node",
            )
        if self.shadow_rows < 0 or min(self.shadow_s, self.soak_s) < 0 or self.patience_s <= 0:
            raise InputError("a time or count of the rollout is negative", where="plan", do="give positive numbers")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RolloutPlan:
        """Read one back. Raises StateError or InputError."""
        read = {**data, "stages": tuple(data.get("stages", ())), "limits": Limits.from_json(data.get("limits", {}))}
        return known_fields(cls, read)


@dataclass(frozen=True)
class Event:
    """Something that a rollout did; `detail` holds JSON values, `words` in it a sentence for people."""

    time_s: float
    what: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """A rollout.

    Attributes:
        id, task, version: what is rolled out.
        before: the cohorts that it covers → the version that each had.
        first: those of them whose nodes are canaries before others.
        plan: how.
        state, stage: where it is; when it has ended, where it ended.
        started_s, stage_since_s, ended_s: times.
        ready_s: since when the present step waits for no node any more; None while it does.
        paused_s: since when it is paused.
        canaries: who tries it first, from the shadow step on.
        witnesses: of the present stage, the nodes that it is judged by.
        others: untouched nodes that the present step is compared with.
        verdicts: of the gates, the last time they were asked.
        why: it ended.
        settled: nothing of it is left to report.
    """

    id: str
    task: str
    version: int
    before: Mapping[str, int | None]
    started_s: float
    stage_since_s: float
    first: tuple[str, ...] = ()
    plan: RolloutPlan = field(default_factory=RolloutPlan)
    state: State = "running"
    stage: str = SHADOW
    ready_s: float | None = None
    paused_s: float | None = None
    ended_s: float | None = None
    canaries: tuple[Watched, ...] = ()
    witnesses: tuple[Watched, ...] = ()
    others: tuple[Watched, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    why: str = ""
    settled: bool = False

    @cached_property
    def canary_ids(self) -> frozenset[str]:
        """Ids of the canaries."""
        return frozenset(watched.node for watched in self.canaries)

    @property
    def ended(self) -> bool:
        """Whether it will change no desired state any more."""
        return self.state not in ("running", "paused")

    @cached_property
    def share(self) -> float:
        """Of all nodes, those that the present stage offers it to besides the canaries."""
        return self.plan.stages[int(self.stage.split()[1]) - 1] if self.stage.startswith("stage") else 0.0

    def touches(self, node: str) -> bool:
        """Whether a node of its cohorts is offered the release in the present stage, to serve or beside its own."""
        return self._touches_for_sure(node) or (self.share > 0 and position(self.id, node) < self.share)

    def touches_view(self, view: NodeView) -> bool:
        """`touches` of a node that is looked at, which may know its place."""
        return self._touches_for_sure(view.id) or (self.share > 0 and view.place(self.id) < self.share)

    def _touches_for_sure(self, node: str) -> bool:
        """Whether it is touched wherever it stands in the order."""
        return self.stage == STABLE or self.share >= 1 or node in self.canary_ids

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        found: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("canaries", "witnesses", "others"):  # many: `asdict` would look at each of their values
            found[name] = [watched.to_json() for watched in found[name]]
        verdicts = [asdict(one) for one in self.verdicts]
        return found | {"before": dict(self.before), "plan": asdict(self.plan), "verdicts": verdicts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rollout:
        """Read one back.

        Raises:
            StateError: it is none.
        """
        try:
            read: dict[str, Any] = {**data, "plan": RolloutPlan.from_json(data["plan"]), "first": tuple(data["first"])}
            for name in ("canaries", "witnesses", "others"):
                read[name] = tuple(Watched.from_json(one) for one in data[name])
            read["verdicts"] = tuple(known_fields(Verdict, one) for one in data["verdicts"])
        except (KeyError, TypeError) as error:
            raise StateError(
                f"what is stored of a rollout cannot be read: {error!r}", where="rollout", do="restore the last backup"
            ) from error
        return known_fields(cls, read)


def begin(
    id: str,
    task: str,
    version: int,
    before: Mapping[str, int | None],
    now_s: float,
    *,
    plan: RolloutPlan | None = None,
    first: Sequence[str] = (),
) -> Rollout:
    """A new rollout, in its shadow step.

    Args:
        id: unique; it also decides which nodes come first.
        task, version: what to roll out.
        before: the cohorts to cover → the version that each has now.
        now_s: the core's clock.
        plan: how; the default when None.
        first: cohorts of the channel "canary".
    """
    chosen = RolloutPlan() if plan is None else plan
    stage = SHADOW if chosen.shadow_rows else CANARY
    return Rollout(id, task, version, dict(before), now_s, now_s, first=tuple(first), plan=chosen, stage=stage)


def desired_for(rollout: Rollout | None, cohort: str, version: int | None, node: str) -> Desired:
    """What a node should run; members and serial are left to the caller.

    Args:
        rollout: one that runs for the node's task, or None.
        cohort, version: the node's cohort, and the version that this cohort is at.
        node: its id.
    """
    if rollout is None or rollout.ended or cohort not in rollout.before or not rollout.touches(node):
        return Desired(version)
    if rollout.stage == SHADOW:
        return Desired(version, shadow=rollout.version, rollout=rollout.id)
    return Desired(rollout.version, rollout=rollout.id)


def pause(rollout: Rollout, now_s: float) -> Rollout:
    """Hold a running rollout where it is. Raises InputError when it does not run."""
    if rollout.state != "running":
        raise _not_possible(rollout, "paused")
    return replace(rollout, state="paused", paused_s=now_s)


def resume(rollout: Rollout, now_s: float) -> Rollout:
    """Go on; the time of the pause counts for nothing. Raises InputError when it is not paused."""
    if rollout.state != "paused":
        raise _not_possible(rollout, "resumed")
    held_s = max(0.0, now_s - (now_s if rollout.paused_s is None else rollout.paused_s))
    ready_s = None if rollout.ready_s is None else min(rollout.ready_s + held_s, now_s)
    return replace(
        rollout, state="running", paused_s=None, stage_since_s=rollout.stage_since_s + held_s, ready_s=ready_s
    )


def abort(rollout: Rollout, now_s: float, why: str) -> Rollout:
    """End it; every node goes back to its cohort's version. Raises InputError when it has ended."""
    if rollout.ended:
        raise _not_possible(rollout, "aborted")
    return _end(rollout, "aborted", now_s, why)


def step(rollout: Rollout, nodes: Sequence[NodeView], now_s: float) -> tuple[Rollout, tuple[Event, ...]]:
    """Take a rollout as far as it can go now. Pure.

    Args:
        rollout: as it was.
        nodes: every node that reports the task.
        now_s: the core's clock.

    Returns:
        The rollout as it is, and what happened.
    """
    views = {
        view.id: view for view in nodes if view.cohort in rollout.before and view.fits and not view.quarantined
    }  # a node that is quarantined, gone or cannot run it neither counts nor waits
    events: list[Event] = []
    while True:
        after, happened = _once(_rebased(rollout, now_s), views, now_s)
        events += happened
        if after == rollout:
            return after, tuple(events)
        rollout = after


def _once(rollout: Rollout, views: Views, now_s: float) -> tuple[Rollout, list[Event]]:
    if rollout.ended:
        return _settle(rollout, views, now_s)
    if rollout.stage in (SHADOW, CANARY):
        rollout, events = _choose(rollout, views, now_s)
        if events:
            return rollout, events
    now = _step_now(rollout, views, now_s)
    rollout, now = _note(rollout, now, now_s)
    verdicts = judge(now, rollout.plan.limits)
    rollout = replace(rollout, verdicts=verdicts)
    bad = next((verdict for verdict in verdicts if verdict.says == "fail"), None)
    bad = bad or _given_up(rollout, now, views, now_s)
    if bad is not None:
        words = f"{bad.gate}: {bad.words}"
        return _end(rollout, "rolled back", now_s, words), [_event(rollout, now_s, "rolled back", words, verdicts)]
    if rollout.state == "paused" or not _may_go_on(rollout, now, views, now_s):
        return rollout, []
    return _advance(rollout, views, now_s)


def _watched(rollout: Rollout) -> tuple[Watched, ...]:
    return rollout.witnesses if rollout.stage.startswith("stage") else rollout.canaries


def _with_watched(rollout: Rollout, watched: tuple[Watched, ...]) -> Rollout:
    if rollout.stage.startswith("stage"):
        return replace(rollout, witnesses=watched)
    return replace(rollout, canaries=watched)


def _step_now(rollout: Rollout, views: Views, now_s: float) -> Step:
    def pairs(watched: Sequence[Watched]) -> list[tuple[Watched, NodeView]]:
        return [(before, views[before.node]) for before in watched if before.node in views]

    in_shadow = rollout.stage == SHADOW
    clock_s = now_s if rollout.paused_s is None else rollout.paused_s
    watched = pairs(_watched(rollout))
    if in_shadow:  # beside nothing, nothing can answer
        watched = [pair for pair in watched if pair[0].version is not None]
    untouched = [pair for pair in pairs(rollout.others) if not pair[1].has(rollout.version)]
    return Step(
        version=rollout.version,
        shadow=in_shadow,
        watched=watched,
        others=untouched,
        bystanders=rollout.share < 1 and any(view.online and not rollout.touches_view(view) for view in views.values()),
        rows=rollout.plan.shadow_rows if in_shadow else 0,
        overdue=clock_s - rollout.stage_since_s >= rollout.plan.patience_s,
        rows_overdue=rollout.ready_s is not None and clock_s - rollout.ready_s >= rollout.plan.shadow_s,
    )


def _note(rollout: Rollout, now: Step, now_s: float) -> tuple[Rollout, Step]:
    """Write down who was heard of, who took it, and since when nobody is waited for."""

    def noted(before: Watched, view: NodeView) -> Watched:
        heard = before.heard or (view.seen_s is not None and view.seen_s >= before.offered_s)
        has = before.took or took(view, rollout.version, shadow=now.shadow)
        return before if (heard, has) == (before.heard, before.took) else replace(before, heard=heard, took=has)

    pairs = [(noted(before, view), view) for before, view in now.watched]
    now = replace(now, watched=pairs)
    known = {before.node: before for before, _ in pairs}
    kept = tuple(known.get(watched.node, watched) for watched in _watched(rollout))
    rollout = _with_watched(rollout, kept)
    pending = any(view.online and not before.took for before, view in pairs)
    taken = any(before.took and view.online for before, view in pairs)
    if rollout.ready_s is None and taken and (not pending or now.overdue):
        rollout = replace(rollout, ready_s=now_s)
    return rollout, now


def _given_up(rollout: Rollout, now: Step, views: Views, now_s: float) -> Verdict | None:
    """The verdict of the patience: nobody takes it, or nobody is left to see it by."""
    words = ""
    if rollout.stage in (SHADOW, CANARY) and not rollout.canaries:
        online = [view for view in views.values() if view.online]
        if online and all(view.refused(rollout.version) for view in online):
            words = "every node that is there has tried it before and gone back"
    elif now.overdue and not now.watched and not rollout.stage.startswith("stage"):
        words = "the nodes that were to try it first are gone"
    elif now.overdue and not any(before.took for before, _ in now.watched):
        since_s = now_s - rollout.stage_since_s
        if any(before.heard and view.online for before, view in now.watched):
            words = f"no node took it within {rollout.plan.patience_s:g} s"
        elif (
            now.bystanders and since_s >= LAST_PATIENCE * rollout.plan.patience_s and rollout.stage in (SHADOW, CANARY)
        ):
            words = "the nodes that were to try it first do not come back"
    return Verdict("patience", "fail", {}, words) if words else None


def _may_go_on(rollout: Rollout, now: Step, views: Views, now_s: float) -> bool:
    """Whether the present step has shown what it can show."""
    plan = rollout.plan
    if not now.watched:
        if rollout.stage.startswith("stage"):
            return True  # nobody new is there: they converge when they come
        nobody = not views and now_s - rollout.stage_since_s >= plan.patience_s
        return nobody or _all_have_it(rollout, views)
    if rollout.ready_s is None:
        return now.overdue and rollout.stage.startswith("stage")  # all left behind, as none is there
    if any(verdict.says == "wait" for verdict in rollout.verdicts):
        return False
    return now.shadow or now_s - rollout.ready_s >= plan.soak_s


def _all_have_it(rollout: Rollout, views: Views) -> bool:
    online = [view for view in views.values() if view.online]
    return bool(online) and all(view.has(rollout.version) for view in online)


def _choose(rollout: Rollout, views: Views, now_s: float) -> tuple[Rollout, list[Event]]:
    """Choose canaries, or others for those that went offline before they were told."""
    kept = tuple(
        watched
        for watched in rollout.canaries
        if watched.heard or ((view := views.get(watched.node)) is not None and (view.online or _told(watched, view)))
    )
    missing = len(rollout.canaries) - len(kept) if rollout.canaries else MOST_CANARIES
    if not missing:
        return rollout, []
    known = {watched.node for watched in kept}
    online = [view for view in views.values() if view.online]
    candidates = [
        view
        for view in online
        if view.id not in known and not view.has(rollout.version) and not view.refused(rollout.version)
    ]
    plan = rollout.plan
    count = most(plan.canary_share, plan.canary_least, len(online)) - len(kept)
    chosen = spread(rollout.id, candidates, max(0, min(count, missing)), first=rollout.first)
    if not chosen and len(kept) == len(rollout.canaries):
        return rollout, []
    canaries = (*kept, *(Watched.of(view, now_s) for view in chosen))
    rollout = replace(rollout, canaries=canaries)
    rollout = replace(rollout, others=_others(rollout, views, now_s))
    if chosen:
        rollout = replace(rollout, stage_since_s=now_s, ready_s=None)
    if rollout.stage == SHADOW and chosen and all(watched.version is None for watched in canaries):
        rollout = replace(rollout, stage=CANARY)  # no model answers there that it could answer beside
    names = [watched.node for watched in canaries]
    words = f"{len(names)} of {len(online)} online nodes try it first" if names else "no node is there to try it"
    return rollout, [_event(rollout, now_s, "canaries", words, nodes=names)]


def _told(watched: Watched, view: NodeView) -> bool:
    return view.seen_s is not None and view.seen_s >= watched.offered_s


def _others(rollout: Rollout, views: Views, now_s: float) -> tuple[Watched, ...]:
    untouched = [
        view
        for view in views.values()
        if view.online and not rollout.touches_view(view) and not view.has(rollout.version)
    ]
    return tuple(Watched.of(view, now_s) for view in spread(rollout.id, untouched, MOST_OTHERS))


def _advance(rollout: Rollout, views: Views, now_s: float) -> tuple[Rollout, list[Event]]:
    """Begin the next step."""
    at, verdicts = rollout.stage, rollout.verdicts
    number = int(at.split()[1]) if at.startswith("stage") else 0
    if at == SHADOW:
        after = CANARY
    elif number < len(rollout.plan.stages):
        after = f"stage {number + 1}"
    else:
        return _end(rollout, "done", now_s, ""), [_event(rollout, now_s, "done", f"{at} is good", verdicts)]
    had = rollout.touches_view
    rollout = replace(rollout, stage=after, stage_since_s=now_s, ready_s=None)
    if after == CANARY:
        canaries = tuple(
            Watched.of(views[watched.node], now_s, heard=watched.heard) if watched.node in views else watched
            for watched in rollout.canaries
        )
        rollout = replace(rollout, canaries=canaries)
    else:
        new = [
            view
            for view in views.values()
            if view.online and rollout.touches_view(view) and not had(view) and not view.has(rollout.version)
        ]
        witnesses = spread(rollout.id, new, MOST_WITNESSES)
        rollout = replace(rollout, witnesses=tuple(Watched.of(view, now_s) for view in witnesses))
    rollout = replace(rollout, others=_others(rollout, views, now_s))
    return rollout, [_event(rollout, now_s, "step", f"{at} is good; {after} begins", verdicts, to=after)]


def _end(rollout: Rollout, state: State, now_s: float, why: str) -> Rollout:
    stage = STABLE if state == "done" else rollout.stage
    settled = state == "done"
    return replace(rollout, state=state, stage=stage, ended_s=now_s, paused_s=None, why=why, settled=settled)


def _settle(rollout: Rollout, views: Views, now_s: float) -> tuple[Rollout, list[Event]]:
    """After it was given up: report when the nodes that can be reached have gone back, or which of them did not."""
    if rollout.settled:
        return rollout, []
    there = [view for view in views.values() if view.online]
    left = sorted(view.id for view in there if view.has(rollout.version))
    since_s = now_s - (rollout.ended_s or now_s)
    away = sum(not view.online and view.has(rollout.version) for view in views.values())
    if away and since_s < rollout.plan.patience_s:
        return rollout, []  # they may come back, and then not get back
    if not left and all(view.seen_s is not None and view.seen_s > (rollout.ended_s or 0.0) for view in there):
        words = f"every node that is there is off version {rollout.version}"
        words += f"; {away} that had it are away" if away else ""
        return replace(rollout, settled=True), [_event(rollout, now_s, "reverted", words, after_s=since_s)]
    if left and since_s >= rollout.plan.patience_s:
        words = f"{len(left)} nodes did not go back from version {rollout.version}"
        if any(version is not None for version in rollout.before.values()):
            words += f": `edgehone fleet rollout again {rollout.id}` publishes the old model under a higher version"
        return replace(rollout, settled=True), [_event(rollout, now_s, "stranded", words, nodes=left[:100])]
    return rollout, []


def _rebased(rollout: Rollout, now_s: float) -> Rollout:
    """Times that lie ahead of a clock that was set back begin now."""
    if max(rollout.stage_since_s, rollout.ready_s or 0.0, rollout.paused_s or 0.0, rollout.ended_s or 0.0) <= now_s:
        return rollout

    def earlier(time_s: float | None) -> float | None:
        return None if time_s is None else min(time_s, now_s)

    def offered(watched: Sequence[Watched]) -> tuple[Watched, ...]:
        return tuple(replace(one, offered_s=min(one.offered_s, now_s)) for one in watched)

    return replace(
        rollout,
        stage_since_s=min(rollout.stage_since_s, now_s),
        ready_s=earlier(rollout.ready_s),
        paused_s=earlier(rollout.paused_s),
        ended_s=earlier(rollout.ended_s),
        canaries=offered(rollout.canaries),
        witnesses=offered(rollout.witnesses),
        others=offered(rollout.others),
    )


def _event(
    rollout: Rollout, now_s: float, what: str, words: str, verdicts: Sequence[Verdict] = (), **more: Any
) -> Event:
    found: dict[str, Any] = {"words": words, "stage": rollout.stage, **more}
    if verdicts:
        found["verdicts"] = [asdict(verdict) for verdict in verdicts]
    return Event(now_s, what, found)


def _not_possible(rollout: Rollout, done: str) -> InputError:
    return InputError(
        f"the rollout is {rollout.state} and cannot be {done}",
        where=rollout.id,
        do="look at `edgehone fleet rollout status`",
    )
