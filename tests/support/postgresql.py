"""A throw-away PostgreSQL server on a free port, and fresh databases on it."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg

from tests.support.peers import find_program, free_port, missing, wait_until


@dataclass(frozen=True)
class PostgreSQL:
    """A server that trusts anybody on this machine."""

    port: int
    _numbers: "count[int]" = field(default_factory=count)

    def new_database(self, template_url: str = "") -> str:
        """Make a database, empty or a copy of another one that nobody is using; returns its URL for SQLAlchemy."""
        name = f"test_{next(self._numbers)}"
        template = _name_of(template_url) if template_url else "template0"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def drop_database(self, url: str) -> None:
        """Drop a database, whoever is connected to it."""
        with self._connect() as connection:
            connection.execute(f"DROP DATABASE {_name_of(url)} WITH (FORCE)")

    def answers(self) -> bool:
        """Tell whether it is up."""
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", autocommit=True, connect_timeout=5
        )


def _name_of(url: str) -> str:
    return url.rsplit("/", 1)[1]


def _as_server_user() -> list[str]:
    """PostgreSQL refuses to run as root; Debian's package makes a user for it."""
    if os.geteuid() != 0:
        return []
    return [find_program("setpriv"), "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]


@contextmanager
def run_postgresql(port: int = 0) -> Iterator[PostgreSQL]:
    """Run a server until the block ends, on a port of the caller's or on a free one."""
    initdb, postgres = find_program("initdb"), find_program("postgres")
    prefix = _as_server_user()
    # Not under pytest's folder: that one lets only its owner in.
    folder = Path(tempfile.mkdtemp(prefix="triage-postgresql-"))
    try:
        if prefix:
            shutil.chown(folder, "postgres", "postgres")
        data = folder / "data"
        made = subprocess.run(
            [*prefix, initdb, "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            missing(f"initdb failed: {made.stderr.strip()}")
        server = PostgreSQL(port or free_port())
        # The tests kill clients, never the machine, so that nothing is lost by not waiting for the disk.
        options = ["-h", "127.0.0.1", "-p", str(server.port), "-k", "", "-F", "-N", "200"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([*prefix, postgres, "-D", data, *options], cwd=folder, stderr=log, stdout=log)
        try:
            wait_until(lambda: server.answers() or process.poll() is not None, 60, "PostgreSQL to answer")
            assert process.poll() is None, (folder / "log").read_text()
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # its "fast" shutdown: doesn't wait for clients to leave
            process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
