"""Work under leases: who may do what, and until when."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, update

from triage.ledger import schema
from triage.ledger.base import Room, is_due, to_job
from triage.ledger.records import Job, JobState, State, Study
from triage.ledger.transitions import GONE
from triage.messages import Stage

MAX_ATTEMPTS = 5
# Jobs that are given up in one turn: whoever claims has other things to do.
_AT_ONCE = 32
_AT_WORK = (State.PREPARING, State.SCORING, State.SCORED)


class Jobs(Room):
    """What the dispatcher needs of the ledger, and a worker before it has a result."""

    def claim_jobs(self, stage: Stage, limit: int, lease_s: float) -> list[Job]:
        """Lease up to `limit` jobs for `lease_s` seconds: ready ones, and those whose lease ran out.

        STAT first, then by arrival. A job that has used up its attempts fails instead, and its study with it.
        """
        now = self._clock()
        # Looking first costs no lock: mostly there is nothing to do, and the dispatcher asks several times a second.
        looked = select(schema.job.c.id).where(_claimable(stage, now))
        with self._database.read() as connection:
            exhausted = list(connection.scalars(looked.where(schema.job.c.attempts >= MAX_ATTEMPTS).limit(_AT_ONCE)))
            fresh = connection.scalars(looked.where(schema.job.c.attempts < MAX_ATTEMPTS).limit(1)).first()
        for job_id in exhausted:
            self._expire(job_id, now)
        return self._lease(stage, limit, now, now + lease_s) if fresh is not None else []

    def _lease(self, stage: Stage, limit: int, now: float, lease_until: float) -> list[Job]:
        query = (
            select(schema.job.c.id)
            .join(schema.study, schema.study.c.id == schema.job.c.study_id)
            .where(
                _claimable(stage, now),
                schema.job.c.attempts < MAX_ATTEMPTS,
                schema.study.c.state.not_in(GONE),
            )
            .order_by(schema.study.c.stat.desc(), schema.study.c.arrived_at, schema.job.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True, of=schema.job)
        )
        with self._database.write() as connection:
            ids = [int(job_id) for job_id in connection.scalars(query)]
            leased = connection.execute(
                update(schema.job)
                .where(schema.job.c.id.in_(ids))
                .values(
                    state=JobState.LEASED,
                    fence=schema.job.c.fence + 1,
                    attempts=schema.job.c.attempts + 1,
                    leased_at=now,
                    lease_until=lease_until,
                )
                .returning(schema.job)
            )
            claimed = {job.id: job for job in map(to_job, leased)}
        return [claimed[job_id] for job_id in ids]

    def _expire(self, job_id: int, now: float) -> None:
        """Fail a job whose last lease ran out without a word, if that is still so."""
        with self._database.write() as connection:
            held = self._lock_job(connection, job_id)
            job = held.job
            over = job.state is JobState.READY or (job.lease_until is not None and job.lease_until < now)
            if over and job.attempts >= MAX_ATTEMPTS:
                error = job.last_error or "the worker died or did not answer in time"
                self._fail(connection, held, f"{error} ({job.attempts} attempts)")

    def leased_jobs(self, stage: Stage) -> list[Job]:
        """Return the jobs of this stage under a lease that hasn't run out."""
        query = select(schema.job).where(_leased(stage, self._clock())).order_by(schema.job.c.id)
        with self._database.read() as connection:
            return [to_job(row) for row in connection.execute(query)]

    def leased_count(self, stage: Stage) -> int:
        """Return how many they are."""
        query = select(func.count()).select_from(schema.job).where(_leased(stage, self._clock()))
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def at_work(self) -> dict[int, State]:
        """Return the state of every study revision that is being prepared, scored or reported, by its number."""
        query = select(schema.study.c.id, schema.study.c.state).where(schema.study.c.state.in_(_AT_WORK))
        with self._database.read() as connection:
            return {int(row.id): State(row.state) for row in connection.execute(query)}

    def start(self, job_id: int, fence: int, lease_s: float) -> Study | None:
        """Begin a leased job: the lease runs `lease_s` seconds from now; a study to prepare becomes preparing.

        Returns
        -------
        Study or None
            The study to work on; None if the lease is stale: drop the work without a word.

        Raises
        ------
        NotFoundError
            If there is no such job; so do all methods that take a job's number.
        """
        with self._held(job_id, fence) as (connection, held):
            if held is None:
                return None
            job, study = held
            connection.execute(
                update(schema.job).where(schema.job.c.id == job.id).values(lease_until=self._clock() + lease_s)
            )
            if study.state is State.COMPLETE:
                self._move(connection, study, State.PREPARING, actor=job.stage, reason="")
            return self._get_study(connection, study.id)

    def give_back(self, job_id: int, fence: int, error: str, delay_s: float) -> bool:
        """End a lease after a failure that may pass: the job is ready again in `delay_s` seconds.

        Once the attempts are used up, the job and its study fail.

        Returns
        -------
        bool
            False if the lease is stale (then nothing is done).
        """
        with self._held(job_id, fence) as (connection, held):
            if held is None:
                return False
            if held.job.attempts >= MAX_ATTEMPTS:
                self._fail(connection, held, f"{error} ({held.job.attempts} attempts)")
            else:
                _to_ready(connection, held.job, not_before=self._clock() + delay_s, last_error=error)
        return True

    def unclaim(self, job_id: int, fence: int) -> bool:
        """Take a lease back that nobody was told of: the job is ready, and the attempt isn't counted."""
        with self._held(job_id, fence) as (connection, held):
            if held is None:
                return False
            _to_ready(connection, held.job, attempts=held.job.attempts - 1)
        return True

    def expire_lease(self, job_id: int, fence: int) -> bool:
        """Let a lease run out now: its worker is gone. A result under it still counts until the job is leased again."""
        with self._held(job_id, fence) as (connection, held):
            if held is None:
                return False
            connection.execute(update(schema.job).where(schema.job.c.id == job_id).values(lease_until=0.0))
        return True

    def prepare_again(self, job_id: int, fence: int) -> Job | None:
        """Go back from a SCORE job whose model input was lost: the study is complete, its PREPARE job ready again.

        The attempts of the PREPARE job go on counting, so that this too ends some day.

        Returns
        -------
        Job or None
            The PREPARE job; None if the lease is stale.
        """
        with self._held(job_id, fence, Stage.SCORE) as (connection, held):
            if held is None:
                return None
            error = "the model input was lost"
            self._move(connection, held.study, State.COMPLETE, actor="dispatcher", reason=error)
            self._close_jobs(connection, held.study.id, error)
            attempts = {job.stage: job.attempts for job in self._jobs(connection, held.study.id)}[Stage.PREPARE]
            job = self._arm(connection, held.study.id, Stage.PREPARE)
            _to_ready(connection, job, attempts=attempts, last_error=error)
            return self._get_job(connection, job.id)

    def fail(self, job_id: int, fence: int, error: str) -> bool:
        """End a lease after a failure that won't pass: the job and its study fail.

        Returns
        -------
        bool
            False if the lease is stale (then nothing is done).
        """
        with self._held(job_id, fence) as (connection, held):
            if held is None:
                return False
            self._fail(connection, held, error)
        return True

    def job(self, job_id: int) -> Job:
        """Return a job."""
        with self._database.read() as connection:
            return self._get_job(connection, job_id)

    def jobs_of(self, study_id: int) -> list[Job]:
        """Return the jobs of a study revision, in the order of their making."""
        with self._database.read() as connection:
            return self._jobs(connection, study_id)

    def _jobs(self, connection: Connection, study_id: int) -> list[Job]:
        query = select(schema.job).where(schema.job.c.study_id == study_id).order_by(schema.job.c.id)
        return [to_job(row) for row in connection.execute(query)]


def _to_ready(connection: Connection, job: Job, **values: Any) -> None:
    connection.execute(
        update(schema.job)
        .where(schema.job.c.id == job.id)
        .values(state=JobState.READY, leased_at=None, lease_until=None, **values)
    )


def _leased(stage: Stage, now: float) -> ColumnElement[bool]:
    # A lease alone tells as much, but the index knows the state: finished jobs are many.
    return and_(schema.job.c.stage == stage, schema.job.c.state == JobState.LEASED, schema.job.c.lease_until >= now)


def _claimable(stage: Stage, now: float) -> ColumnElement[bool]:
    ready = and_(schema.job.c.state == JobState.READY, is_due(schema.job.c.not_before, now))
    abandoned = and_(schema.job.c.state == JobState.LEASED, schema.job.c.lease_until < now)
    unfinished = schema.job.c.state.in_([JobState.READY, JobState.LEASED])  # said for the index
    return and_(schema.job.c.stage == stage, unfinished, or_(ready, abandoned))
