"""What people look at: the ordered worklist, studies, their events, and how many there are."""

import json
from math import isfinite
from typing import NamedTuple, Protocol

from sqlalchemy import ColumnElement, and_, case, func, or_, select

from triage.errors import NotFoundError
from triage.ledger import schema
from triage.ledger.base import Room, to_event, to_study
from triage.ledger.records import Event, State, Study
from triage.ledger.transitions import GONE
from triage.messages import Priority

READ = "read"
_TIERS = range(5)
# Ours are shorter; what is longer might be nested deeper than a parser goes.
_LONGEST_CURSOR = 200
# What SQLite and PostgreSQL number rows with.
_LARGEST_NUMBER = 2**63 - 1


class RankPolicy(Protocol):
    """What the order needs of the configuration's ``rank`` section."""

    @property
    def max_wait_s(self) -> float:
        """A study that has waited longer goes before every priority, seconds."""


class Place(NamedTuple):
    """Where a page ended, and the moment that its order is of: all pages of one listing are of the same moment."""

    now: float
    tier: int
    arrived_at: float
    study_id: int


class Worklist(Room):
    """What the worklist, the page and the command line need of the ledger."""

    def worklist(  # noqa: PLR0917 - the filters of one listing, in the order of the address bar
        self,
        now: float,
        rank: RankPolicy,
        modality: str | None = None,
        state: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> tuple[list[Study], str | None]:
        """Return one page of the worklist in the order of the policy, and the cursor of the next page.

        The order: STAT, overdue, HIGH, MEDIUM, everything else; in each by arrival, then by number. Only current
        revisions; what was read or discarded only when `state` asks for it.

        Parameters
        ----------
        modality : str, optional
            Only this Modality (0008,0060).
        state : str, optional
            Only this state, and ``"read"`` for what was marked read.
        cursor : str, optional
            From the page before; the order stays that of the first page's `now`.

        Raises
        ------
        ValueError
            If the cursor isn't one of ours; `parse_cursor` tells it from everything else that may be wrong.
        """
        after = parse_cursor(cursor) if cursor else None
        tier = _tier(after.now if after else now, rank)
        query = (
            select(schema.study, tier.label("tier"))
            .where(schema.study.c.is_current, is_listed(state))
            .order_by(tier, schema.study.c.arrived_at, schema.study.c.id)
            .limit(limit + 1)
        )
        if modality:
            query = query.where(schema.study.c.modality == modality)
        if after:
            query = query.where(_is_after(tier, after))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        tiers = [row.tier for row in rows[:limit]]
        studies = [to_study(row) for row in rows[:limit]]
        if len(rows) <= limit or not studies:
            return studies, None
        last = studies[-1]
        place = Place(after.now if after else now, tiers[-1], last.arrived_at, last.id)
        return studies, json.dumps(place, separators=(",", ":"))

    def studies(self, state: str | None = None, limit: int = 100) -> list[Study]:
        """Return the current revisions, or all revisions in a state, newest first."""
        query = select(schema.study).where(_asked(state)).order_by(schema.study.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return [to_study(row) for row in connection.execute(query)]

    def count_studies(self, state: str | None = None) -> int:
        """Return how many revisions `studies` would return without a limit."""
        query = select(func.count()).select_from(schema.study).where(_asked(state))
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def study(self, study_instance_uid: str) -> Study:
        """Return the current revision of a study.

        Raises
        ------
        NotFoundError
            If the study is unknown.
        """
        query = select(schema.study).where(
            schema.study.c.study_instance_uid == study_instance_uid, schema.study.c.is_current
        )
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFoundError("the ledger has no such study")
        return to_study(row)

    def study_by_id(self, study_id: int) -> Study:
        """Return a study revision by its number.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        with self._database.read() as connection:
            return self._get_study(connection, study_id)

    def revisions(self, study_instance_uid: str) -> list[Study]:
        """Return all revisions of a study, oldest first; none if it is unknown."""
        query = (
            select(schema.study)
            .where(schema.study.c.study_instance_uid == study_instance_uid)
            .order_by(schema.study.c.revision)
        )
        with self._database.read() as connection:
            return [to_study(row) for row in connection.execute(query)]

    def events(self, study_id: int) -> list[Event]:
        """Return what happened to a study revision, oldest first."""
        query = select(schema.event).where(schema.event.c.study_id == study_id).order_by(schema.event.c.id)
        with self._database.read() as connection:
            return [to_event(row) for row in connection.execute(query)]

    def changes_since(self, event_id: int, limit: int = 1000) -> list[Event]:
        """Return the events after this one, oldest first.

        On PostgreSQL an event of a transaction that ends late may get a number below one already seen: a listener
        should look at the whole list now and then.
        """
        query = select(schema.event).where(schema.event.c.id > event_id).order_by(schema.event.c.id).limit(limit)
        with self._database.read() as connection:
            return [to_event(row) for row in connection.execute(query)]

    def last_event_id(self) -> int:
        """Return the number of the newest event; 0 if there is none."""
        with self._database.read() as connection:
            return int(connection.execute(select(func.coalesce(func.max(schema.event.c.id), 0))).scalar_one())

    def counts_by_state(self) -> dict[State, int]:
        """Return how many current revisions are in each state; every state is there."""
        query = (
            select(schema.study.c.state, func.count()).where(schema.study.c.is_current).group_by(schema.study.c.state)
        )
        with self._database.read() as connection:
            found = {row[0]: int(row[1]) for row in connection.execute(query)}
        return {state: found.get(state, 0) for state in State}


def _asked(state: str | None) -> ColumnElement[bool]:
    return schema.study.c.state == state if state else schema.study.c.is_current


def _tier(now: float, rank: RankPolicy) -> ColumnElement[int]:
    """The same groups as `triage.rank.tier_of`; the model lifts, and nothing lowers anybody below arrival order."""
    columns = schema.study.c
    return case(
        (columns.stat, 0),
        (is_overdue(now, rank.max_wait_s), 1),
        (columns.priority == Priority.HIGH, 2),
        (columns.priority == Priority.MEDIUM, 3),
        else_=4,
    )


def is_overdue(now: float, max_wait_s: float) -> ColumnElement[bool]:
    """Whether a study that nobody has read has waited longer than the policy allows."""
    columns = schema.study.c
    return and_(columns.read_at.is_(None), columns.arrived_at < now - max_wait_s)


def is_listed(state: str | None = None) -> ColumnElement[bool]:
    """Whether a current revision is on the worklist: unread and not gone, or as `state` asks; see `Worklist`."""
    columns = schema.study.c
    if state == READ:
        return columns.read_at.is_not(None)
    wanted = columns.state == state if state else columns.state.not_in(GONE)
    return and_(wanted, columns.read_at.is_(None))


def _is_after(tier: ColumnElement[int], place: Place) -> ColumnElement[bool]:
    arrived_at, number = schema.study.c.arrived_at, schema.study.c.id
    return or_(
        tier > place.tier,
        and_(tier == place.tier, arrived_at > place.arrived_at),
        and_(tier == place.tier, arrived_at == place.arrived_at, number > place.study_id),
    )


def parse_cursor(cursor: str) -> Place:
    """Return where a page ended.

    Raises
    ------
    ValueError
        If the cursor isn't one of ours.
    """
    try:
        if len(cursor) > _LONGEST_CURSOR:
            raise ValueError
        now, tier, arrived_at, study_id = json.loads(cursor)
        place = Place(float(now), int(tier), float(arrived_at), int(study_id))
        if not (isfinite(place.now) and isfinite(place.arrived_at)):
            raise ValueError
        if place.tier not in _TIERS or not 0 <= place.study_id <= _LARGEST_NUMBER:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("not a cursor of this worklist") from error
    return place
