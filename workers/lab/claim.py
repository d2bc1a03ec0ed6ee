"""One training at a time writes a bundle."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from triage.errors import ConfigurationError

LOCK = "lock"
"""The file that whoever trains holds."""


@contextmanager
def claimed(checkpoints: Path) -> Iterator[None]:
    """Hold a run's folder of checkpoints; it is removed at the end if it holds nothing else.

    Raises
    ------
    ConfigurationError
        If another process holds it.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    lock = FileLock(checkpoints / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as exc:
        raise ConfigurationError(
            f"another training uses {checkpoints}", remedy="wait until it ends, or choose another --out"
        ) from exc
    try:
        yield
    finally:
        (checkpoints / LOCK).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            checkpoints.rmdir()
