"""Every table of the core's database, as SQLAlchemy Core declarations.

Rules:
- Times are seconds since 1970 (UTC) as float; their columns end in `_s`. Digests are 64 lower case hex digits.
- Secrets are never here: of passwords, tokens and cookies only hashes, of certificates only the public part.
- `audit`, `feedback`, `decision` and `served` are append-only: nothing in the program updates the meaning of a row.
- A blob (sample, manifest of a data set, bundle) is named by its digest and lies in the blob store.
- JSON columns hold objects whose own docstring, at the dataclass that writes them, says what is in them.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_NAME = String(200)
_DIGEST = String(64)


# People ------------------------------------------------------------------------------------------------------

person = Table(
    "person",
    METADATA,
    Column("name", _NAME, primary_key=True),
    Column("role", String(20), nullable=False),  # viewer | operator
    Column("password", Text, nullable=False),  # a self-describing hash
    Column("created_s", Double, nullable=False),
    Column("disabled_s", Double),
)

session = Table(  # a browser's sign-in
    "session",
    METADATA,
    Column("token_hash", _DIGEST, primary_key=True),
    Column("person", _NAME, ForeignKey("person.name"), nullable=False, index=True),
    Column("csrf", String(64), nullable=False),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False, index=True),
)

api_token = Table(  # a program's sign-in
    "api_token",
    METADATA,
    Column("token_hash", _DIGEST, primary_key=True),
    Column("person", _NAME, ForeignKey("person.name"), nullable=False, index=True),
    Column("name", _NAME, nullable=False),
    Column("role", String(20), nullable=False),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double),
    Column("revoked_s", Double),
)

audit = Table(
    "audit",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("time_s", Double, nullable=False, index=True),
    Column("actor", _NAME, nullable=False),  # "person:NAME", "node:ID", "core"
    Column("action", String(60), nullable=False),  # "node.enrol", "rollout.abort", ...
    Column("subject", _NAME, nullable=False),
    Column("detail", JSON, nullable=False),
)


# Nodes -------------------------------------------------------------------------------------------------------

enrolment = Table(  # a one-time token
    "enrolment",
    METADATA,
    Column("token_hash", _DIGEST, primary_key=True),
    Column("name", _NAME, nullable=False),  # what the node will be called; "" lets the node say
    Column("tags", JSON, nullable=False),
    Column("created_by", _NAME, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False),
    Column("used_s", Double),
    Column("node", String(32)),  # that it made
)

node = Table(
    "node",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("name", _NAME, nullable=False, unique=True),
    Column("tags", JSON, nullable=False),  # {"site": "north", "camera": "2"}
    Column("state", String(20), nullable=False),  # active | quarantined | revoked
    Column("why", Text, nullable=False),  # of the state
    Column("facts", JSON, nullable=False),  # NodeFacts of the node, its agent version, clock skew
    Column("enrolled_s", Double, nullable=False),
    Column("seen_s", Double),
    Column("nonce", String(64)),  # the one it must bring with its next heartbeat
    Column("status", JSON, nullable=False),  # of its last heartbeat, by task
    Column("beats", Integer, nullable=False, default=0),
)

certificate = Table(
    "certificate",
    METADATA,
    Column("serial", String(40), primary_key=True),  # hex
    Column("node", String(32), ForeignKey("node.id"), nullable=False, index=True),
    Column("pem", Text, nullable=False),
    Column("not_before_s", Double, nullable=False),
    Column("not_after_s", Double, nullable=False),
    Column("revoked_s", Double),
    Column("why", Text, nullable=False, default=""),
)

served = Table(  # which bytes answered on a node, from when to when; the lineage's last link
    "served",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("node", String(32), ForeignKey("node.id"), nullable=False),
    Column("task", _NAME, nullable=False),
    Column("digest", _DIGEST, nullable=False),
    Column("version", Integer, nullable=False),
    Column("member", _NAME, nullable=False),
    Column("from_s", Double, nullable=False),
    Column("to_s", Double),
    Column("why", Text, nullable=False),  # it came
    Index("ix_served_node_task", "node", "task", "from_s"),
)

evidence = Table(  # what a node reported about drift and risk, newest kept longest
    "evidence",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("node", String(32), ForeignKey("node.id"), nullable=False),
    Column("task", _NAME, nullable=False),
    Column("digest", _DIGEST, nullable=False),  # of the bundle that answered
    Column("received_s", Double, nullable=False),
    Column("watch_level", Integer, nullable=False),
    Column("risk_level", Integer, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("content", JSON, nullable=False),
    Index("ix_evidence_node_task", "node", "task", "received_s"),
)


# What nodes saw, and what people said about it ---------------------------------------------------------------

sample = Table(
    "sample",
    METADATA,
    Column("node", String(32), ForeignKey("node.id"), primary_key=True),
    Column("id", _NAME, primary_key=True),  # the prediction id, chosen by the node: unique there only
    Column("task", _NAME, nullable=False),
    Column("digest", _DIGEST, nullable=False),  # of the bundle that answered
    Column("time_s", Double, nullable=False),
    Column("received_s", Double, nullable=False),
    Column("share", String(20), nullable=False),  # informative | stratified | uniform
    Column("propensity", Double, nullable=False),
    Column("informativeness", Double, nullable=False),
    Column("stratum", _NAME, nullable=False),
    Column("answer", JSON, nullable=False),  # the values that were answered
    Column("blob", _DIGEST),  # of the reading, as .npy; None once it was deleted
    Column("size_bytes", Integer, nullable=False),
    Column("source", _NAME, nullable=False, default="field"),
    Column("licence", _NAME, nullable=False, default=""),
    Index("ix_sample_task_time", "task", "time_s"),
)

feedback = Table(
    "feedback",
    METADATA,
    Column("node", String(32), primary_key=True),  # "core" when a person said so there
    Column("id", _NAME, primary_key=True),  # the event's own id: exactly once from each node
    Column("task", _NAME, nullable=False),
    Column("prediction", _NAME, nullable=False, index=True),
    Column("kind", String(20), nullable=False),
    Column("label", _NAME),
    Column("value", JSON),
    Column("annotator", _NAME, nullable=False),
    Column("trust", Double, nullable=False),
    Column("time_s", Double, nullable=False),
    Column("received_s", Double, nullable=False),
    Column("content", JSON, nullable=False),  # the event as it came
    Column("quarantined", Text),  # why it must teach nothing; None when it may
    Index("ix_feedback_task_received", "task", "received_s"),
)

dataset = Table(  # a dataset version
    "dataset",
    METADATA,
    Column("digest", _DIGEST, primary_key=True),  # of its manifest, a blob
    Column("task", _NAME, nullable=False, index=True),
    Column("created_s", Double, nullable=False),
    Column("parent", _DIGEST),
    Column("counts", JSON, nullable=False),  # {"field": n, "feedback": n, "replay": n, "labels": {...}}
)


# Releases and rollouts ---------------------------------------------------------------------------------------

release = Table(  # what the registry signed, with where it comes from
    "release",
    METADATA,
    Column("digest", _DIGEST, primary_key=True),  # of the bundle
    Column("task", _NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("member", _NAME, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("fit", JSON, nullable=False),
    Column("measured", JSON, nullable=False),
    Column("recipe", Text, nullable=False, default=""),
    Column("dataset", _DIGEST),
    Column("round", String(32)),
    Column("parent", _DIGEST),
    Column("approved_by", _NAME, nullable=False, default=""),
    Column("published_s", Double, nullable=False),
    Column("revoked_s", Double),
    UniqueConstraint("task", "version", "member"),
)

cohort = Table(
    "cohort",
    METADATA,
    Column("name", _NAME, primary_key=True),
    Column("task", _NAME, nullable=False),
    Column("tags", JSON, nullable=False),  # a node with all of these belongs to it
    Column("channel", String(20), nullable=False),  # canary | stable
    Column("version", Integer),  # its desired release; None for nothing yet
    Column("since_s", Double, nullable=False),
    Column("policy", JSON, nullable=False),
)

rollout = Table(
    "rollout",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("task", _NAME, nullable=False, index=True),
    Column("version", Integer, nullable=False),
    Column("before", Integer),  # the version it replaces
    Column("state", String(20), nullable=False, index=True),  # running | paused | done | aborted | rolled back
    Column("stage", String(20), nullable=False),
    Column("content", JSON, nullable=False),  # the whole Rollout
    Column("started_s", Double, nullable=False),
    Column("ended_s", Double),
    Column("round", String(32)),
)

rollout_event = Table(
    "rollout_event",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("rollout", String(32), ForeignKey("rollout.id"), nullable=False, index=True),
    Column("time_s", Double, nullable=False),
    Column("what", String(40), nullable=False),
    Column("detail", JSON, nullable=False),
)


# The loop ----------------------------------------------------------------------------------------------------

round = Table(
    "round",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("task", _NAME, nullable=False, index=True),
    Column("phase", String(20), nullable=False),
    Column("state", String(20), nullable=False, index=True),  # running | waiting | done | refused | failed | aborted
    Column("content", JSON, nullable=False),  # the whole Round
    Column("started_s", Double, nullable=False),
    Column("ended_s", Double),
    Column("why", Text, nullable=False),
)

decision = Table(
    "decision",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("task", _NAME, nullable=False, index=True),
    Column("time_s", Double, nullable=False),
    Column("trigger", String(40), nullable=False),
    Column("answer", String(40), nullable=False),  # quarantine | adapt | re-baseline | collect | retrain | nothing
    Column("why", Text, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("round", String(32)),
)

setting = Table(  # what a person set at run time, and small facts the core must not forget
    "setting",
    METADATA,
    Column("key", _NAME, primary_key=True),
    Column("value", JSON, nullable=False),
    Column("changed_s", Double, nullable=False),
)
