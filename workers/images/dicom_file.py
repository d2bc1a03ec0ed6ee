"""Reading a DICOM file that may be damaged."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from triage.errors import NotScoredError

#: pydicom documents no closed list of what a malformed file raises; these are what its parser lets through.
UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError, zlib.error,
    BytesLengthException, InvalidDicomError,
)  # fmt: skip


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
    except UNREADABLE as exc:
        raise NotScoredError("the image file cannot be read") from exc
    _drop_undecodable(ds)
    return ds


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
