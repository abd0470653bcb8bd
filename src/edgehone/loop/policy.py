"""What the loop may do for a task: a policy, as data, in the table `setting` under "loop:TASK".

Rules:
- A task without a policy is left alone: nothing is diagnosed, nothing is trained.
- A name that is not known, or a value of another kind or out of range, is refused with the name of the field.
- Shares are from 0 to 1, metrics in percentage points (pp), times in seconds.
- What nodes have to know of it goes out with their next answer: `save_policy` tells them how to learn by themselves,
  and how many labels are known to be wrong (`fleet.orders.tell`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from sqlalchemy import Connection, select

from edgehone.bundle.card import MIN_ROWS
from edgehone.errors import InputError
from edgehone.fleet import orders
from edgehone.fleet.rollout import RolloutPlan
from edgehone.records import audit
from edgehone.records.database import upsert
from edgehone.records.tables import setting
from edgehone.registry.names import check_task
from edgehone_agent.watch.risk import MOST_LABEL_ERROR

PREFIX = "loop:"
Approve = Literal["auto", "manual"]
Where = Literal["core", "statistics", "last-layer"]
NodeLearning = Literal["", "statistics", "last-layer"]
DAY_S = 86_400.0
MOST_RATE = 10.0
MOST_SHARE = 0.9
_LEVELS = (1, 2, 3)


@dataclass(frozen=True)
class LoopPolicy:
    """The policy of a task.

    Attributes:
        task: its name, as the registry and the nodes know it.
        source: where its training data comes from: a built-in name or "path/to/task.py[:name]".
        study: folder of the family that is served; later rounds start from the newest that was promoted.
        members: of the family, that are trained anew and released, most preferred first.
        where: to learn when answers got worse: at the core, in rounds; or only on the nodes, by estimating their input
            statistics again ("statistics") or by a change of the last layer ("last-layer").
        node_learning: what nodes learn by themselves beside the core's rounds; "" for nothing.
        approve: who lets a release be signed: the core by itself, or a person.
        drift_level, risk_level: levels of a node's watch and of its labels that count, 1 to 3 for evidence of 1e3, 1e5,
            1e6.
        tolerance: how far above its measured share of errors a model may err.
        flat_margin: errors that are shown to be no more than this above the measured share have not risen.
        label_error: share of the labels that are known to be wrong; of classes only.
        min_labels: usable labels that training needs.
        min_labels_per_class: a class with fewer is left out of a dataset version.
        min_audited: labels of uniformly drawn samples before the risk counts as known.
        card_readings: uniformly drawn readings of a cohort that a drift reference of its own needs.
        collect_samples: that a node may send at a heartbeat while samples are collected.
        collect_s: for how long they are, each time.
        fault_after_s: how long a sensor has to look broken, in two reports at least, until that is a fault.
        corrections: new corrected labels, beyond those that measured errors explain, that are a reason to train; 0 for
            never.
        new_class_labels: labels of one unknown class before a person is told that a new study is needed.
        schedule_days: a refresh when there was none for so long; 0 for never.
        cool_down_s: between the end of a round and the next.
        rounds_per_week: the budget.
        epsilon_pp: what the old slice may lose, at the bad end of the interval.
        least_gain_pp: what the new slice must gain, at the bad end of the interval.
        flip_limit: share of answers on old data that may change.
        latency_ratio, size_ratio: of a member's new file to its old one.
        held_share: of the examples, held out to judge by.
        most_examples: in a dataset version; the newest stay.
        node_share, annotator_share: of a dataset version that may come from one of them.
        min_trust: labels of an annotator who is trusted less teach nothing.
        poison_bound: chance that any honest node or annotator is ever put aside by the test for poisoned labels.
        poison_margin: how much more often than its peers a source may contradict the model and the audit.
        epochs: passes of the training.
        rate: its learning rate, as a share of that of the task's recovery: it starts from weights that are good.
        share: of the field's examples in what is learnt, at the least; they are repeated beside replayed old ones.
        memory_bytes: most memory of the training process; 0 for no bound.
        rollout: settings of the rollout that differ from `RolloutPlan`'s own.
    """

    task: str
    source: str
    study: str
    members: tuple[str, ...]
    where: Where = "core"
    node_learning: NodeLearning = ""
    approve: Approve = "manual"
    drift_level: int = 2
    risk_level: int = 2
    tolerance: float = 0.01
    flat_margin: float = 0.05
    label_error: float = 0.0
    min_labels: int = 60
    min_labels_per_class: int = 5
    min_audited: int = 50
    card_readings: int = 300
    collect_samples: int = 100
    collect_s: float = 86_400.0
    fault_after_s: float = 300.0
    corrections: int = 200
    new_class_labels: int = 20
    schedule_days: float = 0.0
    cool_down_s: float = 6 * 3600.0
    rounds_per_week: int = 14
    epsilon_pp: float = 1.0
    least_gain_pp: float = 0.5
    flip_limit: float = 0.05
    latency_ratio: float = 1.25
    size_ratio: float = 1.1
    held_share: float = 0.3
    most_examples: int = 20_000
    node_share: float = 0.5
    annotator_share: float = 0.5
    min_trust: float = 0.5
    poison_bound: float = 0.01
    poison_margin: float = 0.15
    epochs: float = 3.0
    rate: float = 0.3
    share: float = 0.25
    memory_bytes: int = 0
    rollout: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_task(self.task)
        for name, value in self._shares().items():
            _demand(0 <= value <= 1, name, f"{value} is no share from 0 to 1")
        for name in ("held_share", "poison_bound", "node_share", "annotator_share"):
            _demand(getattr(self, name) > 0, name, "must be above 0")
        _demand(self.held_share < 1, "held_share", "leaves nothing to learn from")
        _demand(bool(self.source) and bool(self.study), "study", "a task needs its source and its study")
        _demand(bool(self.members) and len(set(self.members)) == len(self.members), "members", "name each member once")
        for name in _WHOLE:
            _demand(getattr(self, name) >= 0, name, "must not be negative")
        _demand(self.label_error <= MOST_LABEL_ERROR, "label_error", f"is above {MOST_LABEL_ERROR}")
        _demand(self.card_readings >= MIN_ROWS, "card_readings", f"a reference needs {MIN_ROWS}, better thousands")
        for name in ("cool_down_s", "collect_s", "fault_after_s", "schedule_days", "epsilon_pp", "least_gain_pp"):
            _demand(getattr(self, name) >= 0, name, "must not be negative")
        _demand(self.min_labels > 0 and self.most_examples >= self.min_labels, "min_labels", "is out of range")
        _demand(self.epochs > 0, "epochs", "must be above 0")
        _demand(0 < self.rate <= MOST_RATE, "rate", f"must be above 0, and no more than {MOST_RATE:g}")
        _demand(
            0 <= self.share <= MOST_SHARE, "share", f"is none from 0 to {MOST_SHARE}: the rest is replayed old data"
        )
        _demand(min(self.latency_ratio, self.size_ratio) >= 1, "latency_ratio", "a ratio is at least 1")
        _demand({self.drift_level, self.risk_level} <= set(_LEVELS), "drift_level", "a level is 1, 2 or 3")
        _demand(self.where in get_args(Where), "where", f"is none of {', '.join(get_args(Where))}")
        kinds = get_args(NodeLearning)
        _demand(self.node_learning in kinds, "node_learning", f"is none of {', '.join(map(repr, kinds))}")
        _demand(self.node_learning in ("", self.learn), "node_learning", f"differs from where, which is {self.where}")
        _demand(self.approve in get_args(Approve), "approve", f"is none of {', '.join(get_args(Approve))}")
        self.plan()

    @property
    def learn(self) -> NodeLearning:
        """What nodes learn by themselves."""
        return self.node_learning if self.where == "core" else self.where

    def plan(self) -> RolloutPlan:
        """The rollout's plan. Raises InputError."""
        known = {one.name for one in fields(RolloutPlan)}
        strange = sorted(set(self.rollout) - known)
        _demand(not strange, "rollout", f"there is no setting {', '.join(strange)} of a rollout")
        return RolloutPlan.from_json({**asdict(RolloutPlan()), **self.rollout})

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return {**asdict(self), "members": list(self.members)}

    def _shares(self) -> dict[str, float]:
        names = (
            "tolerance",
            "flat_margin",
            "label_error",
            "flip_limit",
            "held_share",
            "node_share",
            "annotator_share",
            "min_trust",
        )
        return {name: getattr(self, name) for name in (*names, "poison_bound", "poison_margin")}


