"""What each node is told to run: its cohort's version, or what a rollout wants of it, as members that fit it.

Rules:
- Only releases that the registry signed and has not taken back are named, and only to nodes that they fit. Where that
  leaves nothing, the version is None, which tells a node to keep what it has.
- A node is told of the tasks that it reports, and of those whose cohorts its tags make it a member of: so a new node
  begins.
- A quarantined node is told its policy alone, so nothing changes there.
- The policy of a task is its cohort's, then what the loop has set for the task; `context` in it names the cohort.
- What is the same for all nodes (`Plan`) is read once and kept until the fleet's serial number has another mark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, select

from edgehone.fleet import serial
from edgehone.fleet.choose import Offer, choose, node_facts
from edgehone.fleet.cohorts import Cohort, cohort_of, load_cohorts
from edgehone.fleet.heartbeat import Asking, Wish
from edgehone.fleet.nodes import ACTIVE
from edgehone.fleet.orders import Collect, load_orders
from edgehone.fleet.releases import load_offers
from edgehone.fleet.rollout import Rollout, desired_for
from edgehone.records.tables import node
from edgehone.records.tables import rollout as rollout_table
from edgehone_agent.fit import NodeFacts
from edgehone_agent.wire.uplink import MAX_TASKS, Desired, TaskStatus, Wants

_NOTHING = TaskStatus()  # of a task that a node does not have yet


@dataclass(frozen=True)
class Plan:
    """What the whole fleet is told.

    Attributes:
        serial: counts up with every change.
        cohorts: by task.
        rollouts: those that run or are paused, by task.
        offers: (task, version) → members, of releases that may be named.
        known: digest → the release that it is, also of what was taken back.
        orders: task → what the loop has all of its nodes told.
        collects: task → readings that are wanted.
    """

    serial: int = 0
    cohorts: Mapping[str, tuple[Cohort, ...]] = field(default_factory=dict)
    rollouts: Mapping[str, tuple[Rollout, ...]] = field(default_factory=dict)
    offers: Mapping[tuple[str, int], tuple[Offer, ...]] = field(default_factory=dict)
    known: Mapping[str, Offer] = field(default_factory=dict)
    orders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    collects: Mapping[str, Collect] = field(default_factory=dict)

    def desired(
        self, node_id: str, tags: Mapping[str, str], facts: NodeFacts, reported: Mapping[str, TaskStatus]
    ) -> dict[str, Desired]:
        """What an active node is told, by task that it reports or that its tags bring it. Pure.

        Args:
            node_id: its id.
            tags: its tags.
            facts: what it is.
            reported: task → what it says of it.
        """
        found = {task: self._one(node_id, task, tags, facts, status) for task, status in reported.items()}
        for task in self._brought(tags):
            if task not in found and len(found) < MAX_TASKS:
                wanted = self._one(node_id, task, tags, facts, _NOTHING)
                if wanted.version is not None:
                    found[task] = wanted
        return found

    def policy(self, task: str, cohort: Cohort) -> dict[str, Any]:
        """What nodes of a cohort are told of its policy."""
        return {**cohort.policy, **self.orders.get(task, {}), "context": cohort.name}

    def wants(self, cohorts: Mapping[str, Cohort], now_s: float) -> tuple[dict[str, Wants], float]:
        """What a node should send up besides the usual, and when that changes by itself.

        Args:
            cohorts: task → the node's cohort, of the tasks that it reports.
            now_s: the core's clock.
        """
        found, until_s = {}, math.inf
        for task, asked in self.collects.items():
            cohort = cohorts.get(task)
            if cohort is None or asked.until_s <= now_s or (asked.cohorts and cohort.name not in asked.cohorts):
                continue
            found[task] = Wants(samples=asked.samples)
            until_s = min(until_s, asked.until_s)
        return found, until_s

    def cohort(self, task: str, tags: Mapping[str, str]) -> Cohort:
        """The cohort of a node."""
        return cohort_of(self.cohorts.get(task, ()), task, tags)

    def _brought(self, tags: Mapping[str, str]) -> Iterable[str]:
        """Tasks of the cohorts that a node belongs to by its tags."""
        if not tags or not self._tagged:
            return ()
        mine = tags.items()
        return (one.task for one in self._tagged if one.tags.items() <= mine)

    @cached_property
    def _tagged(self) -> tuple[Cohort, ...]:
        return tuple(one for task in sorted(self.cohorts) for one in self.cohorts[task] if one.tags)

    def _one(self, node_id: str, task: str, tags: Mapping[str, str], facts: NodeFacts, status: TaskStatus) -> Desired:
        own = self.cohort(task, tags)
        rollout = next((one for one in self.rollouts.get(task, ()) if own.name in one.before), None)
        wanted = desired_for(rollout, own.name, own.version, node_id)
        now_runs = self.known.get(status.digest or "")

        def members(version: int | None) -> tuple[str, ...]:
            offers = self.offers.get((task, version), ()) if version is not None else ()
            return choose(offers, facts, status, now_runs=now_runs, policy=own.policy)

        names = members(wanted.version)
        if not names and wanted.version != own.version:  # the new one does not fit here
            wanted = Desired(own.version)
            names = members(own.version)
        if wanted.shadow is not None and not members(wanted.shadow):
            wanted = Desired(wanted.version)
        return replace(wanted, version=wanted.version if names else None, members=names, serial=self.serial)


_plans: WeakKeyDictionary[Engine, tuple[str, Plan]] = WeakKeyDictionary()


def current_plan(conn: Connection) -> Plan:
    """What the fleet is told now; read from the database when something has changed."""
    number, mark = serial.current(conn)
    kept = _plans.get(conn.engine)
    if kept is not None and kept[0] == mark:
        return kept[1]
    plan = _load(conn, number)
    _plans[conn.engine] = (mark, plan)
    return plan


def desired_state(
    conn: Connection,
    node_id: str,
    now_s: float,  # noqa: ARG001  a wish may depend on the time one day, and every caller has it
    reported: Mapping[str, TaskStatus] | None = None,
) -> dict[str, Desired]:
    """What a node is told to run, by task; empty for one that is not active or not known.

    Args:
        conn: the connection of the heartbeat's own transaction.
        node_id: who asks.
        now_s: the core's clock.
        reported: what it says in this heartbeat; None for what it said in the last.
    """
    query = select(node.c.state, node.c.tags, node.c.facts, *([node.c.status] if reported is None else []))
    row = conn.execute(query.where(node.c.id == node_id)).one_or_none()
    if row is None or row.state != ACTIVE:
        return {}
    if reported is None:
        reported = {task: TaskStatus.from_json(status) for task, status in row.status.items()}
    return current_plan(conn).desired(node_id, row.tags, node_facts(row.facts), reported)


def told(conn: Connection, asking: Asking) -> Wish:
    """What a node that has a heartbeat is told: desired releases, policies, and what it is asked for.

    See `heartbeat.Wishes`.
    """
    plan = current_plan(conn)
    cohorts = {task: plan.cohort(task, asking.tags) for task in asking.tasks}
    if asking.state != ACTIVE:
        return Wish(policy={task: plan.policy(task, cohort) for task, cohort in cohorts.items()})
    desired = plan.desired(asking.node, asking.tags, node_facts(asking.facts), asking.tasks)
    wants, until_s = plan.wants(cohorts, asking.now_s) if plan.collects else ({}, math.inf)
    for task in desired.keys() - cohorts.keys():
        cohorts[task] = plan.cohort(task, asking.tags)
    return Wish(desired, {task: plan.policy(task, cohort) for task, cohort in cohorts.items()}, wants, until_s)


def _load(conn: Connection, number: int) -> Plan:
    cohorts: dict[str, list[Cohort]] = {}
    for cohort in load_cohorts(conn):
        cohorts.setdefault(cohort.task, []).append(cohort)
    rollouts: dict[str, list[Rollout]] = {}
    for content in conn.execute(
        select(rollout_table.c.content)
        .where(rollout_table.c.state.in_(("running", "paused")))
        .order_by(rollout_table.c.started_s, rollout_table.c.id)
    ).scalars():
        rollout = Rollout.from_json(content)
        rollouts.setdefault(rollout.task, []).append(rollout)
    offers, known = load_offers(conn)
    return Plan(number, _frozen(cohorts), _frozen(rollouts), offers, known, *load_orders(conn))


def _frozen(lists: Mapping[str, list[Any]]) -> dict[str, tuple[Any, ...]]:
    return {task: tuple(found) for task, found in lists.items()}
