"""Reading a DICOM file that may be damaged."""

import errno
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom import Dataset

from triage.errors import NotScoredError
from triage.store import UNREADABLE


def read_dicom(path: Path, *, pixels: bool = False, force: bool = False, only: Sequence[str] | None = None) -> Dataset:
    """Return a data set, its pixels still encoded; an element that can't be decoded counts as absent.

    pydicom decodes an element when it is asked for: without this, one wrong length would end whatever asks.

    Parameters
    ----------
    path : pathlib.Path
        A Part 10 file.
    pixels : bool
        Whether to read on when the pixels begin.
    force : bool
        Whether to read a file without preamble, too.
    only : sequence of str, optional
        Keywords of the elements wanted; default: all.

    Raises
    ------
    NotScoredError
        If it isn't a DICOM file, or can't be parsed.
    OSError
        If the operating system doesn't let it be read: that says nothing of the image, and may pass.
    """
    try:
        ds = pydicom.dcmread(
            path, stop_before_pixels=not pixels, force=force, specific_tags=list(only) if only else None
        )
    except (OSError, *UNREADABLE) as exc:
        if _is_the_systems(exc):
            raise
        raise NotScoredError("the image file cannot be read") from exc
    _drop_undecodable(ds)
    return ds


def _is_the_systems(exc: Exception) -> bool:
    """Tell what the operating system says from what a parser says of bytes that it read.

    That has no number, or EINVAL: a wrong length sent it to a place before the file's beginning.
    """
    return isinstance(exc, OSError) and exc.errno not in (None, errno.EINVAL)


def _drop_undecodable(ds: Dataset) -> None:
    for tag in list(ds.keys()):
        try:
            element = ds[tag]
        except UNREADABLE:
            del ds[tag]
            continue
        if element.VR == "SQ":
            for item in element.value or ():
                _drop_undecodable(item)
