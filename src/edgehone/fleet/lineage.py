"""Which bytes answered on a node, from when to when, where they come from, and why others took their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, or_, select

from edgehone.errors import InputError
from edgehone.records.tables import dataset, decision, node, release, rollout, round, served


@dataclass(frozen=True)
class Stint:
    """One bundle's time on a node.

    Attributes:
        task, digest, version, member: what answered.
        from_s, to_s: when; `to_s` is None while it does.
        came: why it came, as the node's report showed it.
        left: why it was replaced; "" while it answers.
        recipe: how it was compressed.
        parent: digest of the bundle that it follows.
        approved_by: who signed it, or let it be signed.
        dataset: digest of the dataset version that it was trained on; None where none is known.
        counts: examples of that version by source: field, feedback, replay.
        round: of the loop that made it.
        trigger, trigger_why: what began that round.
        rollouts: that brought this version, newest first: id, state, why.
        revoked_s: when the registry took it back.
        known: False for bytes that this core's registry never listed.
    """

    task: str
    digest: str
    version: int
    member: str
    from_s: float
    to_s: float | None
    came: str
    left: str = ""
    recipe: str = ""
    parent: str | None = None
    approved_by: str = ""
    dataset: str | None = None
    counts: dict[str, Any] = field(default_factory=dict)
    round: str | None = None
    trigger: str = ""
    trigger_why: str = ""
    rollouts: tuple[dict[str, Any], ...] = ()
    revoked_s: float | None = None
    known: bool = False


@dataclass(frozen=True)
class Lineage:
    """A node and all that answered there, newest first."""

    node: str
    name: str
    state: str
    stints: tuple[Stint, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return asdict(self)


def lineage(conn: Connection, name: str, *, task: str | None = None) -> Lineage:
    """The lineage of a node.

    Args:
        name: its name or its id.
        task: only this one.

    Raises:
        InputError: there is no such node.
    """
    who = conn.execute(select(node).where(or_(node.c.id == name, node.c.name == name)).limit(1)).one_or_none()
    if who is None:
        raise InputError("there is no such node", where=name[:64], do="look at `edgehone fleet list`")
    query = select(served).where(served.c.node == who.id).order_by(served.c.task, served.c.from_s, served.c.id)
    rows = conn.execute(query if task is None else query.where(served.c.task == task)).all()
    stints = [_stint(conn, row, _next(rows, index)) for index, row in enumerate(rows)]
    return Lineage(who.id, who.name, who.state, tuple(sorted(stints, key=lambda one: (-one.from_s, one.task))))


def _next(rows: Sequence[Row[Any]], index: int) -> Row[Any] | None:
    after = rows[index + 1] if index + 1 < len(rows) else None
    return after if after is not None and after.task == rows[index].task else None


def _stint(conn: Connection, row: Row[Any], after: Row[Any] | None) -> Stint:
    found = conn.execute(select(release).where(release.c.digest == row.digest)).one_or_none()
    rollouts = _rollouts(conn, row.task, row.version)
    stint: dict[str, Any] = {
        "task": row.task, "digest": row.digest, "version": row.version, "member": row.member,
        "from_s": row.from_s, "to_s": row.to_s, "came": row.why, "rollouts": rollouts,
        "left": "" if row.to_s is None else _left(conn, row, after, rollouts),
    }  # fmt: skip
    if found is None:
        return Stint(**stint)
    made_from = None
    if found.dataset is not None:
        made_from = conn.execute(select(dataset.c.counts).where(dataset.c.digest == found.dataset)).scalar()
    return Stint(
        **stint, recipe=found.recipe, parent=found.parent, approved_by=found.approved_by, dataset=found.dataset,
        counts=made_from or {}, revoked_s=found.revoked_s, known=True, **_trigger(conn, found.round),
    )  # fmt: skip


def _left(conn: Connection, row: Row[Any], after: Row[Any] | None, rollouts: tuple[dict[str, Any], ...]) -> str:
    """Why other bytes took its place: the node went back from it, or something newer came."""
    if after is None:
        return "the node reports no model any more"
    given_up = next((one for one in rollouts if one["state"] in ("aborted", "rolled back")), None)
    if after.version < row.version:
        return f"{given_up['state']}: {given_up['why']}" if given_up else after.why
    if after.version == row.version:
        return f"another member of the same version: {after.member}"
    brought = _rollouts(conn, row.task, after.version)
    return f"version {after.version} came" + (f" with rollout {brought[0]['id']}" if brought else "")


def _rollouts(conn: Connection, task: str, version: int) -> tuple[dict[str, Any], ...]:
    query = (
        select(rollout.c.id, rollout.c.state, rollout.c.content, rollout.c.started_s)
        .where(rollout.c.task == task, rollout.c.version == version)
        .order_by(rollout.c.started_s.desc())
    )
    return tuple(
        {"id": row.id, "state": row.state, "why": row.content.get("why", ""), "started_s": row.started_s}
        for row in conn.execute(query)
    )


def _trigger(conn: Connection, id: str | None) -> dict[str, Any]:
    """The round that made a release, and the decision that began it."""
    if id is None:
        return {"round": None}
    first = conn.execute(select(decision).where(decision.c.round == id).order_by(decision.c.id).limit(1)).one_or_none()
    if first is not None:
        return {"round": id, "trigger": first.trigger, "trigger_why": first.why}
    why = conn.execute(select(round.c.why).where(round.c.id == id)).scalar()
    return {"round": id, "trigger_why": why or ""}
