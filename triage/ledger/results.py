"""What came of the work: every result names the fence under which its job was leased.

If the job has been leased again, finished or requeued since, or its study superseded or discarded, the result is
stale and nothing happens.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from triage.errors import NotFoundError
from triage.ledger import schema
from triage.ledger.base import Room, held_instances, to_instance
from triage.ledger.records import LIFTED, Instance, Job, JobState, OutboxNew, OutboxState, State, Study
from triage.messages import Priority, Score, Stage


class Results(Room):
    """What the workers' results do to the ledger."""

    def prepared(
        self,
        job_id: int,
        fence: int,
        bundle_digest: str,
        source_sop_instance_uids: Sequence[str],
        notes: Sequence[str] = (),
    ) -> Job | None:
        """Take the end of a PREPARE job: the study is scoring, its SCORE job ready.

        Study and event keep ``notes``: which images were chosen, and what was done to them.

        Returns
        -------
        Job or None
            The SCORE job; None if the lease is stale.

        Raises
        ------
        NotFoundError
            If a source isn't an object of the study.
        """
        with self._held(job_id, fence, Stage.PREPARE) as (connection, held):
            if held is None:
                return None
            job, study = held
            if study.state is State.COMPLETE:  # a worker that didn't call start
                self._move(connection, study, State.PREPARING, actor="prepare", reason="")
                study = self._lock_study(connection, study.id)
            _replace_sources(connection, study, source_sop_instance_uids)
            _finish(connection, job, bundle_digest)
            told = "; ".join(notes)
            self._move(connection, study, State.SCORING, actor="prepare", reason=told, notes=told)
            return self._arm(connection, study.id, Stage.SCORE, bundle_digest)

    def scored(
        self,
        job_id: int,
        fence: int,
        score: Score,
        priority: Priority | None,
        *,
        report_not_scored: bool = False,
        report_after_s: float = 0.0,
    ) -> Job | None:
        """Take a score: the study is scored and its REPORT job ready, in `report_after_s` seconds.

        A score that says ``not_scored`` makes the study unsuitable; it then gets a REPORT job only with
        `report_not_scored`. The priority of an earlier score stays, and its percentile with it, unless this one's is
        as high: a late image, whatever it shows, never lets a study sink that was lifted. The notes say so. Of several
        images only the one that the score is of stays a source.

        Returns
        -------
        Job or None
            The REPORT job; None if the lease is stale or nothing is to be reported.
        """
        with self._held(job_id, fence, Stage.SCORE) as (connection, held):
            if held is None:
                return None
            job, study = held
            _finish(connection, job, job.bundle_digest)
            to_state = State.UNSUITABLE if score.not_scored else State.SCORED
            values = _score_columns(study, score, priority)
            self._move(connection, study, to_state, actor="score", reason=score.not_scored, **values)
            if score.images > 1:
                others = schema.source.c.study_id == study.id, schema.source.c.position != score.chosen
                connection.execute(delete(schema.source).where(*others))
            if score.not_scored and not report_not_scored:
                return None
            return self._arm(connection, study.id, Stage.REPORT, job.bundle_digest, delay_s=report_after_s)

    def report_now(self, study_id: int) -> None:
        """Let a REPORT job that waits for its time be done at once; fine if there is none."""
        connected = schema.job.c.study_id == study_id, schema.job.c.stage == Stage.REPORT
        with self._database.write() as connection:
            connection.execute(
                update(schema.job)
                .where(*connected, schema.job.c.state == JobState.READY, schema.job.c.attempts == 0)
                .values(not_before=self._clock())
            )

    def unsuitable(self, job_id: int, fence: int, reason: str, report: bool = False) -> Job | None:
        """Take the gate's no: the study is unsuitable, for a reason that a radiographer reads.

        What an earlier score had lifted stays, as in `scored`.

        Returns
        -------
        Job or None
            With `report`, the REPORT job; None otherwise, and if the lease is stale.
        """
        with self._held(job_id, fence, Stage.PREPARE, Stage.SCORE) as (connection, held):
            if held is None:
                return None
            job, study = held
            _finish(connection, job, job.bundle_digest)
            self._move(connection, study, State.UNSUITABLE, actor=job.stage, reason=reason, **_unscored(study))
            return self._arm(connection, study.id, Stage.REPORT) if report else None

    def reported(
        self, job_id: int, fence: int, items: Sequence[OutboxNew], *, result_sop_instance_uid: str = ""
    ) -> bool:
        """Take the reports of a REPORT job into the outbox; a scored study is reported, an unsuitable one stays.

        Parameters
        ----------
        items : sequence of OutboxNew
            One per destination; one that is in the outbox already is left as it is, unless it was discarded: then
            it is to be sent after all. An empty destination means that the report goes nowhere: no row is made.
        result_sop_instance_uid : str, optional
            The result to show; by default the first item's.

        Returns
        -------
        bool
            False if the lease is stale (then nothing is done).
        """
        with self._held(job_id, fence, Stage.REPORT) as (connection, held):
            if held is None:
                return False
            job, study = held
            now = self._clock()
            _finish(connection, job, job.bundle_digest)
            for item in (item for item in items if item.destination):
                self._put(connection, study, item, now)
            uid = result_sop_instance_uid or next((item.sop_instance_uid for item in items), "")
            values = {"result_sop_instance_uid": uid, "reported_at": now}
            if study.state is State.SCORED:
                self._move(connection, study, State.REPORTED, actor="report", reason="", **values)
                self._deliver_if_proved(connection, study.id)
            else:
                connection.execute(update(schema.study).where(schema.study.c.id == study.id).values(**values))
        return True

    def _put(self, connection: Connection, study: Study, item: OutboxNew, now: float) -> None:
        """Queue an object for its destination."""
        fresh = {"state": OutboxState.PENDING, "attempts": 0, "next_try_at": now, "digest": item.digest}
        connection.execute(
            self._database.insert(schema.outbox)
            .values(study_id=study.id, **(asdict(item) | fresh))
            .on_conflict_do_update(
                index_elements=["destination", "sop_instance_uid"],
                set_={**fresh, "last_error": "", "transaction_uid": ""},
                where=schema.outbox.c.state == OutboxState.DISCARDED,
            )
        )

    def sources_of(self, study_id: int) -> list[Instance]:
        """Return the objects that the model input was made of, in the order that `prepared` got them in."""
        query = (
            select(schema.instance)
            .join(schema.source, schema.source.c.instance_id == schema.instance.c.id)
            .where(schema.source.c.study_id == study_id)
            .order_by(schema.source.c.position)
        )
        with self._database.read() as connection:
            return [to_instance(row) for row in connection.execute(query)]


