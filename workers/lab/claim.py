"""One training at a time writes a bundle; what it keeps meanwhile, and what may go when the bundle is there."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from triage.bundles import SUMS, Bundle, new_bundle_folder
from triage.durable import replacing
from triage.errors import BundleError, ConfigurationError

LOCK = "lock"
"""The file that whoever trains holds."""
MADE = "made"
"""The file that says, by its digest, which bundle was made from the checkpoints."""


def checkpoints_of(out: Path) -> Path:
    """Return the folder beside a bundle in which its training keeps what it has, until the bundle is complete."""
    out = out.resolve()
    return out.with_name(out.name + ".training")


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


def kept(checkpoints: Path) -> list[str]:
    """Return the stages of which something is kept, in the order in which it was written."""
    files = [one for one in checkpoints.glob("*") if one.name not in (LOCK, MADE) and one.suffix != ".partial"]
    return [one.name.partition(".")[0] for one in sorted(files, key=lambda one: one.stat().st_mtime_ns)]


def mark_made(checkpoints: Path, digest: str) -> None:
    """Note which bundle is made from the checkpoints: with it in its place nobody needs them any more."""
    with replacing(checkpoints / MADE) as draft:
        draft.write_text(digest)


def clear(checkpoints: Path) -> None:
    """Remove all that a complete training kept, which bundle was made from it last: should that be interrupted."""
    for path in sorted(checkpoints.glob("*"), key=lambda one: one.name == MADE):
        if path.name != LOCK:
            with suppress(OSError):
                path.unlink()


def check_place(out: Path) -> None:
    """Check that a bundle can be trained into ``out``, as `new_bundle_folder` does.

    Where a training was killed after its bundle was there, the checkpoints that it left are removed.

    Raises
    ------
    ConfigurationError
        If not.
    """
    checkpoints = checkpoints_of(out)
    if not _left_over(out, checkpoints):
        new_bundle_folder(out)
        return
    with suppress(ConfigurationError, OSError), claimed(checkpoints):  # or another process removes them
        clear(checkpoints)
    raise ConfigurationError(
        f"{out} is complete: its training was killed when nothing was left to do but to remove {checkpoints.name}",
        remedy="use the bundle, or choose another --out",
    )


def _left_over(out: Path, checkpoints: Path) -> bool:
    """Whether the bundle is there for which the checkpoints were kept; another's are of a training that can go on."""
    if not (checkpoints.is_dir() and (out / SUMS).exists()):
        return False
    if not kept(checkpoints):
        return True
    try:
        return (checkpoints / MADE).read_bytes() == Bundle.open(out).digest.encode()
    except (OSError, BundleError):
        return False
