"""What people do to studies; each is an event that names them."""

from typing import Any

from sqlalchemy import Connection, delete, select, update

from triage.errors import ForbiddenTransitionError, LedgerError
from triage.ledger import schema
from triage.ledger.base import Room
from triage.ledger.records import LIFTED, OutboxState, State, Study

_ENDED_BADLY = (State.FAILED, State.UNSUITABLE)


class Operator(Room):
    """The operator's and the reader's hands. All act on a study's current revision.

    Each method raises `NotFoundError` if the study is unknown.
    """

    def requeue(self, study_instance_uid: str, actor: str) -> Study:
        """Work on a failed or unsuitable study again, from the start, with its attempts counted from zero.

        A report that said why isn't sent any more; one that was sent is the next one's predecessor. A study without
        any scorable object is unsuitable at once, as it was. A discarded study comes back as a new revision.

        Raises
        ------
        ForbiddenTransitionError
            If it is none of these.
        """
        with self._database.write() as connection:
            study = self._known_current(connection, study_instance_uid)
            if study.state is State.DISCARDED:
                reason = f"requeued when revision {study.revision} was discarded"
                return self._get_study(connection, self._open_next(connection, study, actor=actor, reason=reason))
            if study.state not in _ENDED_BADLY:
                raise ForbiddenTransitionError(f"a study that is {study.state} cannot be requeued")
            # What its own score lifted it by stays, for it to be scored again: retrying makes no study sink.
            before = {} if study.priority in LIFTED else self._before(connection, study)
            self._move(
                connection, study, State.COMPLETE, actor=actor, reason="requeued", score=None, log_posterior=None,
                notes="", result_sop_instance_uid="", reported_at=None, **before,
            )  # fmt: skip
            connection.execute(delete(schema.source).where(schema.source.c.study_id == study.id))
            self._close_jobs(connection, study.id, "requeued")
            self._discard_items(connection, [study.id], OutboxState.PENDING, OutboxState.DEAD)
            self._begin(connection, study.id, self._held_instances(connection, study), actor=actor)
            return self._get_study(connection, study.id)

    @staticmethod
    def _before(connection: Connection, study: Study) -> dict[str, Any]:
        """Return what a revision shows before it has a score of its own: what the one before it showed."""
        columns = schema.study.c
        row = connection.execute(
            select(columns.priority, columns.percentile).where(
                columns.study_instance_uid == study.study_instance_uid, columns.revision == study.revision - 1
            )
        ).one_or_none()
        return dict(row._mapping) if row is not None else {"priority": None, "percentile": None}

    def discard(self, study_instance_uid: str, actor: str, reason: str) -> Study:
        """Take a study off the worklist; nothing more of it is worked on or sent.

        A later image, or `requeue`, brings it back as a new revision.

        Raises
        ------
        ForbiddenTransitionError
            If it is discarded already.
        """
        with self._database.write() as connection:
            study = self._known_current(connection, study_instance_uid)
            self._move(connection, study, State.DISCARDED, actor=actor, reason=reason)
            self._close_jobs(connection, study.id, "discarded")
            # Earlier revisions' reports may be on their way as well. One that was sent, but isn't held, would be again.
            unproved = OutboxState.PENDING, OutboxState.SENT, OutboxState.DEAD
            self._discard_items(connection, self._lock_revisions(connection, study), *unproved)
            return self._get_study(connection, study.id)

    @staticmethod
    def _lock_revisions(connection: Connection, study: Study) -> list[int]:
        columns = schema.study.c
        query = select(columns.id).where(columns.study_instance_uid == study.study_instance_uid).order_by(columns.id)
        return [int(study_id) for study_id in connection.scalars(query.with_for_update())]

    def stat(self, study_instance_uid: str, actor: str, on: bool = True) -> Study:
        """Put a study before all others, or no longer; one that was read is so no more: somebody shall look at it."""
        with self._database.write() as connection:
            study = self._known_current(connection, study_instance_uid)
            read_at = None if on else study.read_at
            return self._mark(connection, study, actor, "STAT" if on else "no longer STAT", stat=on, read_at=read_at)

    def claim(self, study_instance_uid: str, actor: str) -> Study:
        """Note that somebody is reading a study.

        Raises
        ------
        LedgerError
            If somebody else is.
        """
        with self._database.write() as connection:
            study = self._known_current(connection, study_instance_uid)
            if study.claimed_by not in ("", actor):
                raise LedgerError("somebody else is reading this study", remedy="release it first")
            return self._mark(connection, study, actor, "claimed", claimed_by=actor)

    def release(self, study_instance_uid: str, actor: str) -> Study:
        """Note that nobody is reading a study; anybody may, so that a forgotten claim blocks nobody."""
        with self._database.write() as connection:
            study = self._known_current(connection, study_instance_uid)
            return self._mark(connection, study, actor, "released", claimed_by="")

    def mark_read(self, study_instance_uid: str, actor: str, on: bool = True) -> Study:
        """Note that a study has been read, or hasn't after all.

        It leaves the worklist until a later image, a STAT or a person brings it back.
        """
        with self._database.write() as connection:
            study = self._known_current(connection, study_instance_uid)
            read_at = (study.read_at or self._clock()) if on else None
            return self._mark(connection, study, actor, "read" if on else "not read after all", read_at=read_at)

    def _mark(self, connection: Connection, study: Study, actor: str, what: str, **values: Any) -> Study:
        """Set columns other than the state. Nothing is noted if that changes nothing (a button pressed twice)."""
        if any(getattr(study, name) != value for name, value in values.items()):
            connection.execute(update(schema.study).where(schema.study.c.id == study.id).values(**values))
            self._note(connection, study.id, study.state, study.state, actor=actor, reason=what)
        return self._get_study(connection, study.id)
