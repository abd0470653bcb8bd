"""Every table of the core's database, as SQLAlchemy Core declarations.

Rules:
- Times are seconds since 1970 (UTC) as float; their columns end in `_s`. Digests are 64 lower case hex digits.
- Secrets are never here: of passwords, tokens and cookies only hashes, of certificates only the public part.
- `audit`, `feedback`, `decision` and `served` are append-only: nothing in the program updates the meaning of a row.
- A blob (sample, manifest of a data set, bundle) is named by its digest and lies in the blob store.
- JSON columns hold objects whose own docstring, at the dataclass that writes them, says what is in them.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, MetaData, Table, UniqueConstraint

from edgehone.records.columns import OBJECT, REAL, TEXT, WHOLE

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


# People ------------------------------------------------------------------------------------------------------

person = Table(
    "person",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("role", TEXT, nullable=False),  # viewer | operator
    Column("password", TEXT, nullable=False),  # a self-describing hash
    Column("created_s", REAL, nullable=False),
    Column("disabled_s", REAL),
)

session = Table(  # a browser's sign-in
    "session",
    METADATA,
    Column("token_hash", TEXT, primary_key=True),
    Column("person", TEXT, ForeignKey("person.name"), nullable=False, index=True),
    Column("csrf", TEXT, nullable=False),
    Column("created_s", REAL, nullable=False),
    Column("expires_s", REAL, nullable=False, index=True),
)

api_token = Table(  # a program's sign-in
    "api_token",
    METADATA,
    Column("token_hash", TEXT, primary_key=True),
    Column("person", TEXT, ForeignKey("person.name"), nullable=False, index=True),
    Column("name", TEXT, nullable=False),
    Column("role", TEXT, nullable=False),
    Column("created_s", REAL, nullable=False),
    Column("expires_s", REAL),
    Column("revoked_s", REAL),
)

audit = Table(
    "audit",
    METADATA,
    Column("id", WHOLE, primary_key=True, autoincrement=True),
    Column("time_s", REAL, nullable=False, index=True),
    Column("actor", TEXT, nullable=False),  # "person:NAME", "node:ID", "core"
    Column("action", TEXT, nullable=False),  # "node.enrol", "rollout.abort", ...
    Column("subject", TEXT, nullable=False),
    Column("detail", OBJECT, nullable=False),
    Index("ix_audit_actor_id", "actor", "id"),
    Index("ix_audit_subject_id", "subject", "id"),
    sqlite_autoincrement=True,  # an id is never given twice
)


# Nodes -------------------------------------------------------------------------------------------------------

enrolment = Table(  # a one-time token
    "enrolment",
    METADATA,
    Column("token_hash", TEXT, primary_key=True),
    Column("name", TEXT, nullable=False),  # what the node will be called; "" lets the node say
    Column("tags", OBJECT, nullable=False),
    Column("created_by", TEXT, nullable=False),
    Column("created_s", REAL, nullable=False),
    Column("expires_s", REAL, nullable=False),
    Column("used_s", REAL),
    Column("node", TEXT),  # that it made
)

node = Table(
    "node",
    METADATA,
    Column("id", TEXT, primary_key=True),
    Column("name", TEXT, nullable=False, unique=True),
    Column("tags", OBJECT, nullable=False),  # {"site": "north", "camera": "2"}
    Column("state", TEXT, nullable=False),  # active | quarantined | revoked
    Column("why", TEXT, nullable=False),  # of the state
    Column("facts", OBJECT, nullable=False),  # NodeFacts of the node, its agent version, clock skew
    Column("enrolled_s", REAL, nullable=False),
    Column("seen_s", REAL),
    Column("nonce", TEXT),  # the one it must bring with its next heartbeat
    Column("status", OBJECT, nullable=False),  # of its last heartbeat, by task
    Column("beats", WHOLE, nullable=False, default=0),
)

certificate = Table(
    "certificate",
    METADATA,
    Column("serial", TEXT, primary_key=True),  # hex
    Column("node", TEXT, ForeignKey("node.id"), nullable=False, index=True),
    Column("pem", TEXT, nullable=False),
    Column("not_before_s", REAL, nullable=False),
    Column("not_after_s", REAL, nullable=False),
    Column("revoked_s", REAL),
    Column("why", TEXT, nullable=False, default=""),
)

served = Table(  # which bytes answered on a node, from when to when; the lineage's last link
    "served",
    METADATA,
    Column("id", WHOLE, primary_key=True, autoincrement=True),
    Column("node", TEXT, ForeignKey("node.id"), nullable=False),
    Column("task", TEXT, nullable=False),
    Column("digest", TEXT, nullable=False),
    Column("version", WHOLE, nullable=False),
    Column("member", TEXT, nullable=False),
    Column("from_s", REAL, nullable=False),
    Column("to_s", REAL),
    Column("why", TEXT, nullable=False),  # it came
    Index("ix_served_node_task", "node", "task", "from_s"),
    sqlite_autoincrement=True,  # an id is never given twice
)

evidence = Table(  # what a node reported about drift and risk, newest kept longest
    "evidence",
    METADATA,
    Column("id", WHOLE, primary_key=True, autoincrement=True),
    Column("node", TEXT, ForeignKey("node.id"), nullable=False),
    Column("task", TEXT, nullable=False),
    Column("digest", TEXT, nullable=False),  # of the bundle that answered
    Column("received_s", REAL, nullable=False),
    Column("watch_level", WHOLE, nullable=False),
    Column("risk_level", WHOLE, nullable=False),
    Column("rows", WHOLE, nullable=False),
    Column("content", OBJECT, nullable=False),
    Index("ix_evidence_node_task", "node", "task", "received_s"),
    sqlite_autoincrement=True,  # an id is never given twice
)


# What nodes saw, and what people said about it ---------------------------------------------------------------

sample = Table(
    "sample",
    METADATA,
    Column("node", TEXT, ForeignKey("node.id"), primary_key=True),
    Column("id", TEXT, primary_key=True),  # the prediction id, chosen by the node: unique there only
    Column("task", TEXT, nullable=False),
    Column("digest", TEXT, nullable=False),  # of the bundle that answered
    Column("time_s", REAL, nullable=False),
    Column("received_s", REAL, nullable=False),
    Column("share", TEXT, nullable=False),  # informative | stratified | uniform
    Column("propensity", REAL, nullable=False),
    Column("informativeness", REAL, nullable=False),
    Column("stratum", TEXT, nullable=False),
    Column("answer", OBJECT, nullable=False),  # the values that were answered
    Column("blob", TEXT, index=True),  # of the reading, as .npy; None once it was deleted
    Column("size_bytes", WHOLE, nullable=False),
    Column("source", TEXT, nullable=False, default="field"),
    Column("licence", TEXT, nullable=False, default=""),
    Index("ix_sample_task_time", "task", "time_s"),
)

feedback = Table(
    "feedback",
    METADATA,
    Column("node", TEXT, primary_key=True),  # "core" when a person said so there
    Column("id", TEXT, primary_key=True),  # the event's own id: exactly once from each node
    Column("task", TEXT, nullable=False),
    Column("prediction", TEXT, nullable=False, index=True),
    Column("kind", TEXT, nullable=False),
    Column("label", TEXT),
    Column("value", OBJECT),
    Column("annotator", TEXT, nullable=False),
    Column("trust", REAL, nullable=False),
    Column("time_s", REAL, nullable=False),
    Column("received_s", REAL, nullable=False),
    Column("content", OBJECT, nullable=False),  # the event as it came
    Column("quarantined", TEXT),  # why it must teach nothing; None when it may
    Index("ix_feedback_task_received", "task", "received_s"),
)

dataset = Table(  # a dataset version
    "dataset",
    METADATA,
    Column("digest", TEXT, primary_key=True),  # of its manifest, a blob
    Column("task", TEXT, nullable=False, index=True),
    Column("created_s", REAL, nullable=False),
    Column("parent", TEXT),
    Column("counts", OBJECT, nullable=False),  # {"field": n, "feedback": n, "replay": n, "labels": {...}}
)


# Releases and rollouts ---------------------------------------------------------------------------------------

release = Table(  # what the registry signed, with where it comes from
    "release",
    METADATA,
    Column("digest", TEXT, primary_key=True),  # of the bundle
    Column("task", TEXT, nullable=False),
    Column("version", WHOLE, nullable=False),
    Column("member", TEXT, nullable=False),
    Column("rank", WHOLE, nullable=False),
    Column("size_bytes", WHOLE, nullable=False),
    Column("fit", OBJECT, nullable=False),
    Column("measured", OBJECT, nullable=False),
    Column("recipe", TEXT, nullable=False, default=""),
    Column("dataset", TEXT),
    Column("round", TEXT),
    Column("parent", TEXT),
    Column("approved_by", TEXT, nullable=False, default=""),
    Column("published_s", REAL, nullable=False),
    Column("revoked_s", REAL),
    UniqueConstraint("task", "version", "member"),
)

cohort = Table(
    "cohort",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("task", TEXT, nullable=False),
    Column("tags", OBJECT, nullable=False),  # a node with all of these belongs to it
    Column("channel", TEXT, nullable=False),  # canary | stable
    Column("version", WHOLE),  # its desired release; None for nothing yet
    Column("since_s", REAL, nullable=False),
    Column("policy", OBJECT, nullable=False),
)

rollout = Table(
    "rollout",
    METADATA,
    Column("id", TEXT, primary_key=True),
    Column("task", TEXT, nullable=False, index=True),
    Column("version", WHOLE, nullable=False),
    Column("before", WHOLE),  # the version it replaces
    Column("state", TEXT, nullable=False, index=True),  # running | paused | done | aborted | rolled back
    Column("stage", TEXT, nullable=False),
    Column("content", OBJECT, nullable=False),  # the whole Rollout
    Column("started_s", REAL, nullable=False),
    Column("ended_s", REAL),
    Column("round", TEXT),
)

rollout_event = Table(
    "rollout_event",
    METADATA,
    Column("id", WHOLE, primary_key=True, autoincrement=True),
    Column("rollout", TEXT, ForeignKey("rollout.id"), nullable=False, index=True),
    Column("time_s", REAL, nullable=False),
    Column("what", TEXT, nullable=False),
    Column("detail", OBJECT, nullable=False),
    sqlite_autoincrement=True,  # an id is never given twice
)


# The loop ----------------------------------------------------------------------------------------------------

round = Table(
    "round",
    METADATA,
    Column("id", TEXT, primary_key=True),
    Column("task", TEXT, nullable=False, index=True),
    Column("phase", TEXT, nullable=False),
    Column("state", TEXT, nullable=False, index=True),  # running | waiting | done | refused | failed | aborted
    Column("content", OBJECT, nullable=False),  # the whole Round
    Column("started_s", REAL, nullable=False),
    Column("ended_s", REAL),
    Column("why", TEXT, nullable=False),
)

decision = Table(
    "decision",
    METADATA,
    Column("id", WHOLE, primary_key=True, autoincrement=True),
    Column("task", TEXT, nullable=False, index=True),
    Column("time_s", REAL, nullable=False),
    Column("trigger", TEXT, nullable=False),
    Column("answer", TEXT, nullable=False),  # quarantine | adapt | re-baseline | collect | retrain | nothing
    Column("why", TEXT, nullable=False),
    Column("evidence", OBJECT, nullable=False),
    Column("round", TEXT),
    sqlite_autoincrement=True,  # an id is never given twice
)

setting = Table(  # what a person set at run time, and small facts the core must not forget
    "setting",
    METADATA,
    Column("key", TEXT, primary_key=True),
    Column("value", OBJECT, nullable=False),
    Column("changed_s", REAL, nullable=False),
)