_TEXTS = ("task", "source", "study", "where", "node_learning", "approve")
_WHOLE = tuple(one.name for one in fields(LoopPolicy) if one.type == "int")
_NUMBERS = tuple(one.name for one in fields(LoopPolicy) if one.type == "float")


def read_policy(task: str, data: Mapping[str, Any]) -> LoopPolicy:
    """A policy from an object.

    Args:
        task: the task that it is for.
        data: fields of `LoopPolicy`; `task` may be left out.

    Raises:
        InputError: a name that is not known, a field that is missing, of another kind or out of range.
    """
    known = {one.name for one in fields(LoopPolicy)}
    strange = sorted(set(map(str, data)) - known)
    _demand(not strange, ", ".join(strange), "the policy has no such field", f"use {', '.join(sorted(known))}")
    values = {"task": task, **data}
    _demand(values["task"] == task, "task", f"is {values['task']!r}, and the policy is for {task!r}")
    for name in ("source", "study", "members"):
        _demand(name in values, name, "is missing")
    return LoopPolicy(**{name: _checked(name, value) for name, value in values.items()})


def load_policy(conn: Connection, task: str) -> LoopPolicy | None:
    """The policy of a task; None where there is none. Raises InputError for one that cannot be read."""
    found = conn.execute(select(setting.c.value).where(setting.c.key == PREFIX + task)).scalar_one_or_none()
    return None if found is None else read_policy(task, found)


