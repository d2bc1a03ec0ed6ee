"""The same radiograph, stored in other ways, for `tests.bench.robustness`: what is displayed stays the same."""

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import Dataset as Item
from pydicom.sequence import Sequence as Items

from tests.support.images import plain, set_pixels
from workers.images.pixels import displayed

Stored = npt.NDArray[np.integer]


def ways(ds: Dataset) -> Iterator[tuple[str, Dataset]]:
    """Yield the image's ways of being stored; "12 bits, window" is what the others are held against."""
    grey = displayed(ds)[0]
    fine = np.round(grey * 4095).astype(np.uint16)
    ds = plain(ds)
    yield "12 bits, window", _stored(ds, fine, 12)
    yield "12 bits, no window", _stored(ds, fine, 12, window=False)
    yield "MONOCHROME1, values inverted", _stored(ds, 4095 - fine, 12, inverse=True)
    yield "MONOCHROME1, values inverted, no window", _stored(ds, 4095 - fine, 12, inverse=True, window=False)
    yield "16 bits, window", _stored(ds, (fine * 16).astype(np.uint16), 16, scale=16)
    yield "signed 16 bits, window", _signed(ds, fine)
    yield "rescaled by slope and intercept", _rescaled(ds, fine)
    yield "VOI LUT, square root undone", _with_table(ds, fine)


def _stored(
    ds: Dataset, values: Stored, bits: int, *, inverse: bool = False, window: bool = True, scale: int = 1
) -> Dataset:
    other = deepcopy(ds)
    for keyword in ("WindowCenter", "WindowWidth", "VOILUTSequence", "VOILUTFunction", "RescaleType"):
        if keyword in other:
            del other[keyword]
    other.BitsAllocated, other.BitsStored, other.HighBit, other.PixelRepresentation = 16, bits, bits - 1, 0
    other.PhotometricInterpretation = "MONOCHROME1" if inverse else "MONOCHROME2"
    other.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    other.RescaleSlope, other.RescaleIntercept = 1, 0
    set_pixels(other, values)
    if window:
        # Exact, without the half grey value of LINEAR (PS3.3 C.11.2.1.3.2)
        other.VOILUTFunction, other.WindowCenter, other.WindowWidth = "LINEAR_EXACT", 2047.5 * scale, 4095 * scale
    return other


def _signed(ds: Dataset, fine: Stored) -> Dataset:
    other = _stored(ds, (fine.astype(np.int32) - 2048).astype(np.int16), 16)
    other.PixelRepresentation, other.WindowCenter = 1, -0.5
    return other


def _rescaled(ds: Dataset, fine: Stored) -> Dataset:
    other = _stored(ds, fine, 12)
    other.RescaleSlope, other.RescaleIntercept = 2, -1000
    other.WindowCenter, other.WindowWidth = 2 * 2047.5 - 1000, 2 * 4095
    return other


def _with_table(ds: Dataset, fine: Stored) -> Dataset:
    """Store square roots, and the table that shows them as they were."""
    other = _stored(ds, np.round(np.sqrt(fine / 4095) * 4095).astype(np.uint16), 12, window=False)
    table = Item()
    table.add_new(0x00283002, "US", [4096, 0, 16])
    table.add_new(0x00283006, "OW", np.round((np.arange(4096) / 4095) ** 2 * 65535).astype("<u2").tobytes())
    other.VOILUTSequence = Items([table])
    return other
