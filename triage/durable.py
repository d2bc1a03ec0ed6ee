"""What must be on the disk whole, or not at all, when the power goes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """Bring a file's bytes, or a folder's entries, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def replacing(path: Path, by: str = "") -> Iterator[Path]:
    """Yield a file's draft, to be written: a reader of ``path`` sees what was there before, or all of the new one.

    Its folder is made. A draft whose writing fails is removed.

    Parameters
    ----------
    by : str
        Names the writer where there may be several at a time, so that none writes into another's draft.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}{by}.partial")
    try:
        yield draft
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)
