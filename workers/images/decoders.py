"""Encoded pixel data -> stored values, one frame at a time, for every transfer syntax that the node accepts."""

import re
import struct
from collections.abc import Callable
from functools import partial
from importlib import resources
from io import BytesIO
from typing import NamedTuple

import gdcm
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from triage.errors import NotScoredError

#: Transfer syntax -> (short name for people, largest error that its sample may show, in stored values).
DECODED: dict[UID, tuple[str, int]] = {
    ImplicitVRLittleEndian: ("Implicit VR Little Endian", 0),
    ExplicitVRLittleEndian: ("Explicit VR Little Endian", 0),
    ExplicitVRBigEndian: ("Explicit VR Big Endian", 0),
    DeflatedExplicitVRLittleEndian: ("Deflated Explicit VR Little Endian", 0),
    RLELossless: ("RLE Lossless", 0),
    JPEGBaseline8Bit: ("JPEG Baseline", 12),
    JPEGExtended12Bit: ("JPEG Extended", 60),
    JPEGLossless: ("JPEG Lossless", 0),
    JPEGLosslessSV1: ("JPEG Lossless, First-Order Prediction", 0),
    JPEGLSLossless: ("JPEG-LS Lossless", 0),
    JPEGLSNearLossless: ("JPEG-LS Near-Lossless", 4),
    JPEG2000Lossless: ("JPEG 2000 Lossless", 0),
    JPEG2000: ("JPEG 2000", 60),
    HTJ2KLossless: ("HTJ2K Lossless", 0),
    HTJ2KLosslessRPCL: ("HTJ2K Lossless, RPCL", 0),
    HTJ2K: ("HTJ2K", 60),
}

#: More samples than this in one frame are taken for an attack or a broken header, not for an image. A detector of 43 cm
#: with pixels of 0.1 mm has 18 million, a film digitised at 0.05 mm 60 million; a megabyte of JPEG-LS holds as many.
MAX_FRAME_SAMPLES = 8192 * 8192

#: A marker of a JPEG or JPEG-LS and its segment's length. Fill bytes may precede it (ITU-T T.81, B.1.1.2).
_SEGMENT = re.compile(rb"\xff+([^\xff])(..)", re.DOTALL)
#: A colour profile may take 255 segments before the frame header; of many more none is read.
MAX_SEGMENTS = 1000


class DecoderCheck(NamedTuple):
    """What the self-test found about one transfer syntax."""

    name: str
    ok: bool
    detail: str


def decode_frame(ds: Dataset, index: int = 0) -> npt.NDArray[np.generic]:
    """Return the stored values of one frame, without any LUT, rescale or colour conversion.

    Parameters
    ----------
    ds : pydicom.Dataset
        A data set with its PixelData and its file meta information.
    index : int
        Frame number, from 0.

    Returns
    -------
    numpy.ndarray
        Shape (rows, columns) or (rows, columns, samples); integer dtype of the stored values.

    Raises
    ------
    NotScoredError
        If the header contradicts itself or the bytes, or no decoder can read them.
    MemoryError
        If there is not enough memory, here and now. Of a compressed frame that may go unsaid: pydicom swallows what
        its plug-ins raise, and GDCM ends the process.
    """
    _check_header(ds)
    syntax = ds.file_meta.TransferSyntaxUID
    name = DECODED[syntax][0] if syntax in DECODED else UID(syntax).name
    try:
        bits, *size = _coded(ds, index) if syntax.is_encapsulated and syntax != RLELossless else (0, 0, 0)
        if any(size) and size != [ds.Rows, ds.Columns]:
            raise NotScoredError("the image's header contradicts its pixel data about the size")
        if syntax == JPEGExtended12Bit and bits == 12:
            return _decode_jpeg_12_bit(ds, index)
        return pixel_array(ds, index=index, raw=True)
    except (NotScoredError, MemoryError):
        raise
    # Decoders are C libraries behind plug-ins: what they raise on damaged bytes is an open list.
    except Exception as exc:
        raise NotScoredError(f"the pixel data cannot be decoded ({name})") from exc


def _check_header(ds: Dataset) -> None:
    """Refuse what no decoder should be asked to allocate memory for."""
    if "PixelData" not in ds:
        raise NotScoredError("the image has no pixel data")
    for keyword, meaning in (("Rows", "number of rows"), ("Columns", "number of columns"),
                             ("BitsAllocated", "bits of a pixel"), ("BitsStored", "bits of a pixel"),
                             ("SamplesPerPixel", "samples of a pixel")):  # fmt: skip
        value = ds.get(keyword)
        if not isinstance(value, int) or value < 1:
            raise NotScoredError(f"the image's header does not give the {meaning}")
    if ds.Rows * ds.Columns * ds.SamplesPerPixel > MAX_FRAME_SAMPLES:
        raise NotScoredError("the image's header gives an implausible size")
    if ds.BitsStored > ds.BitsAllocated:
        raise NotScoredError("the image's header contradicts itself about the bits of a pixel")


