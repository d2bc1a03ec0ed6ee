"""The database under the ledger: SQLite or PostgreSQL, its transactions, its migrations."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, Table, create_engine, event, exc, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random

from triage.errors import LedgerError

BUSY_TIMEOUT_S = 30.0
# Any fixed number: what a PostgreSQL advisory lock on the migration hangs on.
_MIGRATION_LOCK = 7_431_002
_READ_ONLY = "triage_read_only"


def make_engine(url: str) -> Engine:
    """Return an engine for the ledger's database, without connecting.

    Parameters
    ----------
    url : str
        ``sqlite:///FILE`` or ``postgresql+psycopg://…``.
    """
    # Statements' parameters are patients' names: they must not get into error messages and so into logs.
    common: dict[str, Any] = {"hide_parameters": True, "pool_size": 8, "max_overflow": 56}
    if make_url(url).get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, **common)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10}, **common)
    event.listen(engine, "connect", _remember_process)
    event.listen(engine, "checkout", _refuse_other_process)
    return engine


@retry(
    retry=retry_if_exception_type(sqlite3.OperationalError),
    stop=stop_after_delay(BUSY_TIMEOUT_S),
    wait=wait_random(0.005, 0.05),
    reraise=True,
)
def _set_up_sqlite(dbapi_connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    # Retried because the change to WAL answers "locked" at once when another process is at it, busy_timeout or not.
    dbapi_connection.isolation_level = None  # we say BEGIN ourselves; see _begin_sqlite
    for pragma in (
        f"busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that reads, then writes, fails with "locked" when another wrote in between.
    # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html (serializable isolation, savepoints)
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _remember_process(_: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    entry.info["pid"] = os.getpid()


def _refuse_other_process(_: DBAPIConnection, entry: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
    # https://docs.sqlalchemy.org/en/20/core/pooling.html (multiprocessing): never use a connection made before a fork.
    if entry.info["pid"] != os.getpid():
        entry.dbapi_connection = proxy.dbapi_connection = None  # type: ignore[misc]
        raise exc.DisconnectionError("this connection belongs to another process")


class Database:
    """Short transactions on one engine, safe from several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self.reader = engine.execution_options(**{_READ_ONLY: True})
        # SQLite has one writer at a time and makes the others sleep; threads of one process queue here instead.
        self._writers = threading.Lock() if self.is_sqlite else nullcontext()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Run one writing transaction; commits at the end, rolls back on an exception.

        Raises
        ------
        LedgerError
            If the database doesn't answer.
        """
        with self._writers, _translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Run one reading transaction; on SQLite it neither waits for writers nor makes them wait.

        Raises
        ------
        LedgerError
            If the database doesn't answer.
        """
        with _translated(), self.reader.begin() as connection:
            yield connection

    def serialise(self, connection: Connection, key: str) -> None:
        """Make this transaction wait for any other one with the same key; on SQLite writers are serial anyway."""
        if not self.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": key})

    def insert(self, table: Table) -> "sqlite.Insert | postgresql.Insert":
        """Return an INSERT that knows ON CONFLICT in this database's dialect."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        raise LedgerError(
            "the ledger's database does not answer", remedy="see ledger.url, the disk and the database's own log"
        ) from error


def alembic_config() -> Config:
    """Return Alembic's configuration; the migrations are data of this package."""
    config = Config()
    config.set_main_option("script_location", "triage.ledger:migrations")
    return config


def migrate(database: Database) -> None:
    """Bring the schema to the newest version, in one transaction; other processes wait meanwhile.

    Raises
    ------
    LedgerError
        If the database was made by a newer program, or doesn't answer.
    """
    config = alembic_config()
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise LedgerError(
                "the ledger's schema is unknown to this program", remedy="run the version that made it, or a newer one"
            ) from error
