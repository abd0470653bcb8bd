"""What a rollout sees of the fleet, read from the nodes' last heartbeats."""

from __future__ import annotations

import logging
from collections.abc import Sequence

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
    fitting: dict[NodeFacts, bool] = {}
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
        if facts not in fitting:
            fitting[facts] = fits_any(offers, facts)
        found.append(
            NodeView(
                id=row.id,
                cohort=cohort_of(cohorts, task, row.tags).name,
                online=row.seen_s is not None and abs(now_s - row.seen_s) <= online_s,
                seen_s=row.seen_s,
                status=status,
                tags=row.tags,
                fits=fitting[facts],
                quarantined=row.state == QUARANTINED,
            )
        )
    return found


def fits_any(offers: Sequence[Offer], facts: NodeFacts) -> bool:
    """Whether a node can run one of these."""
    return any(_fits(offer, facts) for offer in offers)


def _fits(offer: Offer, facts: NodeFacts) -> bool:
    try:
        check_fit(offer.fit, facts)
    except UnfitError:
        return False
    return True
