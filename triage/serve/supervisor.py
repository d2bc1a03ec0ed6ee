"""Starts the roles as child processes, restarts those that end, and stops all of them within ten seconds."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog

from triage.config import Configuration
from triage.errors import EXIT_USAGE, ConfigurationError
from triage.transport import forget_socket

log = structlog.get_logger(__name__)

ROLES = ("broker", "listener", "dispatcher", "prepare", "score", "web")
"""In the order in which they start; they stop the other way round."""
# One of each per data folder, whichever `serve` runs it; workers may be many.
_ALONE = frozenset({"broker", "listener", "dispatcher", "web"})

_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 30.0
_SETTLED_S = 60.0
_STOP_S = 7.0
_LOCK_WAIT_S = 15.0


@dataclass
class Child:
    """One supervised process.

    Attributes
    ----------
    name : str
        The role, with a number when several processes share it.
    command : list of str
        What to run.
    """

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    backoff_s: float = _FIRST_BACKOFF_S
    restarts: int = 0


@dataclass
class Supervisor:
    """Runs roles until told to stop.

    Parameters
    ----------
    config : Configuration
        The effective configuration.
    config_file : pathlib.Path or None
        Handed to the children, which read it again: each role can as well be run alone, elsewhere.
    roles : tuple of str
        Which of `ROLES` to run here.
    """

    config: Configuration
    config_file: Path | None
    roles: tuple[str, ...]
    children: list[Child] = field(default_factory=list)
    _locks: list[IO[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Start every role's processes.

        Raises
        ------
        ConfigurationError
            If the data folder cannot be used or another `serve` uses it.
        """
        self._locks = [_locked(self.config.data_dir, role) for role in self.roles if role in _ALONE]
        for role in ROLES:
            if role in self.roles:
                self.children += self._children_of(role)
        for child in self.children:
            self._spawn(child)

    def run(self, stop: threading.Event) -> int:
        """Restart what ends, with back-off, until `stop` is set; returns the exit code.

        A child that ends with a usage error at its first start ends everything: restarting cannot mend it.
        """
        while not stop.wait(0.2):
            now = time.monotonic()
            for child in self.children:
                code = child.process.poll() if child.process else None
                if code is None:
                    continue
                if child.restart_at == 0.0:
                    if code == EXIT_USAGE and child.restarts == 0:
                        return EXIT_USAGE
                    self._plan_restart(child, code, now)
                elif now >= child.restart_at:
                    child.restarts += 1
                    self._spawn(child)
        return 0

    def stop(self) -> None:
        """Ask every child to end, the first started last; kill those that take too long."""
        deadline = time.monotonic() + _STOP_S
        running = [c.process for c in self.children if c.process and c.name != "broker"]
        broker = [c.process for c in self.children if c.process and c.name == "broker"]
        for group in (running, broker):
            for process in group:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            for process in group:
                try:
                    process.wait(timeout=max(0.2, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            deadline = max(deadline, time.monotonic() + 1.5)
        if broker:
            forget_socket(self.config)
        for lock in self._locks:
            lock.close()

    def _children_of(self, role: str) -> list[Child]:
        if role == "broker":
            if self.config.broker.url != "embedded":
                return []
            return [Child("broker", self._command("triage.serve.role", role))]
        if role in ("prepare", "score"):
            count = getattr(self.config.worker, f"{role}_processes")
            names = [role] if count == 1 else [f"{role}-{number + 1}" for number in range(count)]
            return [Child(name, self._command("workers.run", role)) for name in names]
        return [Child(role, self._command("triage.serve.role", role))]

    def _command(self, module: str, role: str) -> list[str]:
        command = [sys.executable, "-m", module, role]
        if self.config_file is not None:
            command += ["--config", str(self.config_file)]
        return command

    def _spawn(self, child: Child) -> None:
        # The children hold the locks too: a killed supervisor's folder is free only when all of them are gone.
        # A session of their own: Ctrl-C reaches the supervisor alone, which then stops them in order.
        child.process = subprocess.Popen(
            child.command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,  # standard output carries serve's own lines alone
            pass_fds=[lock.fileno() for lock in self._locks],
            start_new_session=True,
        )
        child.started_at = time.monotonic()
        child.restart_at = 0.0
        log.info("role_started", role=child.name, pid=child.process.pid)

    def _plan_restart(self, child: Child, code: int, now: float) -> None:
        if now - child.started_at > _SETTLED_S:
            child.backoff_s = _FIRST_BACKOFF_S
        child.restart_at = now + child.backoff_s
        log.error("role_ended", role=child.name, exit_code=code, restart_in_s=child.backoff_s)
        child.backoff_s = min(2 * child.backoff_s, _LONGEST_BACKOFF_S)


def _locked(data_dir: Path, role: str) -> IO[bytes]:
    """Return the role's file, locked for as long as it, or a child's copy of it, is open."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (data_dir / f"serve-{role}.lock").open("ab")
    except OSError as exc:
        raise ConfigurationError(
            f"the data folder {data_dir} cannot be used: {exc.strerror}", remedy="set data_dir to a folder of yours"
        ) from exc
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # The children of a killed serve need a moment to be gone.
            if time.monotonic() > deadline:
                file.close()
                raise ConfigurationError(
                    f"another triage-node serve (process {_holder(data_dir)}) runs the {role} in {data_dir}",
                    remedy="stop it, or set data_dir to another folder",
                ) from None
            time.sleep(0.1)
        else:
            (data_dir / "serve.pid").write_text(f"{os.getpid()}\n")
            return file


def _holder(data_dir: Path) -> str:
    try:
        return (data_dir / "serve.pid").read_text().strip()
    except OSError:
        return "unknown"
