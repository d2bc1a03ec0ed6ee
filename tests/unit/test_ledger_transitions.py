"""The table of transitions: in code, in the database, and each step through the ledger's own methods."""

from itertools import pairwise

import pytest
from sqlalchemy import exc, select, update

from tests.support.ledgers import Clock, receive, to_state
from triage.errors import ForbiddenTransitionError
from triage.ledger import Ledger, State, schema
from triage.ledger.engine import Database
from triage.ledger.transitions import ALLOWED, check

pytest_plugins = ["tests.support.ledger_fixtures"]

PAIRS = [(a, b) for a in State for b in State]


@pytest.mark.parametrize(("from_state", "to"), PAIRS)
def test_check_allows_what_the_table_holds(from_state: State, to: State) -> None:
    if to in ALLOWED[from_state]:
        check(from_state, to)
    else:
        with pytest.raises(ForbiddenTransitionError):
            check(from_state, to)


def test_the_road_is_the_designs() -> None:
    road = ["receiving", "complete", "preparing", "scoring", "scored", "reported", "delivered"]
    for here, there in pairwise(road):
        assert State(there) in ALLOWED[State(here)]
    assert ALLOWED[State.FAILED] >= {State.COMPLETE}
    assert ALLOWED[State.SUPERSEDED] == ALLOWED[State.DISCARDED] == frozenset()
    reported = {State.REPORTED, State.DELIVERED, State.RECEIVING, State.SUPERSEDED, State.DISCARDED}
    assert {state for state in State if State.SUPERSEDED not in ALLOWED[state]} == reported


def test_the_database_holds_the_same_table(ledger: Ledger) -> None:
    with ledger._database.reader.connect() as connection:
        rows = {tuple(row) for row in connection.execute(select(schema.transition))}
    assert rows == {(a.value, b.value) for a in State for b in ALLOWED[a]}


def test_the_database_refuses_every_other_step(ledger: Ledger, clock: Clock) -> None:
    """Even for a program that goes around the ledger."""
    database = Database(ledger._database.engine)
    for start in State:
        study = receive(ledger)
        if start is not State.RECEIVING:
            study = to_state(ledger, study, start)
        for target in State:
            statement = update(schema.study).where(schema.study.c.id == study.id).values(state=target)
            allowed = target is start or target in ALLOWED[start]
            # Taken back whatever comes, so that the next target starts from the same state.
            with database.engine.connect() as connection:
                if allowed:
                    connection.execute(statement)
                else:
                    with pytest.raises(exc.IntegrityError, match="forbidden transition"):
                        connection.execute(statement)
                connection.rollback()
        if ALLOWED[start]:  # out of the way: the next study's jobs shall be the only ones
            ledger.discard(study.study_instance_uid, "test", "done")


def test_the_database_knows_no_other_state(ledger: Ledger) -> None:
    study = receive(ledger)
    statement = update(schema.study).where(schema.study.c.id == study.id)
    with ledger._database.engine.connect() as connection, pytest.raises(exc.IntegrityError):
        connection.execute(statement.values(state="lost"))


@pytest.mark.parametrize("state", [state for state in State if state is not State.RECEIVING])
def test_every_step_is_an_event(ledger: Ledger, clock: Clock, state: State) -> None:
    study = to_state(ledger, receive(ledger), state)
    moves = [(event.from_state, event.to_state) for event in ledger.events(study.id)]
    assert moves[0] == ("", "receiving")
    assert moves[-1][1] == study.state
    assert all(before[1] == after[0] for before, after in pairwise(moves))
    assert all(State(b) in ALLOWED[State(a)] for a, b in moves[1:])
    assert all(event.at == clock.now and event.actor for event in ledger.events(study.id))


@pytest.mark.parametrize("change", ["UPDATE event SET reason = 'nothing happened'", "DELETE FROM event"])
def test_events_are_append_only(ledger: Ledger, change: str) -> None:
    receive(ledger)
    with ledger._database.engine.connect() as connection, pytest.raises(exc.IntegrityError, match="append-only"):
        connection.exec_driver_sql(change)
    assert len(ledger.changes_since(0)) == 1


def test_postgresql_does_not_truncate_events(ledger: Ledger) -> None:
    if ledger._database.reader.dialect.name == "sqlite":
        pytest.skip("SQLite has no TRUNCATE")
    receive(ledger)
    with ledger._database.engine.connect() as connection, pytest.raises(exc.IntegrityError, match="append-only"):
        connection.exec_driver_sql("TRUNCATE event")


def test_one_current_revision_by_constraint(ledger: Ledger) -> None:
    study = to_state(ledger, receive(ledger), State.SUPERSEDED)
    statement = update(schema.study).where(schema.study.c.id == study.id).values(is_current=True)
    with ledger._database.engine.connect() as connection, pytest.raises(exc.IntegrityError):
        connection.execute(statement)
