"""The ledger: all its rooms behind one door."""

import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from triage.config.schema import Configuration
from triage.ledger.engine import Database, make_engine, migrate
from triage.ledger.jobs import Jobs
from triage.ledger.leader import Leader
from triage.ledger.operator import Operator
from triage.ledger.outbox import Outbox
from triage.ledger.reception import Reception
from triage.ledger.results import Results
from triage.ledger.worklist import Worklist


class Ledger(Reception, Jobs, Results, Outbox, Worklist, Operator, Leader):
    """Everything the node knows and has promised. The ledger is the queue; the broker only carries messages.

    Every method is one short transaction, durable when it returns; threads and processes may share a ledger. Any
    method raises `LedgerError` when the database doesn't answer. Times are seconds since the epoch, UTC.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        From `triage.ledger.engine.make_engine`, with the schema already migrated.
    clock : callable, optional
        Returns the time in seconds since the epoch.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        super().__init__(Database(engine), clock)

    def clock(self) -> float:
        """Return the ledger's time, seconds since the epoch."""
        return self._clock()

    def ping(self) -> None:
        """Ask the database for anything at all.

        Raises
        ------
        LedgerError
            If it doesn't answer.
        """
        with self._database.read() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close the connections; the ledger can still be used and then opens new ones."""
        self._database.engine.dispose()


def ledger_url(config: Configuration) -> str:
    """Return the database's URL: the configured one, or SQLite in the data folder."""
    return config.ledger.url or f"sqlite:///{config.data_dir / 'ledger.sqlite3'}"


def open_ledger(config: Configuration, clock: Callable[[], float] = time.time) -> Ledger:
    """Open the ledger that the configuration names; make it, or bring its schema up to date, if need be.

    Raises
    ------
    LedgerError
        If the database doesn't answer, or a newer program made it.
    """
    engine = make_engine(ledger_url(config))
    file = make_url(ledger_url(config)).database if engine.dialect.name == "sqlite" else None
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    migrate(Database(engine))
    return Ledger(engine, clock)
