"""A stack of slices -> one volume of brain-window values, read slice by slice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from triage.errors import NotScoredError
from triage.manifest import Preprocessing
from workers.images.decoders import decode_frame
from workers.images.frames import Frame, Vector
from workers.images.pixels import Floats, padding_mask
from workers.images.sources import spacing_of
from workers.images.stacks import Stack

#: Equation 4 of the paper: pixel = clip(HU + 14, 0, 127); no bundle may say otherwise (`triage.manifest`).
HU_OFFSET = 14
TOP = 127
#: Slices are averaged down to this, or the model's finer pixels, so that the gate still sees the skull.
MAX_PIXEL_MM = 1.8
MAX_SLICE_PIXELS = 2048 * 2048


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A head in equation 4's values, and where it lies.

    Values are clipped before anything is averaged or interpolated, so that bone and air weigh no more at a border
    than the window lets them, whatever the scanner's range was (and data that were clipped once stay the same).

    Attributes
    ----------
    values : numpy.ndarray
        float32, shape (slices, rows, columns), 0 to 127, inferior to superior.
    affine : numpy.ndarray
        float64, shape (3, 4): (column, row, slice, 1) -> LPS in mm. Sheared where the gantry was tilted.
    up : numpy.ndarray
        float64, shape (3,): the slices' normal, pointing to the head.
    """

    values: Floats
    affine: Vector
    up: Vector

    @classmethod
    def of_hu(cls, hu: npt.NDArray[np.floating], affine: Vector) -> Self:
        """Return a head of which no more is known than its HU, inferior to superior, and where it lies."""
        normal = np.cross(affine[:, 0], affine[:, 1])
        values = np.clip(hu + HU_OFFSET, 0, TOP).astype(np.float32)
        return cls(values=values, affine=affine, up=normal / np.linalg.norm(normal))

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Distance between slices (along the normal), rows and columns, mm."""
        along = float(self.affine[:, 2] @ self.up)
        return along, float(np.linalg.norm(self.affine[:, 1])), float(np.linalg.norm(self.affine[:, 0]))


def lying_straight(voxel_mm: Sequence[float]) -> Vector:
    """Return the affine of a volume whose axes are the patient's and whose voxels are so large, (D, H, W), mm."""
    return np.column_stack([np.diag(voxel_mm[::-1]), np.zeros(3)])


def load_volume(stack: Stack, grid: Preprocessing) -> Volume:
    """Decode a stack slice by slice, averaging down to about the model's resolution on the way.

    Parameters
    ----------
    stack : Stack
        Checked and sorted.
    grid : Preprocessing
        Its ``spacing_mm`` limits how far slices may be averaged.

    Raises
    ------
    NotScoredError
        If a slice cannot be decoded or is implausibly large.
    """
    first = stack.frames[0]
    if first.shape[0] * first.shape[1] > MAX_SLICE_PIXELS:
        raise NotScoredError("the series is implausibly large")
    spacing = spacing_of(grid)
    finest = [min(target, MAX_PIXEL_MM) for target in spacing[1:]]
    shrink = [max(1, int(target / pixel + 1e-6)) for target, pixel in zip(finest, first.pixel_mm, strict=True)]
    slices: dict[tuple[str, int], Floats] = {}
    reader = SliceReader()
    for frame in sorted(stack.frames, key=lambda f: f.key):
        slices[frame.key] = _block_mean(np.clip(reader.hu(frame) + HU_OFFSET, 0, TOP), (shrink[0], shrink[1]))
    values, places = _even(np.stack([slices[f.key] for f in stack.frames]), stack.places_mm, spacing[0])
    affine = _affine(stack, places, (shrink[0], shrink[1]))
    return Volume(values=values, affine=affine, up=stack.up)


class SliceReader:
    """Reads slices in HU; an enhanced instance's file is parsed once for all its frames that are asked for in a row."""

    def __init__(self) -> None:
        self._uid = ""
        self._ds = Dataset()

    def hu(self, frame: Frame) -> Floats:
        """Return float32 HU, shape (rows, columns); padding is air."""
        if self._uid != frame.source.sop_instance_uid:
            self._uid, self._ds = frame.source.sop_instance_uid, frame.source.dataset()
        stored = decode_frame(self._ds, frame.index)
        if stored.ndim != 2 or stored.shape != frame.shape:
            raise NotScoredError("the slices are not greyscale images of the size that they say")
        hu = stored.astype(np.float32) * np.float32(frame.slope) + np.float32(frame.intercept)
        # Padding is masked by its stored value, before rescale: after it, it may look like tissue.
        hu[padding_mask(self._ds, stored)] = -1000.0
        return hu


def _block_mean(image: Floats, shrink: tuple[int, int]) -> Floats:
    """Average blocks of pixels; a rest at the lower and right edge is filled with air."""
    rows, columns = (-(-n // f) for n, f in zip(image.shape, shrink, strict=True))
    padded = np.zeros((rows * shrink[0], columns * shrink[1]), dtype=np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    blocks = padded.reshape(rows, shrink[0], columns, shrink[1])
    mean: Floats = blocks.mean(axis=(1, 3), dtype=np.float32)
    return mean


def _even(values: Floats, places: Vector, target_mm: float) -> tuple[Floats, Vector]:
    """Bring slices to even distances: thin ones are averaged in groups, uneven ones interpolated.

    Returns
    -------
    numpy.ndarray
        float32, shape (slices, rows, columns).
    numpy.ndarray
        float64: their positions along the normal, mm, evenly spaced.
    """
    gaps = np.diff(places)
    if float(gaps.max() - gaps.min()) > 0.1 * float(np.median(gaps)):
        step = float(np.percentile(gaps, 25))
        even = places[0] + step * np.arange(int((places[-1] - places[0]) / step + 1e-6) + 1)
        below = np.clip(np.searchsorted(places, even, side="right") - 1, 0, len(places) - 2)
        weight = ((even - places[below]) / (places[below + 1] - places[below])).astype(np.float32)[:, None, None]
        values, places = values[below] * (1 - weight) + values[below + 1] * weight, even
    factor = max(1, int(target_mm / float(np.diff(places).mean()) + 1e-3))
    whole = len(places) // factor * factor
    if factor > 1:
        # The rest is dropped at the lower end: the top of the head is the anchor.
        values = values[-whole:].reshape(-1, factor, *values.shape[1:]).mean(axis=1, dtype=np.float32)
        places = places[-whole:].reshape(-1, factor).mean(axis=1)
    return values, places


def _affine(stack: Stack, places: Vector, shrink: tuple[int, int]) -> Vector:
    """Return the index -> LPS matrix of the averaged volume, with the slices' true displacement."""
    first, last = stack.frames[0], stack.frames[-1]
    per_mm = (last.position - first.position) / (stack.places_mm[-1] - stack.places_mm[0])
    along_row, along_column = first.row * first.pixel_mm[1], first.column * first.pixel_mm[0]
    step = float(places[-1] - places[0]) / max(len(places) - 1, 1)
    origin = first.position + per_mm * (places[0] - stack.places_mm[0])
    # The centre of the first block of pixels is not the centre of the first pixel.
    origin = origin + along_row * (shrink[1] - 1) / 2 + along_column * (shrink[0] - 1) / 2
    return np.column_stack([along_row * shrink[1], along_column * shrink[0], per_mm * step, origin])
