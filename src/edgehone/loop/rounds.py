"""Rounds in the database, and the driver that takes them on. Each phase can be killed anywhere and is taken up again.

Rules:
- A round's state is one row, changed by compare and set: of two drivers (the core and the command line) one wins each
  step, and what a phase does outside the database is the same when it is done twice.
- What a phase makes lies in ROUNDS/ID/: the trained study, the bundles, what the process said. A dataset is a blob.
- The version of a release is chosen before it is bundled. If somebody else takes it meanwhile, it is bundled again.
- `publish`, `releases.sync` and `trace` may be repeated; the id of a rollout comes from the round's, so there is one.
- A round that is refused or fails starts the cool-down, and never keeps the next one from beginning.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from edgehone.bundle import said as study_said
from edgehone.errors import InputError
from edgehone.fleet import releases, rollouts
from edgehone.fleet.nodes import ACTIVE
from edgehone.loop import baseline, gate
from edgehone.loop import round as machine
from edgehone.loop.dataset import HELD, LEARN, Manifest, Readings, compose, forget, read_manifest, store
from edgehone.loop.policy import LoopPolicy, read_policy
from edgehone.loop.process import Workers
from edgehone.loop.round import Round
from edgehone.loop.said import read_said
from edgehone.loop.sight import look_at_nodes
from edgehone.loop.trust import settle
from edgehone.loop.worker import BUNDLES, FAILED, STOP, STUDY, TRAINED
from edgehone.record import StudyRecord
from edgehone.records import audit
from edgehone.records.blobs import Blobs
from edgehone.records.database import Database, upsert
from edgehone.records.tables import decision, node, release, setting
from edgehone.records.tables import round as table
from edgehone.registry.keys import KeyRing, Passphrases
from edgehone.report.study_file import read as read_study
from edgehone_agent.bundle import open_bundle
from edgehone_agent.errors import EdgehoneError, HostError, StateError, TrustError

CORE = "core"
FAMILY = "family:"  # + task: the study that the next round starts from
MOST_ATTEMPTS = 4
KEPT_FOLDERS = 3  # of rounds that have ended, besides the one whose family is served


@dataclass(frozen=True)
class Site:
    """Where a core's loop works: its database, blobs and their URL, and the folders of rounds, registry and keys."""

    database: Database
    blobs: Blobs
    blobs_url: str
    rounds: Path
    registry: Path
    keys: Path

    def ring(self) -> KeyRing:
        """The keys that need no passphrase."""
        return KeyRing([self.keys], Passphrases())


def begin(
    conn: Connection,
    policy: LoopPolicy,
    *,
    now_s: float,
    actor: str,
    trigger: str,
    why: str,
    kind: machine.Kind = "retrain",
    cohorts: Sequence[str] = (),
    id: str | None = None,
) -> Round:
    """Begin a round, in the transaction of the caller.

    Args:
        conn: to write with.
        policy: of the task.
        now_s: the core's clock.
        actor: who begins it.
        trigger: what called for it.
        why: for people.
        kind: a new model, or the same one with new drift references.
        cohorts: that get a new reference in a re-baseline.
        id: of the round; drawn when None.

    Raises:
        InputError: a round of this task has not ended.
    """
    running = current(conn, policy.task)
    if running is not None:
        raise InputError(
            f"a round of {policy.task!r} is {running.state} in the phase {running.phase}",
            where=running.id,
            do="wait until it ends, or abort it",
        )
    new = Round(
        id or secrets.token_hex(8), policy.task, trigger, policy.to_json(), family(conn, policy), now_s, now_s, why=why,
        began=why, kind=kind, cohorts=tuple(cohorts),
    )  # fmt: skip
    row = {
        "id": new.id, "task": new.task, "phase": new.phase, "state": new.state, "content": new.to_json(),
        "started_s": now_s, "ended_s": None, "why": why,
    }  # fmt: skip
    conn.execute(insert(table).values(**row))
    detail = {"task": new.task, "kind": kind, "trigger": trigger, "why": why}
    audit.record(conn, now_s=now_s, actor=actor, action="round.begin", subject=new.id, detail=detail)
    return new


def current(conn: Connection, task: str) -> Round | None:
    """The round of a task that has not ended; None for none."""
    query = select(table.c.content).where(table.c.task == task, table.c.state.in_(("running", "waiting")))
    content = conn.execute(query.order_by(table.c.started_s).limit(1)).scalar_one_or_none()
    return None if content is None else Round.from_json(content)


