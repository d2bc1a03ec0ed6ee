"""The command line as its users run it: a process, its exit code and what it prints."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLI = [sys.executable, "-m", "triage.cli.main"]


def run(*arguments: str, cwd: Path, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `cwd` to its end; the environment is added to this process's."""
    return subprocess.run(
        [*CLI, *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "160", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextmanager
def started(*command: str, cwd: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command beside the test, all that it says in `log`; it is ended, and what it started, if it still runs."""
    with (
        log.open("w") as stream,
        subprocess.Popen(command, cwd=cwd, stdout=stream, stderr=stream, text=True) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()  # torchrun's own processes would outlive a launcher that is killed
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
