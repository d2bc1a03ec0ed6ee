"""Starts one Celery worker process of a role: ``python -m workers.run prepare|score [--config FILE]``.

The pool is *solo*: the process that loaded the models is the one that runs the tasks, so nothing forks after a
device is initialised. More workers are more processes.
"""

import argparse
import os
import sys
import warnings
from pathlib import Path

from celery import Celery
from celery.exceptions import SecurityWarning

from triage.config import Configuration, load
from triage.errors import TriageError, exit_code
from triage.logs import configure_logging
from triage.process import die_with_parent
from triage.transport import Pulse, make_app
from workers.request import EndingRequest

QUEUES = {"prepare": "prepare,report", "score": "score"}


def build(role: str, config: Configuration) -> tuple[Celery, Pulse]:
    """Return the application with the role's tasks registered, and the role's pulse."""
    app = make_app(config)
    app.Task.Request = EndingRequest
    pulse = Pulse(config, role)
    if role == "score":
        from workers import score

        score.register(app, config, pulse)
    else:
        from workers import prepare

        prepare.register(app, config, pulse)
    return app, pulse


def main() -> None:
    """Run until SIGTERM; exit 2 on a configuration or bundle error, 1 on all else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=sorted(QUEUES))
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    die_with_parent()
    configure_logging()
    try:
        app, pulse = build(arguments.role, load(arguments.config).configuration)
    except TriageError as exc:
        print(f"error: {exc}", file=sys.stderr)  # noqa: T201 - the process edge
        sys.exit(exit_code(exc))
    pulse.start()
    # A node may run as root inside a container; Celery warns because of pickle, which is refused here.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    options = [
        "--pool=solo",
        "--concurrency=1",
        "--loglevel=WARNING",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ]
    hostname = f"--hostname={arguments.role}-{os.getpid()}@%h"
    app.worker_main(["--quiet", "worker", f"--queues={QUEUES[arguments.role]}", hostname, *options])
    pulse.stop()


if __name__ == "__main__":
    main()