def find_round(conn: Connection, id: str) -> Round:
    """A round by its id, or by the first characters of it. Raises InputError when there is none or several."""
    query = select(table.c.id, table.c.content).where(table.c.id.startswith(id, autoescape=True)).order_by(table.c.id)
    found = conn.execute(query.limit(2)).all() if id else []
    if not found or (len(found) > 1 and found[0].id != id):
        what = "several rounds begin like this" if found else "no round has this id"
        raise InputError(what, where=id[:64], do="look at `edgehone loop history`")
    return Round.from_json(found[0].content)


def list_rounds(conn: Connection, task: str | None = None, *, limit: int = 100) -> list[Round]:
    """Rounds, newest first."""
    query = select(table.c.content).order_by(table.c.started_s.desc(), table.c.id).limit(limit)
    if task is not None:
        query = query.where(table.c.task == task)
    return [Round.from_json(content) for content in conn.execute(query).scalars()]


def family(conn: Connection, policy: LoopPolicy) -> str:
    """The study that the next round starts from: of the last round that was promoted, else the policy's."""
    found = conn.execute(select(setting.c.value).where(setting.c.key == FAMILY + policy.task)).scalar_one_or_none()
    return str(found["study"]) if found else policy.study


def approve(db: Database, id: str, *, actor: str, now_s: float) -> Round:
    """Let a round that waits be signed. Raises InputError when it does not wait."""
    with db.write() as conn:
        before = find_round(conn, id)
        after = machine.approved(before, actor, now_s)
        return _write(conn, before, after, now_s, actor, "round.approve") or before


def abort(site: Site, id: str, *, actor: str, now_s: float, why: str = "") -> Round:
    """End a round; its training stops, and a rollout of it that runs is sent back.

    Raises:
        InputError: no such round, or it has ended.
    """
    with site.database.write() as conn:
        before = find_round(conn, id)
        after = machine.ended(before, "aborted", why or f"ended by {actor}", now_s)
        _write(conn, before, after, now_s, actor, "round.abort")
    folder = site.rounds / before.id
    if folder.is_dir():
        (folder / STOP).touch()
    if before.rollout is not None:
        with suppress(InputError):  # it was not begun yet, or has ended
            rollouts.abort(site.database, before.rollout, now_s=now_s, actor=actor, why=after.why)
    return after


def advance(
    site: Site, round: Round, now_s: float, workers: Workers, *, ring: KeyRing | None = None, until: str = "done"
) -> Round:  # fmt: skip
    """Take a round as far as it can go now, and return it as it is then.

    Args:
        site: where.
        round: as it was read.
        now_s: the core's clock.
        workers: the training processes of this driver.
        ring: keys for signing; None for those that need no passphrase.
        until: the last phase to pass.

    Raises:
        StateError, HostError: the disk or the database cannot be used; the round is left as it is.
    """
    last = machine.PHASES.index(until)
    while not round.ended and round.state != "waiting" and machine.PHASES.index(round.phase) <= last:
        try:
            after = _STEPS[round.phase](site, round, now_s, workers, ring)
        except HostError:  # this machine cannot now; the round can later
            raise
        except EdgehoneError as error:
            after = machine.ended(round, "failed", str(error).splitlines()[0], now_s)
        if after == round:
            break
        with site.database.write() as conn:
            written = _write(conn, round, after, now_s, CORE, f"round.{after.state}" if after.ended else "")
            if written is None:  # somebody else was faster
                return find_round(conn, round.id)
        if after.ended:
            _tidy(site, after)
        is_same_phase = after.phase == round.phase
        round = after
        if is_same_phase:
            break
    return round


def _data(site: Site, round: Round, now_s: float, workers: Workers, ring: KeyRing | None) -> Round:  # noqa: ARG001
    policy = _policy(round)
    study = read_study(Path(round.study))
    forget(site.database, site.blobs, round.task)
    own = own_contexts(site, round.task)
    with site.database.read() as conn:
        places = [one.place for one in look_at_nodes(conn, policy)]
        seen = baseline.readings(conn, round.task, places, own=own, only=round.cohorts)
        version, parent = _next_version(conn, round.task), _parents(conn, round.task)
    contexts = {name: one for name, one in seen.items() if len(one.blobs) >= policy.card_readings}
    if round.kind == "retrain":
        manifest = replace(_examples(site, policy, study), contexts=contexts)
        why = _too_few(manifest, policy)
    else:
        with site.database.read() as conn:
            parent = _served(conn, round.task)
        manifest = Manifest(round.task, study_said.labels(study), contexts=contexts)
        why = gate.too_few_readings({name: len(one.blobs) for name, one in seen.items()}, round.cohorts, policy)
    if why:
        return machine.ended(round, "refused", why, now_s)
    digest = store(site.database, site.blobs, manifest, now_s)
    return machine.passed(round, "data", now_s, dataset=digest, version=version, parent=parent)