def list_policies(conn: Connection) -> list[LoopPolicy]:
    """Every policy, in the order of the tasks. Raises InputError for one that cannot be read."""
    query = select(setting.c.key, setting.c.value).where(setting.c.key.startswith(PREFIX)).order_by(setting.c.key)
    return [read_policy(row.key.removeprefix(PREFIX), row.value) for row in conn.execute(query)]


def policy_tasks(conn: Connection) -> list[str]:
    """Tasks that have a policy, in order."""
    query = select(setting.c.key).where(setting.c.key.startswith(PREFIX)).order_by(setting.c.key)
    return [key.removeprefix(PREFIX) for key in conn.execute(query).scalars()]


def save_policy(conn: Connection, policy: LoopPolicy, *, actor: str, now_s: float) -> None:
    """Keep a policy and have nodes told their part of it, in the transaction of the caller."""
    value = policy.to_json()
    row = {"key": PREFIX + policy.task, "value": value, "changed_s": now_s}
    conn.execute(upsert(setting, [row], keys=["key"], update=["value", "changed_s"]))
    orders.tell(conn, policy.task, {"learn": policy.learn, "label_error": policy.label_error}, now_s)
    audit.record(conn, now_s=now_s, actor=actor, action="loop.policy", subject=policy.task, detail=value)


def _checked(name: str, value: Any) -> Any:
    if name in _TEXTS:
        _demand(isinstance(value, str), name, "is no text")
        return value
    if name in _WHOLE:
        _demand(type(value) is int and abs(value) < 1 << 53, name, "is no whole number")
        return value
    if name in _NUMBERS:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        _demand(is_number, name, "is no number")
        return float(value)
    if name == "members":
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        _demand(is_list and all(isinstance(one, str) for one in value), name, "is no list of names")
        return tuple(value)
    _demand(isinstance(value, Mapping), name, "is no object")
    return dict(value)


def _demand(holds: bool, name: str, what: str, do: str = "see docs/how-to/close-the-loop.md for every field") -> None:
    if not holds:
        raise InputError(what, where=f"loop policy: {name}", do=do)
