"""What every room of the ledger stands on: rows to records, locks, and the one way a study changes its state."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, insert, or_, select, update

from triage.errors import LedgerError, NotFoundError
from triage.ledger import schema
from triage.ledger.engine import Database
from triage.ledger.records import Event, Instance, Job, JobState, OutboxItem, OutboxState, State, Study
from triage.ledger.transitions import ALLOWED, EXPLAINED, check
from triage.messages import Priority, Score, Stage

# In which states of the study the work of a stage goes on.
_AT_WORK: dict[Stage, frozenset[State]] = {
    Stage.PREPARE: frozenset({State.COMPLETE, State.PREPARING}),
    Stage.SCORE: frozenset({State.SCORING}),
    Stage.REPORT: frozenset({State.SCORED, State.UNSUITABLE}),
}


# What a study's row says of whose it is.
IDENTITY = ("patient_name", "patient_id", "accession_number", "study_date", "study_description")
# Six times what any job or delivery is put off by (`DeliveryPolicy.retry_max_s`).
_LONGEST_DELAY_S = 3600.0
_NOTHING_TO_SCORE = "no object of this study can be scored"
# What the next revision of a study takes over from the one before.
_KEPT = (
    "study_instance_uid",
    "arrived_at",
    "modality",
    "instance_count",
    "image_count",
    "stat",
    "claimed_by",
    "priority",
    "percentile",
    *IDENTITY,
)


class Held(NamedTuple):
    """A job and its study, both locked."""

    job: Job
    study: Study


def is_due(moment: ColumnElement[float], now: float) -> ColumnElement[bool]:
    """Whether a time has come; one that is further off than any delay of ours was told by a clock since set back."""
    return or_(moment <= now, moment > now + _LONGEST_DELAY_S)


def to_study(row: Row[Any]) -> Study:
    """Make the record of a row of `schema.study`, which may hold further columns."""
    values = {column.name: row._mapping[column.name] for column in schema.study.columns}
    values["current"] = values.pop("is_current")
    values["state"] = State(values["state"])
    values["priority"] = Priority(values["priority"]) if values["priority"] else None
    values["score"] = Score.from_wire(json.loads(values["score"])) if values["score"] else None
    return Study(**values)


def to_instance(row: Row[Any]) -> Instance:
    """Make the record of a row of `schema.instance`."""
    return Instance(**row._mapping)


def to_job(row: Row[Any]) -> Job:
    """Make the record of a row of `schema.job`."""
    values = dict(row._mapping)
    return Job(**{**values, "stage": Stage(values["stage"]), "state": JobState(values["state"])})


def to_outbox_item(row: Row[Any]) -> OutboxItem:
    """Make the record of a row of `schema.outbox`."""
    values = dict(row._mapping)
    return OutboxItem(**{**values, "state": OutboxState(values["state"])})


def to_event(row: Row[Any]) -> Event:
    """Make the record of a row of `schema.event`."""
    return Event(**row._mapping)


class Room:
    """A part of the ledger.

    Locks are always taken in the order study, job, outbox, so that no two transactions wait for each other.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def _lock_study(self, connection: Connection, study_id: int) -> Study:
        """Read a study revision and keep others from changing it until this transaction ends."""
        return self._get_study(connection, study_id, lock=True)

    def _get_study(self, connection: Connection, study_id: int, *, lock: bool = False) -> Study:
        query = select(schema.study).where(schema.study.c.id == study_id)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            raise NotFoundError(f"the ledger has no study number {study_id}")
        return to_study(row)

    def _get_job(self, connection: Connection, job_id: int, *, lock: bool = False) -> Job:
        query = select(schema.job).where(schema.job.c.id == job_id)
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
        if row is None:
            raise NotFoundError(f"the ledger has no job number {job_id}")
        return to_job(row)

    def _lock_job(self, connection: Connection, job_id: int) -> Held:
        study = self._lock_study(connection, self._get_job(connection, job_id).study_id)
        return Held(self._get_job(connection, job_id, lock=True), study)

    @contextmanager
    def _held(self, job_id: int, fence: int, *stages: Stage) -> Iterator[tuple[Connection, Held | None]]:
        """Open a transaction on a leased job; None in place of a lease that is stale, or of another stage."""
        with self._database.write() as connection:
            held = self._lock_job(connection, job_id)
            job, study = held
            good = job.state is JobState.LEASED and job.fence == fence and study.state in _AT_WORK[job.stage]
            yield connection, held if good and job.stage in (stages or Stage) else None

    def _lock_current(self, connection: Connection, study_instance_uid: str) -> Study | None:
        """Lock a study's current revision, and the study against a new one; None if it is unknown."""
        self._database.serialise(connection, study_instance_uid)
        query = (
            select(schema.study)
            .where(schema.study.c.study_instance_uid == study_instance_uid, schema.study.c.is_current)
            .with_for_update()
        )
        row = connection.execute(query).one_or_none()
        return to_study(row) if row else None

    def _known_current(self, connection: Connection, study_instance_uid: str) -> Study:
        study = self._lock_current(connection, study_instance_uid)
        if study is None:
            raise NotFoundError("the ledger has no such study")
        return study

    def _move(
        self, connection: Connection, study: Study, to_state: State, *, actor: str, reason: str, **values: Any
    ) -> None:
        """Change the state of a study: the only place that does. The event goes into the same transaction.

        Raises
        ------
        ForbiddenTransitionError
            If the table doesn't allow the step.
        LedgerError
            If the study isn't in the state that the caller saw.
        """
        check(study.state, to_state)
        changed = connection.execute(
            update(schema.study)
            .where(schema.study.c.id == study.id, schema.study.c.state == study.state)
            .values(state=to_state, reason=reason if to_state in EXPLAINED else "", **values)
        )
        if changed.rowcount != 1:
            raise LedgerError(f"study {study.id} is no longer {study.state}")
        self._note(connection, study.id, study.state, to_state, actor=actor, reason=reason)

    def _open(self, connection: Connection, values: dict[str, Any], *, actor: str, reason: str) -> int:
        statement = insert(schema.study).values(state=State.RECEIVING, is_current=True, **values)
        study_id = int(connection.execute(statement.returning(schema.study.c.id)).scalar_one())
        self._note(connection, study_id, "", State.RECEIVING, actor=actor, reason=reason)
        return study_id

    def _open_next(self, connection: Connection, study: Study, *, actor: str, reason: str, **news: Any) -> int:
        """Open revision n+1; the old one is superseded unless it was reported or discarded.

        It keeps arrival, STAT, claim and the last priority, so that the study doesn't sink while it is scored again.
        """
        revision = study.revision + 1
        if State.SUPERSEDED in ALLOWED[study.state]:
            why = f"a late object opened revision {revision}"
            self._move(connection, study, State.SUPERSEDED, actor=actor, reason=why)
            self._close_jobs(connection, study.id, why)
        connection.execute(update(schema.study).where(schema.study.c.id == study.id).values(is_current=False))
        now = self._clock()
        values = {name: getattr(study, name) for name in _KEPT} | {
            "revision": revision,
            "first_object_at": now,
            "last_object_at": now,
        }
        return self._open(connection, values | news, actor=actor, reason=reason)

    def _begin(self, connection: Connection, study_id: int, held: Sequence[Instance], *, actor: str) -> None:
        """Make the PREPARE job of a complete study ready; one without any scorable object is unsuitable at once."""
        if any(instance.scorable for instance in held):
            self._arm(connection, study_id, Stage.PREPARE)
            return
        study = self._lock_study(connection, study_id)
        self._move(connection, study, State.UNSUITABLE, actor=actor, reason=_why_nothing(held))

    @staticmethod
    def _held_instances(connection: Connection, study: Study) -> list[Instance]:
        return [to_instance(row) for row in connection.execute(held_instances(study))]

    def _note(
        self, connection: Connection, study_id: int, from_state: str, to_state: State, *, actor: str, reason: str
    ) -> None:
        """Append an event."""
        connection.execute(
            insert(schema.event).values(
                study_id=study_id,
                at=self._clock(),
                actor=actor,
                from_state=from_state,
                to_state=to_state,
                reason=reason,
            )
        )

    def _arm(
        self, connection: Connection, study_id: int, stage: Stage, bundle_digest: str = "", delay_s: float = 0.0
    ) -> Job:
        """Make the stage's job ready in `delay_s` seconds: a new one, or the one from before a requeue.

        Its fence is higher then.
        """
        fresh = {
            "state": JobState.READY,
            "attempts": 0,
            "leased_at": None,
            "lease_until": None,
            "not_before": self._clock() + delay_s,
            "bundle_digest": bundle_digest,
            "last_error": "",
        }
        statement = (
            self._database.insert(schema.job)
            .values(study_id=study_id, stage=stage, fence=0, **fresh)
            .on_conflict_do_update(
                index_elements=["study_id", "stage"], set_={**fresh, "fence": schema.job.c.fence + 1}
            )
            .returning(schema.job)
        )
        return to_job(connection.execute(statement).one())

    def _close_jobs(self, connection: Connection, study_id: int, error: str) -> None:
        """End the unfinished jobs of a study; whoever works on one finds its fence stale."""
        connection.execute(
            update(schema.job)
            .where(
                schema.job.c.study_id == study_id,
                schema.job.c.state.in_([JobState.READY, JobState.LEASED]),
            )
            .values(
                state=JobState.FAILED, leased_at=None, lease_until=None, fence=schema.job.c.fence + 1, last_error=error
            )
        )

    def _discard_items(self, connection: Connection, study_ids: Sequence[int], *states: OutboxState) -> None:
        """Send no more of these study revisions; what a destination has proved to hold stays so."""
        connection.execute(
            update(schema.outbox)
            .where(schema.outbox.c.study_id.in_(study_ids), schema.outbox.c.state.in_(states))
            .values(state=OutboxState.DISCARDED)
        )

    def _fail(self, connection: Connection, held: Held, error: str) -> None:
        """End a job and its study as failed; one that is unsuitable stays so, only its report is missing."""
        job, study = held
        connection.execute(
            update(schema.job)
            .where(schema.job.c.id == job.id)
            .values(state=JobState.FAILED, leased_at=None, lease_until=None, last_error=error)
        )
        if study.state is State.UNSUITABLE:
            reason = f"its report failed: {error}"
            self._note(connection, study.id, study.state, study.state, actor=job.stage, reason=reason)
        else:
            self._move(connection, study, State.FAILED, actor=job.stage, reason=f"{job.stage}: {error}")

    def _deliver_if_proved(self, connection: Connection, study_id: int) -> None:
        """A reported study is delivered when every destination that should has proved it holds it, or is believed."""
        study = self._lock_study(connection, study_id)
        states = set(connection.scalars(select(schema.outbox.c.state).where(schema.outbox.c.study_id == study_id)))
        proved = OutboxState.COMMITTED in states and states <= {OutboxState.COMMITTED, OutboxState.DISCARDED}
        if study.state is State.REPORTED and proved:
            self._move(connection, study, State.DELIVERED, actor="deliver", reason="")


def held_instances(study: Study) -> Select[Any]:
    """Select the objects of a study up to and with this revision."""
    return (
        select(schema.instance)
        .join(schema.study, schema.study.c.id == schema.instance.c.study_id)
        .where(
            schema.study.c.study_instance_uid == study.study_instance_uid,
            schema.study.c.revision <= study.revision,
        )
        .order_by(schema.instance.c.id)
    )


def _why_nothing(held: Sequence[Instance]) -> str:
    reasons = Counter(instance.not_scored for instance in held if instance.not_scored)
    return reasons.most_common(1)[0][0] if reasons else _NOTHING_TO_SCORE