def _examples(site: Site, policy: LoopPolicy, study: StudyRecord) -> Manifest:
    labels, is_classes = study_said.labels(study), study_said.text(study, "kind") == "classification"
    with site.database.read() as conn:
        said = read_said(conn, policy.task, labels, is_classes=is_classes)
    return compose(policy, labels, settle(said, min_trust=policy.min_trust))


def _too_few(manifest: Manifest, policy: LoopPolicy) -> str:
    """Why nothing can be learnt from a dataset version; "" when it can."""
    splits = manifest.counts()["splits"]
    if len(manifest.examples) >= policy.min_labels and splits.get(LEARN) and splits.get(HELD):
        return ""
    left = ", ".join(f"{name}: {count}" for name, count in manifest.left_out.items())
    return f"{len(manifest.examples)} examples are left of what was labelled, {policy.min_labels} are needed ({left})"


def _train(site: Site, round: Round, now_s: float, workers: Workers, ring: KeyRing | None) -> Round:  # noqa: ARG001
    if round.kind == "re-baseline":
        return machine.passed(round, "train", now_s)
    return _by_worker(site, round, now_s, workers, TRAINED)


def _compress(site: Site, round: Round, now_s: float, workers: Workers, ring: KeyRing | None) -> Round:  # noqa: ARG001
    return _by_worker(site, round, now_s, workers, BUNDLES)


def _by_worker(site: Site, round: Round, now_s: float, workers: Workers, file: str) -> Round:
    folder = site.rounds / round.id
    done = _read(folder / file)
    if file == TRAINED and done is not None:
        return machine.passed(round, "train", now_s, figures=tuple(done["members"]))
    if done is not None and done.get("version") == round.version:
        return machine.passed(round, "compress", now_s, contexts=done.get("contexts", {}))
    failed = _read(folder / FAILED)
    if failed is not None:
        return machine.ended(round, "failed", f"the training failed: {failed['text']}", now_s)
    if workers.is_alive(folder):
        return replace(round, progress=workers.said(folder))
    if round.attempts >= MOST_ATTEMPTS:
        why = f"the training process ended {round.attempts} times without a result: {workers.said(folder)}"
        return machine.ended(round, "failed", why, now_s)
    policy = _policy(round)
    spec = {
        "folder": str(folder), "study": round.study, "source": policy.source, "kind": round.kind,
        "members": list(policy.members if round.kind == "retrain" else round.parent),
        "card_readings": policy.card_readings,
        "epochs": policy.epochs, "rate": policy.rate, "share": policy.share,
        "seed": int(round.id[:7], 16) if _is_hex(round.id[:7]) else 0, "threads": 1,
        "memory_bytes": policy.memory_bytes, "dataset": round.dataset, "blobs": site.blobs_url,
        "version": round.version, "parent": dict(round.parent),
        "created": datetime.fromtimestamp(round.started_s, UTC).isoformat(),
    }  # fmt: skip
    if done is not None:  # bundles of another version
        (folder / BUNDLES).unlink(missing_ok=True)
    workers.start(folder, spec)
    return replace(round, attempts=round.attempts + 1, progress="starting the training process")


def _gate(site: Site, round: Round, now_s: float, workers: Workers, ring: KeyRing | None) -> Round:  # noqa: ARG001
    policy = _policy(round)
    if round.kind == "retrain":
        verdicts = gate.judge(round.figures, policy)
    else:
        models = _models(site, round)
        verdicts = gate.judge_same(models, round.cohorts, round.contexts, policy)
    good = tuple(verdict.member for verdict in verdicts if verdict.ok)
    told = tuple(verdict.to_json() for verdict in verdicts)
    if not good:
        refused = machine.ended(round, "refused", " | ".join(verdict.why for verdict in verdicts), now_s)
        return replace(refused, verdicts=told)
    order = [name for name in policy.members if name in good] + [name for name in good if name not in policy.members]
    return machine.passed(round, "gate", now_s, members=tuple(order), verdicts=told)


