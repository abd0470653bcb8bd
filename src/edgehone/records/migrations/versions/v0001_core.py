"""The first schema of the core: people, nodes, samples, releases, rollouts, rounds."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, ForeignKeyConstraint, PrimaryKeyConstraint, UniqueConstraint

from edgehone.records.columns import OBJECT, REAL, TEXT, WHOLE

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "audit",
        Column("id", WHOLE, nullable=False, autoincrement=True),
        Column("time_s", REAL, nullable=False),
        Column("actor", TEXT, nullable=False),
        Column("action", TEXT, nullable=False),
        Column("subject", TEXT, nullable=False),
        Column("detail", OBJECT, nullable=False),
        PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_actor_id", "audit", ["actor", "id"])
    op.create_index("ix_audit_subject_id", "audit", ["subject", "id"])
    op.create_index("ix_audit_time_s", "audit", ["time_s"])
    op.create_table(
        "cohort",
        Column("name", TEXT, nullable=False),
        Column("task", TEXT, nullable=False),
        Column("tags", OBJECT, nullable=False),
        Column("channel", TEXT, nullable=False),
        Column("version", WHOLE),
        Column("since_s", REAL, nullable=False),
        Column("policy", OBJECT, nullable=False),
        PrimaryKeyConstraint("name", name="pk_cohort"),
    )
    op.create_table(
        "dataset",
        Column("digest", TEXT, nullable=False),
        Column("task", TEXT, nullable=False),
        Column("created_s", REAL, nullable=False),
        Column("parent", TEXT),
        Column("counts", OBJECT, nullable=False),
        PrimaryKeyConstraint("digest", name="pk_dataset"),
    )
    op.create_index("ix_dataset_task", "dataset", ["task"])
    op.create_table(
        "decision",
        Column("id", WHOLE, nullable=False, autoincrement=True),
        Column("task", TEXT, nullable=False),
        Column("time_s", REAL, nullable=False),
        Column("trigger", TEXT, nullable=False),
        Column("answer", TEXT, nullable=False),
        Column("why", TEXT, nullable=False),
        Column("evidence", OBJECT, nullable=False),
        Column("round", TEXT),
        PrimaryKeyConstraint("id", name="pk_decision"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_decision_task", "decision", ["task"])
    op.create_table(
        "enrolment",
        Column("token_hash", TEXT, nullable=False),
        Column("name", TEXT, nullable=False),
        Column("tags", OBJECT, nullable=False),
        Column("created_by", TEXT, nullable=False),
        Column("created_s", REAL, nullable=False),
        Column("expires_s", REAL, nullable=False),
        Column("used_s", REAL),
        Column("node", TEXT),
        PrimaryKeyConstraint("token_hash", name="pk_enrolment"),
    )
    op.create_table(
        "feedback",
        Column("node", TEXT, nullable=False),
        Column("id", TEXT, nullable=False),
        Column("task", TEXT, nullable=False),
        Column("prediction", TEXT, nullable=False),
        Column("kind", TEXT, nullable=False),
        Column("label", TEXT),
        Column("value", OBJECT),
        Column("annotator", TEXT, nullable=False),
        Column("trust", REAL, nullable=False),
        Column("time_s", REAL, nullable=False),
        Column("received_s", REAL, nullable=False),
        Column("content", OBJECT, nullable=False),
        Column("quarantined", TEXT),
        PrimaryKeyConstraint("node", "id", name="pk_feedback"),
    )
    op.create_index("ix_feedback_prediction", "feedback", ["prediction"])
    op.create_index("ix_feedback_task_received", "feedback", ["task", "received_s"])
    op.create_table(
        "node",
        Column("id", TEXT, nullable=False),
        Column("name", TEXT, nullable=False),
        Column("tags", OBJECT, nullable=False),
        Column("state", TEXT, nullable=False),
        Column("why", TEXT, nullable=False),
        Column("facts", OBJECT, nullable=False),
        Column("enrolled_s", REAL, nullable=False),
        Column("seen_s", REAL),
        Column("nonce", TEXT),
        Column("status", OBJECT, nullable=False),
        Column("beats", WHOLE, nullable=False),
        PrimaryKeyConstraint("id", name="pk_node"),
        UniqueConstraint("name", name="uq_node_name"),
    )
    op.create_table(
        "person",
        Column("name", TEXT, nullable=False),
        Column("role", TEXT, nullable=False),
        Column("password", TEXT, nullable=False),
        Column("created_s", REAL, nullable=False),
        Column("disabled_s", REAL),
        PrimaryKeyConstraint("name", name="pk_person"),
    )
    op.create_table(
        "release",
        Column("digest", TEXT, nullable=False),
        Column("task", TEXT, nullable=False),
        Column("version", WHOLE, nullable=False),
        Column("member", TEXT, nullable=False),
        Column("rank", WHOLE, nullable=False),
        Column("size_bytes", WHOLE, nullable=False),
        Column("fit", OBJECT, nullable=False),
        Column("measured", OBJECT, nullable=False),
        Column("recipe", TEXT, nullable=False),
        Column("dataset", TEXT),
        Column("round", TEXT),
        Column("parent", TEXT),
        Column("approved_by", TEXT, nullable=False),
        Column("published_s", REAL, nullable=False),
        Column("revoked_s", REAL),
        PrimaryKeyConstraint("digest", name="pk_release"),
        UniqueConstraint("task", "version", "member", name="uq_release_task"),
    )
    op.create_table(
        "rollout",
        Column("id", TEXT, nullable=False),
        Column("task", TEXT, nullable=False),
        Column("version", WHOLE, nullable=False),
        Column("before", WHOLE),
        Column("state", TEXT, nullable=False),
        Column("stage", TEXT, nullable=False),
        Column("content", OBJECT, nullable=False),
        Column("started_s", REAL, nullable=False),
        Column("ended_s", REAL),
        Column("round", TEXT),
        PrimaryKeyConstraint("id", name="pk_rollout"),
    )
    op.create_index("ix_rollout_state", "rollout", ["state"])
    op.create_index("ix_rollout_task", "rollout", ["task"])
    op.create_table(
        "round",
        Column("id", TEXT, nullable=False),
        Column("task", TEXT, nullable=False),
        Column("phase", TEXT, nullable=False),
        Column("state", TEXT, nullable=False),
        Column("content", OBJECT, nullable=False),
        Column("started_s", REAL, nullable=False),
        Column("ended_s", REAL),
        Column("why", TEXT, nullable=False),
        PrimaryKeyConstraint("id", name="pk_round"),
    )
    op.create_index("ix_round_state", "round", ["state"])
    op.create_index("ix_round_task", "round", ["task"])
    op.create_table(
        "setting",
        Column("key", TEXT, nullable=False),
        Column("value", OBJECT, nullable=False),
        Column("changed_s", REAL, nullable=False),
        PrimaryKeyConstraint("key", name="pk_setting"),
    )
    op.create_table(
        "api_token",
        Column("token_hash", TEXT, nullable=False),
        Column("person", TEXT, nullable=False),
        Column("name", TEXT, nullable=False),
        Column("role", TEXT, nullable=False),
        Column("created_s", REAL, nullable=False),
        Column("expires_s", REAL),
        Column("revoked_s", REAL),
        PrimaryKeyConstraint("token_hash", name="pk_api_token"),
        ForeignKeyConstraint(["person"], ["person.name"], name="fk_api_token_person"),
    )
    op.create_index("ix_api_token_person", "api_token", ["person"])
    op.create_table(
        "certificate",
        Column("serial", TEXT, nullable=False),
        Column("node", TEXT, nullable=False),
        Column("pem", TEXT, nullable=False),
        Column("not_before_s", REAL, nullable=False),
        Column("not_after_s", REAL, nullable=False),
        Column("revoked_s", REAL),
        Column("why", TEXT, nullable=False),
        PrimaryKeyConstraint("serial", name="pk_certificate"),
        ForeignKeyConstraint(["node"], ["node.id"], name="fk_certificate_node"),
    )
    op.create_index("ix_certificate_node", "certificate", ["node"])
    op.create_table(
        "evidence",
        Column("id", WHOLE, nullable=False, autoincrement=True),
        Column("node", TEXT, nullable=False),
        Column("task", TEXT, nullable=False),
        Column("digest", TEXT, nullable=False),
        Column("received_s", REAL, nullable=False),
        Column("watch_level", WHOLE, nullable=False),
        Column("risk_level", WHOLE, nullable=False),
        Column("rows", WHOLE, nullable=False),
        Column("content", OBJECT, nullable=False),
        PrimaryKeyConstraint("id", name="pk_evidence"),
        ForeignKeyConstraint(["node"], ["node.id"], name="fk_evidence_node"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_evidence_node_task", "evidence", ["node", "task", "received_s"])
    op.create_table(
        "rollout_event",
        Column("id", WHOLE, nullable=False, autoincrement=True),
        Column("rollout", TEXT, nullable=False),
        Column("time_s", REAL, nullable=False),
        Column("what", TEXT, nullable=False),
        Column("detail", OBJECT, nullable=False),
        PrimaryKeyConstraint("id", name="pk_rollout_event"),
        ForeignKeyConstraint(["rollout"], ["rollout.id"], name="fk_rollout_event_rollout"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rollout_event_rollout", "rollout_event", ["rollout"])
    op.create_table(
        "sample",
        Column("node", TEXT, nullable=False),
        Column("id", TEXT, nullable=False),
        Column("task", TEXT, nullable=False),
        Column("digest", TEXT, nullable=False),
        Column("time_s", REAL, nullable=False),
        Column("received_s", REAL, nullable=False),
        Column("share", TEXT, nullable=False),
        Column("propensity", REAL, nullable=False),
        Column("informativeness", REAL, nullable=False),
        Column("stratum", TEXT, nullable=False),
        Column("answer", OBJECT, nullable=False),
        Column("blob", TEXT),
        Column("size_bytes", WHOLE, nullable=False),
        Column("source", TEXT, nullable=False),
        Column("licence", TEXT, nullable=False),
        PrimaryKeyConstraint("node", "id", name="pk_sample"),
        ForeignKeyConstraint(["node"], ["node.id"], name="fk_sample_node"),
    )
    op.create_index("ix_sample_blob", "sample", ["blob"])
    op.create_index("ix_sample_task_time", "sample", ["task", "time_s"])
    op.create_table(
        "served",
        Column("id", WHOLE, nullable=False, autoincrement=True),
        Column("node", TEXT, nullable=False),
        Column("task", TEXT, nullable=False),
        Column("digest", TEXT, nullable=False),
        Column("version", WHOLE, nullable=False),
        Column("member", TEXT, nullable=False),
        Column("from_s", REAL, nullable=False),
        Column("to_s", REAL),
        Column("why", TEXT, nullable=False),
        PrimaryKeyConstraint("id", name="pk_served"),
        ForeignKeyConstraint(["node"], ["node.id"], name="fk_served_node"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_served_node_task", "served", ["node", "task", "from_s"])
    op.create_table(
        "session",
        Column("token_hash", TEXT, nullable=False),
        Column("person", TEXT, nullable=False),
        Column("csrf", TEXT, nullable=False),
        Column("created_s", REAL, nullable=False),
        Column("expires_s", REAL, nullable=False),
        PrimaryKeyConstraint("token_hash", name="pk_session"),
        ForeignKeyConstraint(["person"], ["person.name"], name="fk_session_person"),
    )
    op.create_index("ix_session_expires_s", "session", ["expires_s"])
    op.create_index("ix_session_person", "session", ["person"])
    _keep_audit()


def _keep_audit() -> None:
    """Have the database itself refuse to change or remove what the audit log says."""
    if op.get_bind().dialect.name == "sqlite":
        for deed in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_no_{deed.lower()} BEFORE {deed} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION edgehone_audit_grows() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log only grows' USING ERRCODE = 'restrict_violation'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION edgehone_audit_grows()"
    )
