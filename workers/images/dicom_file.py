"""Reading a DICOM file that may be damaged."""

from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom import Dataset

from triage.errors import NotScoredError
from triage.store import UNREADABLE

_UNREADABLE = (OSError, *UNREADABLE)


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
    """
    try:
        ds = pydicom.dcmread(
            path, stop_before_pixels=not pixels, force=force, specific_tags=list(only) if only else None
        )
    except _UNREADABLE as exc:
        raise NotScoredError("the image file cannot be read") from exc
    _drop_undecodable(ds)
    return ds


def _drop_undecodable(ds: Dataset) -> None:
    for tag in list(ds.keys()):
        try:
            element = ds[tag]
        except _UNREADABLE:
            del ds[tag]
            continue
        if element.VR == "SQ":
            for item in element.value or ():
                _drop_undecodable(item)
