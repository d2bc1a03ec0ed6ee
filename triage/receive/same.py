"""Whether two encodings hold the same object: asked only when a SOP Instance UID comes again with other bytes."""

import hashlib
import os
import threading
import zlib
from io import BytesIO
from typing import BinaryIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.sequence import Sequence
from pydicom.uid import UID
from pynetdicom.dsutils import encode

from triage.store import UNREADABLE

# Larger objects are not compared (the comparison holds them in memory, inflated) and count as different.
MAX_SIZE = 256 << 20
TRAILING_PADDING = 0xFFFCFFFC
PIXEL_DATA = 0x7FE00010

# However many associations bring known objects, one of them is held in memory at a time.
_comparing = threading.Lock()


def same_content(one: BinaryIO, other: BinaryIO) -> bool:
    """Tell whether two Part 10 files hold the same data set, each in an *uncompressed* transfer syntax.

    Compressed pixel data is never decoded here: an object that comes again compressed (or the other way round) counts
    as different, because only a decoder could tell, and lossy compression makes it another image anyway.
    """
    with _comparing:
        try:
            first = _canonical_digest(one)
            return bool(first) and first == _canonical_digest(other)
        except UNREADABLE:
            # What pydicom can't read and write again can't be compared.
            return False


def _canonical_digest(file: BinaryIO) -> str:
    """Return the digest of the data set as implicit VR little endian with defined lengths.

    It is empty if the data set is compressed or too large.
    """
    read_preamble(file, force=False)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    syntax = UID(meta.TransferSyntaxUID)
    size = os.fstat(file.fileno()).st_size
    if syntax.is_encapsulated or size > MAX_SIZE:
        return ""
    if syntax.is_deflated:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), MAX_SIZE + 1)
        if len(inflated) > MAX_SIZE:
            return ""
        ds = read_dataset(BytesIO(inflated), False, True)
    else:
        ds = read_dataset(file, syntax.is_implicit_VR, syntax.is_little_endian)
    pixels = hashlib.sha256(_taken_pixels(ds, little=syntax.is_little_endian)).hexdigest()
    _define_lengths(ds)
    ds.pop(TRAILING_PADDING, None)
    rest = encode(ds, is_implicit_vr=True, is_little_endian=True)
    return hashlib.sha256(rest).hexdigest() + pixels if rest else ""


def _taken_pixels(ds: Dataset, *, little: bool) -> bytes:
    """Take the pixels out, little endian: written with the rest they would be held in memory a few times more."""
    if PIXEL_DATA not in ds:
        return b""
    element = ds[PIXEL_DATA]
    del ds[PIXEL_DATA]
    pixels: bytes = element.value or b""
    if little or element.VR != "OW":
        return pixels
    return np.frombuffer(pixels, dtype=np.uint16).byteswap().tobytes()


def _define_lengths(ds: Dataset) -> None:
    ds.is_undefined_length_sequence_item = False
    for element in ds:
        element.is_undefined_length = False
        if isinstance(element.value, Sequence):
            for item in element.value:
                _define_lengths(item)