def _models(site: Site, round: Round) -> dict[str, tuple[gate.Models, gate.Models]]:
    """Member → model files of its new bundle, and of the one that it follows."""
    from edgehone.registry.names import blob_path, bundle_path
    from edgehone.registry.store import Store

    with site.database.read() as conn:
        served = select(release.c.member, release.c.digest, release.c.version)
        rows = conn.execute(served.where(release.c.digest.in_(list(round.parent.values())))).all()
    found = {}
    for row in rows:
        old = Path(Store(site.registry).place(blob_path(bundle_path(round.task, row.version, row.member), row.digest)))
        found[row.member] = (_model_files(site.rounds / round.id / f"{row.member}.bundle"), _model_files(old))
    return found


def _model_files(path: Path) -> gate.Models:
    with open_bundle(path) as bundle:
        return {part.path: part.sha256 for part in bundle.manifest.parts if part.role == "model"}


def _sign(site: Site, round: Round, now_s: float, workers: Workers, ring: KeyRing | None) -> Round:  # noqa: ARG001
    from edgehone.registry.create import load_anchor
    from edgehone.registry.publish import publish
    from edgehone.registry.store import Store

    if _policy(round).approve == "manual" and not round.approved_by:
        return machine.waiting(round, f"version {round.version} is ready: a person has to approve it")
    ring = ring or site.ring()
    folder = site.rounds / round.id
    anchor, registry = load_anchor(ring), Store(site.registry)
    releases.sync(site.database, registry, now_s, anchor=anchor)
    with site.database.read() as conn:
        held = conn.execute(
            select(release.c.round, release.c.digest).where(
                release.c.task == round.task, release.c.version == round.version
            )
        ).all()
        highest = _next_version(conn, round.task)
    bundles = [folder / f"{name}.bundle" for name in round.members]
    mine = {hashlib.sha256(path.read_bytes()).hexdigest() for path in bundles}
    if held and {row.digest for row in held} != mine:
        return machine.back_to_compress(round, highest, now_s)
    try:
        publish(registry, ring, bundles, [], datetime.fromtimestamp(now_s, UTC), anchor=anchor)
    except InputError as error:
        if isinstance(error, TrustError) or "passphrase" in str(error):
            why = f"it cannot be signed here ({error.what}): run `edgehone loop approve {round.id[:8]}`"
            return machine.waiting(round, why)
        raise
    releases.sync(site.database, registry, now_s, anchor=anchor)
    with site.database.write() as conn:
        releases.trace(
            conn, round.task, round.version or 0, dataset=round.dataset, round=round.id,
            approved_by=round.approved_by or "core, by the policy",
        )  # fmt: skip
    rollout = hashlib.sha256(f"{round.id} {round.version}".encode()).hexdigest()[:16]
    return machine.passed(round, "sign", now_s, rollout=rollout, approved_by=round.approved_by or CORE)


def _rollout(site: Site, round: Round, now_s: float, workers: Workers, ring: KeyRing | None) -> Round:  # noqa: ARG001
    if round.rollout is None:
        raise StateError("the round has no rollout", where=round.id, do="abort it")
    with site.database.read() as conn:
        try:
            rollouts.find_rollout(conn, round.rollout)
            return machine.passed(round, "rollout", now_s)
        except InputError:
            busy = rollouts.list_rollouts(conn, round.task, running=True)
    if busy:
        return replace(round, progress=f"rollout {busy[0].id} of version {busy[0].version} has to end first")
    plan = _policy(round).plan()
    if plan.limits.flip_rate is None:
        rate, rows = (0.0, 0) if round.kind == "re-baseline" else gate.flips(round.figures, round.members)
        plan = replace(plan, limits=replace(plan.limits, flip_rate=rate, flip_rows=rows))
    rollouts.start(
        site.database, round.task, round.version or 0, now_s=now_s, actor=CORE, plan=plan, round=round.id,
        id=round.rollout,
    )  # fmt: skip
    return machine.passed(round, "rollout", now_s)


def _observe(site: Site, round: Round, now_s: float, workers: Workers, ring: KeyRing | None) -> Round:  # noqa: ARG001
    with site.database.read() as conn:
        found = rollouts.find_rollout(conn, round.rollout or "")
    if not found.ended:
        return replace(round, progress=f"{found.stage}, {found.state}")
    if found.state != "done":
        return machine.ended(round, "failed", f"the rollout was {found.state} at {found.stage}: {found.why}", now_s)
    study = str(site.rounds / round.id / STUDY) if round.kind == "retrain" else round.study
    row = {
        "key": FAMILY + round.task, "changed_s": now_s,
        "value": {"study": study, "round": round.id, "version": round.version, "readings": round.dataset},
    }  # fmt: skip
    with site.database.write() as conn:
        conn.execute(upsert(setting, [row], keys=["key"], update=["value", "changed_s"]))
    return machine.passed(round, "observe", now_s, why=f"version {round.version} is on all nodes; {round.began}")


