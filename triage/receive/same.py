"""Whether two encodings hold the same object: asked only when a SOP Instance UID comes again with other bytes."""

import hashlib
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pynetdicom.dsutils import encode

# Larger objects are not compared (the comparison holds them in memory) and count as different.
MAX_SIZE = 256 << 20
TRAILING_PADDING = 0xFFFCFFFC
PIXEL_DATA = 0x7FE00010


def same_content(one: Path, other: Path) -> bool:
    """Tell whether two Part 10 files hold the same data set, each in an *uncompressed* transfer syntax.

    Compressed pixel data is never decoded here: an object that comes again compressed (or the other way round) counts
    as different, because only a decoder could tell, and lossy compression makes it another image anyway.
    """
    if max(one.stat().st_size, other.stat().st_size) > MAX_SIZE:
        return False
    try:
        first, second = _canonical_digest(one), _canonical_digest(other)
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
        # What pydicom can't read and write again can't be compared.
        return False
    return bool(first) and first == second


def _canonical_digest(path: Path) -> str:
    """Return the digest of the data set as implicit VR little endian with defined lengths; empty if compressed."""
    ds = dcmread(path)
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        return ""
    if not syntax.is_little_endian:
        _swap_pixels(ds)
    _define_lengths(ds)
    ds.pop(TRAILING_PADDING, None)
    encoded = encode(ds, is_implicit_vr=True, is_little_endian=True)
    return hashlib.sha256(encoded).hexdigest() if encoded else ""


def _swap_pixels(ds: Dataset) -> None:
    """Turn the pixels' bytes round: pydicom leaves them as they are when it writes the other way."""
    if PIXEL_DATA in ds and ds[PIXEL_DATA].VR == "OW":
        pixels = np.frombuffer(ds.PixelData, dtype=np.uint16)  # (bytes / 2,)
        ds[PIXEL_DATA].value = pixels.byteswap().tobytes()


def _define_lengths(ds: Dataset) -> None:
    ds.is_undefined_length_sequence_item = False
    for element in ds:
        element.is_undefined_length = False
        if isinstance(element.value, Sequence):
            for item in element.value:
                _define_lengths(item)