def _finish(connection: Connection, job: Job, bundle_digest: str) -> None:
    connection.execute(
        update(schema.job)
        .where(schema.job.c.id == job.id)
        .values(state=JobState.DONE, leased_at=None, lease_until=None, last_error="", bundle_digest=bundle_digest)
    )


def _unscored(study: Study) -> dict[str, Any]:
    """Return what a study without a score shows: what an earlier one had lifted it by, and nothing else."""
    return {"log_posterior": None} | ({} if study.priority in LIFTED else {"priority": None, "percentile": None})


def _score_columns(study: Study, score: Score, priority: Priority | None) -> dict[str, Any]:
    columns: dict[str, Any] = {"score": json.dumps(score.to_wire())}
    told = [study.notes, score.passed_over]
    if score.not_scored:
        columns |= _unscored(study)
    else:
        columns["log_posterior"] = _finite(score.log_posterior)
        if _would_sink(study.priority, priority):
            now = int(score.percentile * 10) / 10 if math.isfinite(score.percentile) else score.percentile
            told.append(f"{study.priority} of an earlier score stays; percentile now {now:.1f}")  # cut, as elsewhere
        else:
            columns |= {"priority": priority, "percentile": _finite(score.percentile)}
    return columns | {"notes": "; ".join(filter(None, told))}


def _would_sink(earlier: Priority | None, priority: Priority | None) -> bool:
    """Tell whether a study that was lifted by its earlier priority would be lifted less by another one."""
    return earlier in LIFTED and earlier is not priority and priority is not LIFTED[0]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _replace_sources(connection: Connection, study: Study, sop_instance_uids: Sequence[str]) -> None:
    ids = {row.sop_instance_uid: row.id for row in connection.execute(held_instances(study))}
    if not set(sop_instance_uids) <= ids.keys():
        raise NotFoundError(f"a source is not an object of study {study.id}")
    connection.execute(delete(schema.source).where(schema.source.c.study_id == study.id))
    rows = [
        {"study_id": study.id, "instance_id": ids[uid], "position": position}
        for position, uid in enumerate(sop_instance_uids)
    ]
    if rows:
        connection.execute(insert(schema.source), rows)
