"""What a rollout sees of the fleet, read from the nodes' last heartbeats."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, select

from edgehone.fleet.choose import Offer, node_facts
from edgehone.fleet.cohorts import cohort_of, load_cohorts
from edgehone.fleet.nodes import QUARANTINED, REVOKED
from edgehone.fleet.observed import NodeView
from edgehone.records.tables import node
from edgehone_agent.errors import BundleError, UnfitError
from edgehone_agent.fit import NodeFacts, check_fit
from edgehone_agent.wire.uplink import TaskStatus

ONLINE_S = 180.0
"""A node that was heard of within this time is asked and judged: three heartbeats of a minute."""

_MOST_KINDS = 10_000
_LOG = logging.getLogger("edgehone.fleet")


def node_views(
    conn: Connection, task: str, offers: Sequence[Offer], now_s: float, *, online_s: float = ONLINE_S
) -> list[NodeView]:
    """Every node that reports a task and is not revoked.

    Args:
        task: the task.
        offers: members of the release that is rolled out; a node that none fits does not take part.
        now_s: the core's clock. A time that lies ahead of it by as little as `online_s` counts as now.
        online_s: how long ago a node that is online may have been heard of.
    """
    cohorts = load_cohorts(conn, task)
    fitting = Fitting(offers)
    found = []
    for row in conn.execute(select(node).where(node.c.state != REVOKED).order_by(node.c.id)):
        reported = row.status.get(task)
        if reported is None:
            continue
        try:
            status, facts = TaskStatus.from_json(reported), node_facts(row.facts)
        except BundleError as error:  # one node's bad row must not stop the fleet
            _LOG.warning("node %s is left out: %s", row.id, error)
            continue
        found.append(
            NodeView(
                id=row.id,
                cohort=cohort_of(cohorts, task, row.tags).name,
                online=row.seen_s is not None and abs(now_s - row.seen_s) <= online_s,
                seen_s=row.seen_s,
                status=status,
                tags=row.tags,
                fits=fitting.one(facts, facts.memory_bytes),
                quarantined=row.state == QUARANTINED,
            )
        )
    return found


class Fitting:
    """Whether a node can run one of some offers: asked once for each kind of node.

    Args:
        offers: members of a release.
    """

    def __init__(self, offers: Sequence[Offer]) -> None:
        self._offers = offers
        self._needs_bytes = sorted({offer.fit.memory_bytes for offer in offers})
        self._known: dict[tuple[str, tuple[str, ...], str, int], bool] = {}

    def one(self, facts: NodeFacts, memory_bytes: int | None) -> bool:
        """Whether a node that is this, with this memory in place of the facts', can."""
        # no two nodes have the same memory, but what matters is how many of the needs it meets
        met = -1 if memory_bytes is None else bisect_right(self._needs_bytes, memory_bytes)
        key = (facts.machine, facts.runtimes, facts.agent, met)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_KINDS:
                self._known.clear()
            whole = replace(facts, memory_bytes=memory_bytes)
            known = self._known[key] = any(_fits(offer, whole) for offer in self._offers)
        return known


def _fits(offer: Offer, facts: NodeFacts) -> bool:
    try:
        check_fit(offer.fit, facts)
    except UnfitError:
        return False
    return True
