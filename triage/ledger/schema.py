"""The ledger's tables, as the newest migration leaves them."""

from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
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
    text,
)

from triage.ledger.records import JobState, OutboxState, State
from triage.messages import Priority, Stage

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only in a column of exactly the type INTEGER.
_Number = BigInteger().with_variant(Integer, "sqlite")


def _one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    names = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({names})", name=column)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


study = Table(
    "study",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("study_instance_uid", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("is_current", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    _text("reason"),
    Column("arrived_at", Double, nullable=False),
    Column("first_object_at", Double, nullable=False),
    Column("last_object_at", Double, nullable=False),
    Column("released_at", Double),
    _text("completed_by"),
    _text("modality"),
    _text("patient_name"),
    _text("patient_id"),
    _text("accession_number"),
    _text("study_date"),
    _text("study_description"),
    _text("manifest_hash"),
    Column("instance_count", Integer, nullable=False),
    Column("image_count", Integer, nullable=False),
    Column("priority", String(8)),
    Column("percentile", Double),
    Column("log_posterior", Double),
    Column("score", Text),
    _text("result_sop_instance_uid"),
    Column("stat", Boolean, nullable=False),
    _text("claimed_by"),
    Column("read_at", Double),
    Column("reported_at", Double),
    _text("notes"),
    UniqueConstraint("study_instance_uid", "revision"),
    _one_of("state", State),
    _one_of("priority", Priority),
    CheckConstraint("revision >= 1", name="revision"),
    sqlite_autoincrement=True,
)
Index(
    "uq_study_current",
    study.c.study_instance_uid,
    unique=True,
    sqlite_where=text("is_current"),
    postgresql_where=text("is_current"),
)
Index("ix_study_state", study.c.state, study.c.is_current)
Index("ix_study_arrival", study.c.is_current, study.c.arrived_at)
Index(
    "ix_study_unread",
    study.c.is_current,
    study.c.read_at,
    study.c.arrived_at,
    study.c.priority,
    study.c.state,
)
Index("ix_study_newest", study.c.is_current, study.c.id)
Index("ix_study_newest_in_state", study.c.state, study.c.id)

instance = Table(
    "instance",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("study_id", ForeignKey("study.id"), nullable=False, index=True),
    Column("study_instance_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False, unique=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    _text("modality"),
    Column("digest", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("received_at", Double, nullable=False),
    _text("calling_ae_title"),
    _text("calling_address"),
    Column("association_id", Text, nullable=False, index=True),
    Column("scorable", Boolean, nullable=False),
    _text("not_scored"),
    sqlite_autoincrement=True,
)

source = Table(
    "source",
    metadata,
    Column("study_id", ForeignKey("study.id"), primary_key=True),
    Column("instance_id", ForeignKey("instance.id"), primary_key=True),
    Column("position", Integer, nullable=False),
)

job = Table(
    "job",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("study_id", ForeignKey("study.id"), nullable=False),
    Column("stage", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("leased_at", Double),
    Column("lease_until", Double),
    Column("not_before", Double, nullable=False),
    _text("bundle_digest"),
    _text("last_error"),
    UniqueConstraint("study_id", "stage"),
    _one_of("stage", Stage),
    _one_of("state", JobState),
    CheckConstraint("(state = 'leased') = (lease_until IS NOT NULL)", name="lease"),
    sqlite_autoincrement=True,
)
Index("ix_job_stage_state", job.c.stage, job.c.state)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("study_id", ForeignKey("study.id"), nullable=False, index=True),
    Column("destination", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_try_at", Double, nullable=False),
    _text("last_status"),
    _text("last_error"),
    Column("sent_at", Double),
    Column("transaction_uid", String(64), nullable=False, server_default="", index=True),
    Column("committed_at", Double),
    _text("proof"),
    UniqueConstraint("destination", "sop_instance_uid"),
    _one_of("state", OutboxState),
    CheckConstraint("(state = 'committed') = (committed_at IS NOT NULL)", name="committed"),
    sqlite_autoincrement=True,
)
Index("ix_outbox_destination_state", outbox.c.destination, outbox.c.state, outbox.c.next_try_at)

# Append-only: triggers refuse UPDATE and DELETE.
event = Table(
    "event",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("study_id", ForeignKey("study.id"), nullable=False, index=True),
    Column("at", Double, nullable=False),
    Column("actor", Text, nullable=False),
    _text("from_state"),
    Column("to_state", String(16), nullable=False),
    _text("reason"),
    _one_of("to_state", State),
    sqlite_autoincrement=True,
)

# transitions.ALLOWED as rows: a trigger refuses any other change of study.state.
transition = Table(
    "transition",
    metadata,
    Column("from_state", String(16), primary_key=True),
    Column("to_state", String(16), primary_key=True),
)

leader = Table(
    "leader",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires_at", Double, nullable=False),
)