_STEPS = {
    "data": _data, "train": _train, "compress": _compress, "gate": _gate, "sign": _sign, "rollout": _rollout,
    "observe": _observe,
}  # fmt: skip


def _write(
    conn: Connection, before: Round, after: Round, now_s: float, actor: str, action: str
) -> Round | None:  # fmt: skip
    """Write a round as it is now; None when it is no longer what it was."""
    row = conn.execute(select(table.c.content).where(table.c.id == before.id)).scalar_one_or_none()
    if row is None or Round.from_json(row) != before:
        return None
    values: dict[str, Any] = {
        "phase": after.phase, "state": after.state, "content": after.to_json(), "ended_s": after.ended_s,
        "why": after.why,
    }  # fmt: skip
    conn.execute(update(table).where(table.c.id == after.id).values(**values))
    if action:
        detail = {"task": after.task, "phase": after.phase, "why": after.why, "version": after.version}
        audit.record(conn, now_s=now_s, actor=actor, action=action, subject=after.id, detail=detail)
    if after.ended and not before.ended:
        answer = "nothing" if after.state != "done" else after.kind
        told = {"state": after.state, "phase": after.phase, "version": after.version, "dataset": after.dataset}
        conn.execute(
            insert(decision).values(
                task=after.task, time_s=now_s, trigger=f"round {after.state}", answer=answer, why=after.why,
                evidence=told, round=after.id,
            )
        )  # fmt: skip
    return after


def _tidy(site: Site, round: Round) -> None:
    """Remove the folders of old rounds, but not of one that a family or a round that runs needs."""
    with site.database.read() as conn:
        needed = [str(one["study"]) for one in conn.execute(select(setting.c.value).where(_is_family())).scalars()]
        ended = [one for one in list_rounds(conn, round.task) if one.ended]
        needed += [one.study for one in list_rounds(conn) if not one.ended]
    for one in ended[KEPT_FOLDERS:]:
        folder = site.rounds / one.id
        if str(folder / STUDY) not in needed and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)


def own_contexts(site: Site, task: str) -> dict[str, Readings]:
    """Cohorts whose drift reference the last promoted round made, with what it is made of.

    Raises:
        StateError: the dataset version cannot be read.
    """
    with site.database.read() as conn:
        found = conn.execute(select(setting.c.value).where(setting.c.key == FAMILY + task)).scalar_one_or_none()
    digest = found and found.get("readings")
    return dict(read_manifest(site.blobs, digest).contexts) if digest else {}


def _served(conn: Connection, task: str) -> dict[str, str]:
    """Member → digest, of the version that most nodes serve."""
    digests = Counter(
        str(one[task]["digest"])
        for one in conn.execute(select(node.c.status).where(node.c.state == ACTIVE)).scalars()
        if task in one and one[task].get("digest")
    )
    rows = conn.execute(
        select(release.c.version, release.c.member, release.c.digest).where(
            release.c.task == task, release.c.revoked_s.is_(None)
        )
    ).all()
    nodes: Counter[int] = Counter()
    for row in rows:
        nodes[row.version] += digests[row.digest]
    version = max(nodes, key=lambda one: (nodes[one], one), default=None)
    return {row.member: row.digest for row in rows if row.version == version}


def _is_family() -> Any:
    return setting.c.key.startswith(FAMILY)


def _next_version(conn: Connection, task: str) -> int:
    highest = conn.execute(select(func.max(release.c.version)).where(release.c.task == task)).scalar()
    return int(highest or 0) + 1


def _parents(conn: Connection, task: str) -> dict[str, str]:
    """Member → digest of its newest release."""
    query = select(release.c.member, release.c.digest).where(release.c.task == task, release.c.revoked_s.is_(None))
    return {row.member: row.digest for row in conn.execute(query.order_by(release.c.version))}


def _policy(round: Round) -> LoopPolicy:
    return read_policy(round.task, round.policy)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StateError(f"this file of a round cannot be read: {error}", where=str(path)) from error
    return found


def _is_hex(text: str) -> bool:
    return bool(text) and all(one in "0123456789abcdef" for one in text)
