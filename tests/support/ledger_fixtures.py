"""Fixtures: an empty ledger, on SQLite and on PostgreSQL. A plugin: name it in ``pytest_plugins``, don't import it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ledgers import Clock, ledger_config
from tests.support.postgresql import PostgreSQL, run_postgresql
from triage.ledger import Ledger, open_ledger
from triage.ledger.engine import make_engine


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """One server for all tests of the session."""
    with run_postgresql() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: PostgreSQL) -> Iterator[str]:
    """An empty database on it."""
    url = postgresql_server.new_database()
    yield url
    postgresql_server.drop_database(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied: migrating for each test would take longer than the tests."""
    file = tmp_path_factory.mktemp("template") / "ledger.sqlite3"
    open_ledger(ledger_config(f"sqlite:///{file}", file.parent)).close()
    return file


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a migrated PostgreSQL database, to be copied."""
    url = postgresql_server.new_database()
    open_ledger(ledger_config(url, tmp_path_factory.mktemp("template"))).close()
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a ledger without any study, on each kind of database."""
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "ledger.sqlite3")
        yield f"sqlite:///{file}"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql_server")
    url = server.new_database(request.getfixturevalue("postgresql_template"))
    yield url
    server.drop_database(url)


@pytest.fixture
def clock() -> Clock:
    """The ledger's clock."""
    return Clock()


@pytest.fixture
def ledger(ledger_url: str, clock: Clock) -> Iterator[Ledger]:
    """A ledger without any study."""
    opened = Ledger(make_engine(ledger_url), clock)
    yield opened
    opened.close()
