"""Stored values -> what they mean: padding, modality LUT or rescale, VOI LUT or window, polarity."""

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import UID

from triage.errors import NotScoredError
from workers.images.decoders import decode_frame
from workers.images.tables import Table

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: Numbers of a header beyond this don't fit the arithmetic (float32), nor any image.
LARGEST = 1e30
#: A window is believed if at least this share of the image's pixels falls strictly inside it.
MIN_SHARE_IN_WINDOW = 0.15


def grey_frame(ds: Dataset, index: int = 0) -> npt.NDArray[np.generic]:
    """Return one frame's stored values, shape (rows, columns).

    Raises
    ------
    NotScoredError
        If the pixels cannot be decoded, or are colours.
    """
    stored = decode_frame(ds, index)
    if stored.ndim == 2:
        return stored
    # Some devices send grey images as RGB with three equal samples.
    if str(ds.get("PhotometricInterpretation", "")) == "RGB" and (stored == stored[..., :1]).all():
        return stored[..., 0]
    raise NotScoredError("a colour image, not a radiograph or CT")


def padding_mask(ds: Dataset, stored: npt.NDArray[np.generic]) -> Mask:
    """Return where the pixels are padding, not image.

    Parameters
    ----------
    ds : pydicom.Dataset
        Has PixelPaddingValue (0028,0120) and perhaps PixelPaddingRangeLimit (0028,0121), or neither.
    stored : numpy.ndarray
        Stored values, before any rescale.

    References
    ----------
    PS3.3 C.7.5.1.1.2.
    """
    first = _stored_value(ds, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    last = _stored_value(ds, "PixelPaddingRangeLimit")
    low, high = sorted((first, first if last is None else last))
    mask: Mask = np.greater_equal(stored, low)
    mask &= np.less_equal(stored, high)
    return mask


def _stored_value(ds: Dataset, keyword: str) -> int | None:
    """Return an US-or-SS attribute as a stored value; writers often pick the wrong one of the two."""
    value = ds.get(keyword)
    if not isinstance(value, int):
        return None
    bits = int(ds.BitsAllocated)
    if ds.get("PixelRepresentation", 0) == 1 and value >= 1 << (bits - 1):
        return value - (1 << bits)
    if ds.get("PixelRepresentation", 0) == 0 and value < 0:
        return value + (1 << bits)
    return value


def displayed(ds: Dataset) -> tuple[Floats, Mask]:
    """Return a radiograph as its sender wants it seen: 0 black (dense), 1 white, and where it is padding.

    The one path from stored values to greys: modality LUT, then VOI LUT Sequence or window, then polarity by
    PhotometricInterpretation alone. (PresentationLUTShape says the same again where it is present: PS3.3 C.8.11.1
    ties INVERSE to MONOCHROME1.)

    Returns
    -------
    numpy.ndarray
        float32, shape (rows, columns), 0 to 1.
    numpy.ndarray
        bool, the same shape.

    Raises
    ------
    NotScoredError
        If the pixels cannot be decoded or shown.
    """
    photometric = str(ds.get("PhotometricInterpretation", ""))
    if photometric not in ("MONOCHROME1", "MONOCHROME2", "RGB"):
        raise NotScoredError("the image is not a greyscale image")
    stored = grey_frame(ds)
    padding = padding_mask(ds, stored)
    try:
        values, signed = _modality_values(stored, ds)
        grey = _windowed(values, ds, padding, signed=signed)
    except (ValueError, TypeError, AttributeError, OverflowError) as exc:
        raise NotScoredError("the image's brightness tables cannot be used") from exc
    return (np.subtract(1, grey, out=grey) if photometric == "MONOCHROME1" else grey), padding


def _modality_values(stored: npt.NDArray[np.generic], ds: Dataset) -> tuple[npt.NDArray[np.generic], bool]:
    """Apply Modality LUT or rescale, if the header has one; also return whether values can be negative (C.11.1)."""
    signed = ds.get("PixelRepresentation", 0) == 1
    if ds.get("ModalityLUTSequence"):
        return _table(ds, "ModalityLUTSequence", signed=signed)(stored), False
    slope, intercept = _first_number(ds, "RescaleSlope"), _first_number(ds, "RescaleIntercept")
    # Both are Type 1C; sent empty, or as 0, they say nothing.
    if not slope or intercept is None:
        return stored, signed
    values = stored.astype(np.float32)
    values *= np.float32(slope)
    values += np.float32(intercept)
    half = 1 << (int(ds.BitsStored) - 1)
    ends = (-half, half - 1) if signed else (0, 2 * half - 1)
    return values, min(slope * end + intercept for end in ends) < 0


def _table(ds: Dataset, keyword: str, *, signed: bool) -> Table:
    little_endian = bool(UID(ds.file_meta.TransferSyntaxUID).is_little_endian)
    return Table.of(ds[keyword][0], signed=signed, little_endian=little_endian)


def _windowed(values: npt.NDArray[np.generic], ds: Dataset, padding: Mask, *, signed: bool) -> Floats:
    """Apply VOI LUT or window and scale to 0..1; fall back to the range of the image where they are implausible."""
    image = ~padding
    if not image.any():
        raise NotScoredError("the image is empty")
    grey = _through_voi(values, ds, signed=signed)
    if grey is not None:
        within = (grey > 0.01) & (grey < 0.99) & image
        if np.count_nonzero(within) >= MIN_SHARE_IN_WINDOW * np.count_nonzero(image):
            return grey
        del grey  # large images shouldn't lie here twice
    inside = values[image].astype(np.float32)
    low, high = (float(v) for v in np.percentile(inside, (0.2, 99.8), overwrite_input=True))
    if high <= low:
        raise NotScoredError("the image is blank")
    return _ramp(values, low, high)


def _through_voi(values: npt.NDArray[np.generic], ds: Dataset, *, signed: bool) -> Floats | None:
    """Return 0..1 by the first VOI LUT, else by the first window, else None (PS3.3 C.11.2)."""
    if ds.get("VOILUTSequence"):
        table = _table(ds, "VOILUTSequence", signed=signed)
        return _ramp(table(values), 0.0, 2.0**table.bits - 1)
    centre, width = _first_number(ds, "WindowCenter"), _first_number(ds, "WindowWidth")
    function = str(ds.get("VOILUTFunction", "") or "LINEAR").upper()
    if centre is None or width is None or width <= (1.0 if function == "LINEAR" else 0.0):
        return None
    if function == "SIGMOID":
        grey: Floats = 1 / (1 + np.exp(-4 * (values.astype(np.float32) - np.float32(centre)) / np.float32(width)))
        return grey
    if function == "LINEAR":
        # C.11.2.1.2.1: the historical half grey value
        centre, width = centre - 0.5, width - 1
    return _ramp(values, centre - width / 2, centre + width / 2)


def _first_number(ds: Dataset, keyword: str) -> float | None:
    try:
        number = float(np.ravel(np.asarray(ds.get(keyword), dtype=np.float64))[0])
    except (TypeError, ValueError, IndexError):
        return None
    return number if abs(number) < LARGEST else None


def _ramp(values: npt.NDArray[np.generic], low: float, high: float) -> Floats:
    grey: Floats = values.astype(np.float32)
    grey -= np.float32(low)
    grey /= np.float32(high - low)
    return np.clip(grey, 0, 1, out=grey)
