"""Counts for the metrics, taken together so that a scrape sees one moment."""

from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import ColumnElement, Connection, Select, func, select

from triage.ledger import schema
from triage.ledger.base import Room
from triage.ledger.records import JobState, OutboxState, State
from triage.ledger.worklist import is_listed, is_overdue
from triage.messages import Priority, Stage


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What the ledger holds at one moment.

    Attributes
    ----------
    studies : dict
        Study revisions by state, every state present.
    unread : dict
        Current revisions that nobody has marked read, by priority; None: no score.
    overdue : int
        Those of them that arrived longer ago than the policy allows.
    oldest_unread_s : float
        How long the oldest of them has waited, seconds; 0 when there is none.
    jobs : dict
        Jobs by stage and state, every pair present.
    outbox : dict
        Outbox items by destination and state; absent: none.
    objects, object_bytes : int
        Objects received and kept, and the bytes of their data sets.
    """

    studies: dict[State, int]
    unread: dict[Priority | None, int]
    overdue: int
    oldest_unread_s: float
    jobs: dict[tuple[Stage, JobState], int]
    outbox: dict[tuple[str, OutboxState], int]
    objects: int
    object_bytes: int


class Statistics(Room):
    """What the metrics need of the ledger."""

    @classmethod
    def of(cls, ledger: Room) -> Self:
        """Return the statistics room of an open ledger."""
        return cls(ledger._database, ledger._clock)

    def counts(self, max_wait_s: float) -> Counts:
        """Count everything, in one read transaction.

        Parameters
        ----------
        max_wait_s : float
            The rank policy's maximum wait, seconds.
        """
        columns = schema.study.c
        unread = columns.is_current, is_listed()
        now = self._clock()
        with self._database.read() as connection:
            states = _grouped(connection, select(columns.state, func.count()).group_by(columns.state))
            priorities = _grouped(
                connection, select(columns.priority, func.count()).where(*unread).group_by(columns.priority)
            )
            overdue = connection.execute(_count(*unread, is_overdue(now, max_wait_s))).scalar_one()
            oldest = connection.execute(select(func.min(columns.arrived_at)).where(*unread)).scalar_one()
            stages = (schema.job.c.stage, schema.job.c.state)
            jobs = _grouped(connection, select(*stages, func.count()).group_by(*stages))
            ways = (schema.outbox.c.destination, schema.outbox.c.state)
            outbox = _grouped(connection, select(*ways, func.count()).group_by(*ways))
            objects, size = connection.execute(select(func.count(), func.sum(schema.instance.c.size))).one()
        return Counts(
            studies={state: states.get((state,), 0) for state in State},
            unread={priority: priorities.get((priority,), 0) for priority in (*Priority, None)},
            overdue=int(overdue),
            oldest_unread_s=0.0 if oldest is None else max(0.0, now - float(oldest)),
            jobs={(stage, state): jobs.get((stage, state), 0) for stage in Stage for state in JobState},
            outbox={(name, OutboxState(state)): count for (name, state), count in outbox.items()},
            objects=int(objects),
            object_bytes=int(size or 0),
        )


def _count(*conditions: ColumnElement[bool]) -> Select[Any]:
    return select(func.count()).select_from(schema.study).where(*conditions)


def _grouped(connection: Connection, query: Select[Any]) -> dict[tuple[Any, ...], int]:
    return {tuple(row[:-1]): int(row[-1]) for row in connection.execute(query)}
