"""The ledger's first schema: studies, objects, jobs, outbox, append-only events, the table of transitions.

Revision: 0001, after: nothing, made: 2026-11-24
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_STATES = (
    "state IN ('receiving', 'complete', 'preparing', 'scoring', 'scored', 'reported', 'delivered', 'unsuitable', "
    "'failed', 'superseded', 'discarded')"
)
_TRANSITIONS = {
    "receiving": "complete discarded",
    "complete": "preparing unsuitable failed superseded discarded",
    "preparing": "scoring unsuitable failed superseded discarded",
    "scoring": "scored complete unsuitable failed superseded discarded",
    "scored": "reported failed superseded discarded",
    "reported": "delivered discarded",
    "delivered": "discarded",
    "unsuitable": "complete superseded discarded",
    "failed": "complete superseded discarded",
}


def upgrade() -> None:
    """Apply."""
    _create_study()
    _create_instance()
    _create_source()
    _create_job()
    _create_outbox()
    _create_event()
    _create_leader()
    _create_transition()
    if op.get_bind().dialect.name == "sqlite":
        _create_sqlite_triggers()
    else:
        _create_postgresql_triggers()


def downgrade() -> None:
    """Take back."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER study_transition ON study")
        op.execute("DROP TRIGGER event_append_only ON event")
        op.execute("DROP TRIGGER event_not_truncated ON event")
        op.execute("DROP FUNCTION refuse_transition")
        op.execute("DROP FUNCTION refuse_change")
    for table in ("leader", "transition", "event", "outbox", "job", "source", "instance", "study"):
        op.drop_table(table)


def _id() -> sa.Column[int]:
    return sa.Column("id", _NUMBER, nullable=False)


def _study_id() -> sa.Column[int]:
    return sa.Column("study_id", _NUMBER, nullable=False)


