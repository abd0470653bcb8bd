"""What the loop sees of a task at one moment: plain values, and the reading of them.

Rules:
- Of a node the newest evidence about the bundle that it serves now counts. Evidence about another bundle says nothing
  about this one.
- Labels are feedback that is not put aside, joined with the sample that it is about; see `trust.settle`.
- A node that is quarantined or revoked is not looked at.
- Of a node that alarms, labels of what it has seen since then are the audit: those of before tell of another world.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from sqlalchemy import Connection, select

from edgehone.fleet.cohorts import cohort_of, load_cohorts
from edgehone.fleet.nodes import ACTIVE
from edgehone.fleet.risk_test import Count
from edgehone.loop import baseline
from edgehone.loop.baseline import Place
from edgehone.loop.faults import OUTPUTS, Report, Trouble, asked_from_s, trouble_of
from edgehone.loop.policy import LoopPolicy
from edgehone.loop.round import Kind
from edgehone.loop.trust import Settled
from edgehone.records.tables import dataset, evidence, node, release
from edgehone.records.tables import round as round_table

ENDED = ("done", "refused", "failed", "aborted")
WEEK_S = 7 * 86_400.0
_MOST_REPORTS = 100  # that are read back for a sensor that looks broken


@dataclass(frozen=True)
class NodeSight:
    """A node as its last evidence shows it.

    Attributes:
        node, cohort: who.
        watch_level, risk_level: 0 to 3.
        channel, direction: that says most, and which way it moved.
        is_output: that channel looks at the model's answers.
        rows: it has looked at.
        fault: what is wrong with a sensor, in words; "" for nothing.
        beyond: readings that lie far out, in words; a fault of the sensor where no other node of the cohort has it.
        evidence: id of the row.
        since_s: since when it alarms; None for a calm one.
        trouble_s: since when its reports show the fault, or readings far out; None for neither.
        reports: how many in a row show it.
        called: its name for people; "" for its id.
    """

    node: str
    cohort: str
    watch_level: int = 0
    risk_level: int = 0
    channel: str = ""
    direction: str = ""
    is_output: bool = False
    rows: int = 0
    fault: str = ""
    beyond: str = ""
    evidence: int = 0
    since_s: float | None = None
    trouble_s: float | None = None
    reports: int = 0
    called: str = ""

    @property
    def title(self) -> str:
        """What people know it by."""
        return self.called or self.node

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.node, self.cohort, self.since_s)


@dataclass(frozen=True)
class LabelSight:
    """What labels are there.

    Attributes:
        usable: labels that may teach, in classes that have enough of them.
        short: classes with too few, with how many they have.
        new: usable ones that came since the last dataset version.
        corrected: of the new ones, those that contradict the model.
        audited: by node, labels of its uniformly drawn answers of the present model, and wrong answers among them; of a
            node that alarms only those since then.
        classes: that the model tells apart; 0 for another kind of task.
        baseline: share of errors that was measured for it; None where that is not known.
        unknown: name of a class that the model does not know → labels.
    """

    usable: int = 0
    short: Mapping[str, int] = field(default_factory=dict)
    new: int = 0
    corrected: int = 0
    audited: Mapping[str, Count] = field(default_factory=dict)
    classes: int = 0
    baseline: float | None = None
    unknown: Mapping[str, int] = field(default_factory=dict)

    def count(self, nodes: Sequence[NodeSight] = ()) -> Count:
        """Audited labels of some nodes, or of all."""
        names = [one.node for one in nodes] or list(self.audited)
        return sum((self.audited[name] for name in names if name in self.audited), Count(0, 0))


@dataclass(frozen=True)
class Sight:
    """A task at one moment.

    Attributes:
        task: its name.
        now_s: the core's clock.
        nodes: that report it.
        labels: that are there.
        readings: of cohorts of which most nodes alarm, uniformly drawn readings that are here, since they do.
        since_s: when it was last trained anew, or first released; None for never.
        ended_s: when its last round that trained ended.
        is_refused: the gate refused that round.
        rebased_s: when its last round without training ended.
        rounds_this_week: that began in the last seven days.
        is_running: a round has not ended.
        asked: who asked for a round by hand; "" for nobody.
        asked_kind: of that round.
        asked_cohorts: that it is to give a new reference; empty for all that have moved.
    """

    task: str
    now_s: float
    nodes: tuple[NodeSight, ...] = ()
    labels: LabelSight = field(default_factory=LabelSight)
    readings: Mapping[str, int] = field(default_factory=dict)
    since_s: float | None = None
    ended_s: float | None = None
    is_refused: bool = False
    rebased_s: float | None = None
    rounds_this_week: int = 0
    is_running: bool = False
    asked: str = ""
    asked_kind: Kind = "retrain"
    asked_cohorts: tuple[str, ...] = ()


def look(
    conn: Connection,
    policy: LoopPolicy,
    settled: Sequence[Settled],
    now_s: float,
    *,
    classes: int = 0,
    asked: str = "",
    asked_kind: Kind = "retrain",
    asked_cohorts: Sequence[str] = (),
) -> Sight:
    """Look at a task.

    Args:
        conn: to read with.
        policy: of the task.
        settled: its labels, see `trust.settle`.
        now_s: the core's clock.
        classes: that the model tells apart; 0 for another kind of task.
        asked: who asks for a round by hand.
        asked_kind: of that round.
        asked_cohorts: that it is to give a new reference; empty for all that have moved.
    """
    task = policy.task
    nodes = look_at_nodes(conn, policy)
    kind = round_table.c.content["kind"].as_string()
    rounds = conn.execute(
        select(round_table.c.state, round_table.c.started_s, round_table.c.ended_s, kind.label("kind"))
        .where(round_table.c.task == task)
        .order_by(round_table.c.started_s.desc())
    ).all()
    first = conn.execute(
        select(release.c.published_s).where(release.c.task == task).order_by(release.c.published_s).limit(1)
    ).scalar()
    over = [row for row in rounds if row.ended_s is not None]
    taught = [row for row in over if row.kind != "re-baseline"]
    trained = [row.ended_s for row in taught if row.state == "done"]
    return Sight(
        task=task,
        now_s=now_s,
        nodes=nodes,
        labels=_labels(conn, policy, settled, nodes, classes),
        readings=_readings(conn, task, nodes),
        since_s=max(trained, default=first),
        ended_s=max((row.ended_s for row in taught), default=None),
        is_refused=max(((row.ended_s, row.state) for row in taught), default=(0.0, ""))[1] == "refused",
        rebased_s=max((row.ended_s for row in over if row.kind == "re-baseline"), default=None),
        rounds_this_week=sum(now_s - WEEK_S < row.started_s <= now_s for row in rounds),
        is_running=any(row.state not in ENDED for row in rounds),
        asked=asked,
        asked_kind=asked_kind,
        asked_cohorts=tuple(asked_cohorts),
    )


def look_at_nodes(conn: Connection, policy: LoopPolicy) -> tuple[NodeSight, ...]:
    """The active nodes that report a task, as their newest evidence about the bundle that they serve shows them."""
    task = policy.task
    cohorts = load_cohorts(conn, task)
    found = []
    for one in conn.execute(select(node).where(node.c.state == ACTIVE).order_by(node.c.id)):
        if task not in one.status:
            continue
        cohort = cohort_of(cohorts, task, one.tags).name
        digest = one.status[task].get("digest") or ""
        row = conn.execute(
            select(evidence)
            .where(evidence.c.node == one.id, evidence.c.task == task, evidence.c.digest == digest)
            .order_by(evidence.c.id.desc())
            .limit(1)
        ).one_or_none()
        seen = NodeSight(one.id, cohort) if row is None else node_sight(one.id, cohort, row._asdict())
        seen = replace(seen, called=one.name or "")
        if seen.watch_level >= policy.drift_level:
            seen = replace(seen, since_s=baseline.alarms_since(conn, one.id, task, digest, policy.drift_level))
            seen = with_trouble(seen, _trouble(conn, one.id, task, digest, policy))
        found.append(seen)
    return tuple(found)


def with_trouble(seen: NodeSight, trouble: Trouble) -> NodeSight:
    """A node with what its reports say about a broken sensor. Pure.

    What goes back further than was looked has lasted since the node alarms.
    """
    since_s = trouble.since_s
    if since_s is not None and not trouble.is_whole and seen.since_s is not None:
        since_s = min(since_s, seen.since_s)
    return replace(seen, fault=trouble.fault, beyond=trouble.beyond, trouble_s=since_s, reports=trouble.reports)


def _trouble(conn: Connection, name: str, task: str, digest: str, policy: LoopPolicy) -> Trouble:
    query = (
        select(evidence.c.received_s, evidence.c.content)
        .where(evidence.c.node == name, evidence.c.task == task, evidence.c.digest == digest)
        .order_by(evidence.c.id.desc())
        .limit(_MOST_REPORTS)
    )
    reports = (Report(row.received_s, row.content) for row in conn.execute(query))
    newest = next(reports, None)
    if newest is None:
        return Trouble()
    return trouble_of(chain([newest], reports), asked_from_s(newest.time_s, policy.fault_after_s))


def node_sight(name: str, cohort: str, row: Mapping[str, Any]) -> NodeSight:
    """A node from a row of `evidence`."""
    content = row["content"]
    tops = [top for kind in ("tolerant", "exact") for top in _mappings([content.get(kind)])]
    top = max(tops, key=lambda one: _number(one.get("index")), default={})
    channel = str(top.get("channel", ""))
    return NodeSight(
        name, cohort, row["watch_level"], row["risk_level"], channel, str(top.get("direction", "")),
        channel.startswith(OUTPUTS), row["rows"], evidence=row["id"],
    )  # fmt: skip


def _labels(
    conn: Connection, policy: LoopPolicy, settled: Sequence[Settled], nodes: Sequence[NodeSight], classes: int
) -> LabelSight:  # fmt: skip
    last_s = _last_taught_s(conn, policy.task)
    newest = conn.execute(
        select(release.c.version, release.c.measured)
        .where(release.c.task == policy.task, release.c.revoked_s.is_(None))
        .order_by(release.c.version.desc(), release.c.rank)
        .limit(1)
    ).one_or_none()
    serving = _serving(conn, policy.task)
    known = [one for one in settled if one.label is not None]
    counts = Counter(str(one.label) for one in known if one.is_class)
    short = {name: count for name, count in counts.items() if count < policy.min_labels_per_class}
    usable = [one for one in known if not one.is_class or str(one.label) not in short]
    new = [one for one in usable if last_s is None or one.received_s > last_s]
    return LabelSight(
        usable=len({one.blob or one.id for one in usable}),  # one reading teaches once, however often it is labelled
        short=short,
        new=len(new),
        corrected=sum(bool(one.is_wrong) for one in new),
        audited=_audited(known, nodes, serving, baseline.clocks(conn)),
        classes=classes,
        baseline=None if newest is None else _baseline(newest.measured),
        unknown=Counter(one.unknown for one in settled if one.unknown),
    )


def _audited(
    known: Sequence[Settled], nodes: Sequence[NodeSight], serving: Collection[str], ahead_s: Mapping[str, float]
) -> dict[str, Count]:
    """By node, the labels that tell how often the present model errs there now."""
    since_s = {one.node: one.since_s + ahead_s.get(one.node, 0.0) for one in nodes if one.since_s is not None}
    rows: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for one in known:
        is_known = one.is_drawn and one.is_wrong is not None and one.digest in serving
        if is_known and one.time_s >= since_s.get(one.node, -1.0):
            rows[one.node] += 1
            wrong[one.node] += bool(one.is_wrong)
    return {name: Count(rows[name], wrong[name]) for name in sorted(rows)}


def _last_taught_s(conn: Connection, task: str) -> float | None:
    """When the last dataset version with examples was made."""
    query = select(dataset.c.created_s, dataset.c.counts).where(dataset.c.task == task)
    for row in conn.execute(query.order_by(dataset.c.created_s.desc())):
        if row.counts.get("field", 0) + row.counts.get("feedback", 0):
            return float(row.created_s)
    return None


def _readings(conn: Connection, task: str, nodes: Sequence[NodeSight]) -> dict[str, int]:
    places = [one.place for one in nodes]
    found = baseline.readings(conn, task, places) if baseline.moved(places) else {}
    return {name: len(one.blobs) for name, one in found.items()}


def _serving(conn: Connection, task: str) -> set[str]:
    """Digests that nodes report to serve; every model of the task where no node says."""
    status = conn.execute(select(node.c.status).where(node.c.state == ACTIVE)).scalars()
    return {str(one[task]["digest"]) for one in status if task in one and one[task].get("digest")}


def _baseline(measured: Mapping[str, Any]) -> float | None:
    for name in ("accuracy test", "accuracy validation"):
        figure = measured.get(name)
        if isinstance(figure, Mapping) and isinstance(figure.get("value"), int | float):
            return 1.0 - float(figure["value"])
    return None


def _mappings(found: Any) -> list[Mapping[str, Any]]:
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