def _coded(ds: Dataset, index: int) -> tuple[int, int, int]:
    """Return a frame's bits, rows and columns as its code stream has them, zeros where it doesn't say so.

    Decoders believe the code stream: they allocate memory for its size, and GDCM ends the whole process where a
    JPEG-LS has fewer pixels than the data set says.

    References
    ----------
    ITU-T T.81, B.2.2 (frame header; JPEG-LS, T.87 C.2.2, has the same), T.800 A.5.1 (SIZ).

    Raises
    ------
    NotScoredError
        If a frame header doesn't come within `MAX_SEGMENTS`.
    """
    code = _encoded_frame(ds, index)
    if code.startswith(b"\xff\x4f\xff\x51"):
        right, bottom, left, top = struct.unpack_from(">4I", code, 8)
        return 0, bottom - top, right - left
    at = 2
    for _ in range(MAX_SEGMENTS):
        segment = _SEGMENT.match(code, at)
        if not segment:
            return 0, 0, 0
        marker, length = segment[1][0], int.from_bytes(segment[2], "big")
        # SOF0 to SOF15 except DHT (C4), JPG (C8) and DAC (CC); SOF55 of JPEG-LS
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return struct.unpack_from(">BHH", code, segment.end())
        at = segment.start(2) + length
    raise NotScoredError("the image's pixel data have no frame header where one belongs")


def _encoded_frame(ds: Dataset, index: int) -> bytes:
    offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths) if "ExtendedOffsetTableLengths" in ds else None
    count = int(ds.get("NumberOfFrames", 1) or 1)
    return get_frame(ds.PixelData, index, number_of_frames=count, extended_offsets=offsets)


def _decode_jpeg_12_bit(ds: Dataset, index: int) -> npt.NDArray[np.uint16]:
    """Decode 12-bit JPEG Extended by GDCM itself.

    pydicom's GDCM plug-in refuses these, though GDCM decodes them exactly as DCMTK does when it is told that the
    samples have the 12 bits of the code stream, whatever BitsStored says.
    """
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(_encoded_frame(ds, index))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((ds.Columns, ds.Rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # GDCM hands its char* out as str.
    raw = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(raw, dtype="<u2").reshape(ds.Rows, ds.Columns)


def decoders_self_test() -> list[DecoderCheck]:
    """Decode a small encoded picture in each transfer syntax and compare it with what was encoded.

    Returns
    -------
    list of DecoderCheck
        Name of the transfer syntax, whether it decodes rightly here, and what was found.
    """
    samples = resources.files("workers.images") / "samples"
    reference: Callable[[int], npt.NDArray[np.generic]] = partial(sample_picture)
    return [_check(uid, (samples / f"{uid}.dcm").read_bytes(), reference) for uid in DECODED]


def _check(uid: UID, code: bytes, reference: Callable[[int], npt.NDArray[np.generic]]) -> DecoderCheck:
    name, tolerance = DECODED[uid]
    try:
        ds = pydicom.dcmread(BytesIO(code))
        found = decode_frame(ds)
    except NotScoredError as exc:
        return DecoderCheck(name, False, exc.message)
    error = int(np.abs(found.astype(np.int64) - reference(ds.BitsStored).astype(np.int64)).max())
    if error > tolerance:
        return DecoderCheck(name, False, f"differs from the picture by up to {error}, {tolerance} allowed")
    return DecoderCheck(name, True, "identical" if error == 0 else f"within {error} of {2**ds.BitsStored}")


def sample_picture(bits: int) -> npt.NDArray[np.uint16]:
    """Return the picture that the self-test's samples hold: a ramp, a disc and a few fine lines.

    Parameters
    ----------
    bits : int
        Bits stored, 8 or 12.

    Returns
    -------
    numpy.ndarray
        Shape (48, 40), uint16, 0 to 2**bits - 1.
    """
    rows, columns = np.mgrid[0:48, 0:40]
    picture = (rows * 11 + columns * 7) % 640 / 1280 + 0.1
    picture[(rows - 20) ** 2 + (columns - 18) ** 2 < 100] = 0.8
    picture[40:44, ::8] = 0.3
    picture[:4, :4], picture[:4, 4:8] = 0, 1  # the whole range, so that encoders that stretch leave it alone
    stored: npt.NDArray[np.uint16] = np.round(picture * (2**bits - 1)).astype(np.uint16)
    return stored