def _uid(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(64), nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _to_study(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=f"fk_{table}_study_id_study")


def _create_study() -> None:
    op.create_table(
        "study",
        _id(),
        _uid("study_instance_uid"),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("is_current", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        _text("reason"),
        sa.Column("arrived_at", sa.Double, nullable=False),
        sa.Column("first_object_at", sa.Double, nullable=False),
        sa.Column("last_object_at", sa.Double, nullable=False),
        sa.Column("released_at", sa.Double),
        *map(_text, ("completed_by", "modality", "patient_name", "patient_id", "accession_number")),
        *map(_text, ("study_date", "study_description", "manifest_hash")),
        sa.Column("instance_count", sa.Integer, nullable=False),
        sa.Column("image_count", sa.Integer, nullable=False),
        sa.Column("priority", sa.String(8)),
        *(sa.Column(name, sa.Double) for name in ("percentile", "log_posterior")),
        sa.Column("score", sa.Text),
        _text("result_sop_instance_uid"),
        sa.Column("stat", sa.Boolean, nullable=False),
        _text("claimed_by"),
        *(sa.Column(name, sa.Double) for name in ("read_at", "reported_at")),
        sa.CheckConstraint("priority IN ('HIGH', 'MEDIUM', 'LOW')", name=op.f("ck_study_priority")),
        sa.CheckConstraint(_STATES, name=op.f("ck_study_state")),
        sa.CheckConstraint("revision >= 1", name=op.f("ck_study_revision")),
        sa.PrimaryKeyConstraint("id", name="pk_study"),
        sa.UniqueConstraint("study_instance_uid", "revision", name="uq_study_study_instance_uid_revision"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_study_arrival", "study", ["is_current", "arrived_at"])
    op.create_index("ix_study_state", "study", ["state", "is_current"])
    current = sa.text("is_current")
    op.create_index(
        "uq_study_current",
        "study",
        ["study_instance_uid"],
        unique=True,
        sqlite_where=current,
        postgresql_where=current,
    )


def _create_instance() -> None:
    op.create_table(
        "instance",
        _id(),
        _study_id(),
        *map(_uid, ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "sop_class_uid")),
        _uid("transfer_syntax_uid"),
        _text("modality"),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.Double, nullable=False),
        _text("calling_ae_title"),
        _text("calling_address"),
        sa.Column("association_id", sa.Text, nullable=False),
        sa.Column("scorable", sa.Boolean, nullable=False),
        _text("not_scored"),
        _to_study("instance"),
        sa.PrimaryKeyConstraint("id", name="pk_instance"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_instance_sop_instance_uid"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_instance_association_id", "instance", ["association_id"])
    op.create_index("ix_instance_study_id", "instance", ["study_id"])


def _create_source() -> None:
    op.create_table(
        "source",
        _study_id(),
        sa.Column("instance_id", _NUMBER, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name="fk_source_instance_id_instance"),
        _to_study("source"),
        sa.PrimaryKeyConstraint("study_id", "instance_id", name="pk_source"),
    )


def _create_job() -> None:
    op.create_table(
        "job",
        _id(),
        _study_id(),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("leased_at", sa.Double),
        sa.Column("lease_until", sa.Double),
        sa.Column("not_before", sa.Double, nullable=False),
        _text("bundle_digest"),
        _text("last_error"),
        sa.CheckConstraint("(state = 'leased') = (lease_until IS NOT NULL)", name=op.f("ck_job_lease")),
        sa.CheckConstraint("stage IN ('prepare', 'score', 'report')", name=op.f("ck_job_stage")),
        sa.CheckConstraint("state IN ('ready', 'leased', 'done', 'failed')", name=op.f("ck_job_state")),
        _to_study("job"),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sa.UniqueConstraint("study_id", "stage", name="uq_job_study_id_stage"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_stage_state", "job", ["stage", "state"])


def _create_outbox() -> None:
    op.create_table(
        "outbox",
        _id(),
        _study_id(),
        sa.Column("destination", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        *map(_uid, ("sop_class_uid", "sop_instance_uid")),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_try_at", sa.Double, nullable=False),
        *map(_text, ("last_status", "last_error")),
        sa.Column("sent_at", sa.Double),
        sa.Column("transaction_uid", sa.String(64), nullable=False, server_default=""),
        sa.Column("committed_at", sa.Double),
        _text("proof"),
        sa.CheckConstraint("(state = 'committed') = (committed_at IS NOT NULL)", name=op.f("ck_outbox_committed")),
        sa.CheckConstraint(
            "state IN ('pending', 'sent', 'committed', 'dead', 'discarded')", name=op.f("ck_outbox_state")
        ),
        _to_study("outbox"),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sa.UniqueConstraint("destination", "sop_instance_uid", name="uq_outbox_destination_sop_instance_uid"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_destination_state", "outbox", ["destination", "state", "next_try_at"])
    op.create_index("ix_outbox_study_id", "outbox", ["study_id"])
    op.create_index("ix_outbox_transaction_uid", "outbox", ["transaction_uid"])


def _create_event() -> None:
    op.create_table(
        "event",
        _id(),
        _study_id(),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        _text("from_state"),
        sa.Column("to_state", sa.String(16), nullable=False),
        _text("reason"),
        sa.CheckConstraint(f"to_{_STATES}", name=op.f("ck_event_to_state")),
        _to_study("event"),
        sa.PrimaryKeyConstraint("id", name="pk_event"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_study_id", "event", ["study_id"])


def _create_leader() -> None:
    op.create_table(
        "leader",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leader"),
    )


def _create_transition() -> None:
    table = op.create_table(
        "transition",
        sa.Column("from_state", sa.String(16), nullable=False),
        sa.Column("to_state", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("from_state", "to_state", name="pk_transition"),
    )
    op.bulk_insert(
        table,
        [
            {"from_state": from_state, "to_state": to_state}
            for from_state, to_states in _TRANSITIONS.items()
            for to_state in to_states.split()
        ],
    )


def _create_sqlite_triggers() -> None:
    op.execute(
        """
        CREATE TRIGGER study_transition BEFORE UPDATE OF state ON study
        WHEN old.state <> new.state AND NOT EXISTS (
            SELECT 1 FROM transition WHERE from_state = old.state AND to_state = new.state)
        BEGIN SELECT RAISE(ABORT, 'forbidden transition'); END
        """
    )
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER event_no_{change.lower()} BEFORE {change} ON event "
            "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END"
        )


def _create_postgresql_triggers() -> None:
    op.execute(
        """
        CREATE FUNCTION refuse_transition() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NOT EXISTS (SELECT 1 FROM transition WHERE from_state = old.state AND to_state = new.state) THEN
                RAISE EXCEPTION 'forbidden transition' USING ERRCODE = 'integrity_constraint_violation';
            END IF;
            RETURN new;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER study_transition BEFORE UPDATE OF state ON study FOR EACH ROW "
        "WHEN (old.state <> new.state) EXECUTE FUNCTION refuse_transition()"
    )
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'events are append-only' USING ERRCODE = 'integrity_constraint_violation';
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE ON event "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER event_not_truncated BEFORE TRUNCATE ON event "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
