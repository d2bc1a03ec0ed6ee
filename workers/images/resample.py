"""The head in a volume, and the volume on the model's grid around it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from triage.errors import NotScoredError
from workers.images.frames import Vector
from workers.images.pixels import Floats
from workers.images.sources import Lattice, spacing_of
from workers.images.volume import TOP, Volume

#: Values above this are soft tissue or bone (-6 HU), mm of opening that parts the head from its rest and the table.
TISSUE = 8.0
OPENING_MM = 4.0
#: Further down than so far below the vertex are a neck and shoulders, no head.
REACH_MM = 200.0
#: The head's middle is measured between these depths below its top, mm: above the nose and the chin.
MIDDLE_MM = (15.0, 90.0)
#: Free space between the top of the head and the upper edge of the grid, mm.
HEADROOM_MM = 6.0
#: Of what lies around the head, so many pixels stay.
RIM_PIXELS = 2


@dataclass(frozen=True, kw_only=True)
class Raster:
    """A lattice of our own, to look at a head on."""

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class HeadFrame:
    """Where the head is.

    Attributes
    ----------
    mask : numpy.ndarray
        bool, the volume's shape: the head without table and head rest.
    axes : numpy.ndarray
        float64, shape (3, 3): unit vectors to the patient's left, back and head as rows. The last is the slices'
        normal: tilted scans keep their acquired plane, which follows the skull base; left and back are the
        patient's, so heads scanned prone, feet first or mirrored all come out alike.
    centre : numpy.ndarray
        float64, shape (2,): middle of the head along the first two axes, mm.
    top : float
        Top of the head along the third axis, mm.
    turned_degrees : float
        By how much the first two axes are turned about the third, to follow a head that lies turned.
    """

    mask: npt.NDArray[np.bool_]
    axes: Vector
    centre: Vector
    top: float
    turned_degrees: float = 0.0


def head_frame(volume: Volume) -> HeadFrame:
    """Find the head: the largest piece of tissue once thin bridges are cut.

    Raises
    ------
    NotScoredError
        If there is no such piece.
    """
    mask = _head_mask(volume)
    mask[: lowest_slice(mask, volume.voxel_mm[0])] = False
    left = np.array([1.0, 0.0, 0.0])
    left -= (left @ volume.up) * volume.up
    left /= np.linalg.norm(left)
    return framed(volume, mask, np.stack([left, np.cross(volume.up, left), volume.up]))


def lowest_slice(mask: npt.NDArray[np.bool_], between_mm: float) -> int:
    """Return the first slice, from below, that may be head: not a neck's or shoulders'."""
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    return max(0, int(slices[-1]) + 1 - round(REACH_MM / between_mm)) if len(slices) else 0


def framed(volume: Volume, mask: npt.NDArray[np.bool_], axes: Vector) -> HeadFrame:
    """Return the extent of a head along three axes.

    Raises
    ------
    NotScoredError
        If it is too small to be one.
    """
    k, j, i = np.nonzero(mask)
    points = axes @ (volume.affine[:, :3] @ np.stack([i, j, k]) + volume.affine[:, 3:])  # (3, voxels)
    top = float(np.percentile(points[2], 99.9)) + volume.voxel_mm[0] / 2
    depth = top - points[2]
    middle = points[:2, (depth >= MIDDLE_MM[0]) & (depth <= MIDDLE_MM[1])]
    if middle.shape[1] < 100:
        raise NotScoredError("not a head")
    centre = np.percentile(middle, (0.5, 99.5), axis=1).mean(axis=0)
    return HeadFrame(mask=mask, axes=axes, centre=centre, top=top)


def _head_mask(volume: Volume) -> npt.NDArray[np.bool_]:
    tissue = volume.values > TISSUE
    radius = max(1, round(OPENING_MM / volume.voxel_mm[1]))
    grid = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1])
    disc = (grid <= radius)[None]  # opened slice by slice: slices are thick
    opened = ndimage.binary_opening(tissue, disc)
    labels, count = ndimage.label(opened)
    if count == 0:
        raise NotScoredError("no tissue in the images")
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    head: npt.NDArray[np.bool_] = ndimage.binary_dilation(labels == int(sizes.argmax()), disc) & tissue
    return head


def grid_affine(frame: HeadFrame, grid: Lattice) -> tuple[Vector, Vector]:
    """Return where the model's grid lies: centre of voxel (i, j, k) = start + step @ (i, j, k), LPS, mm.

    i counts columns, j rows, k slices.

    Returns
    -------
    start : numpy.ndarray
        float64, shape (3,).
    step : numpy.ndarray
        float64, shape (3, 3).
    """
    size, spacing = grid.size, np.array(spacing_of(grid))
    start = np.array([
        frame.centre[0] - spacing[2] * (size[2] - 1) / 2,
        frame.centre[1] - spacing[1] * (size[1] - 1) / 2,
        frame.top + HEADROOM_MM - spacing[0] * (size[0] - 0.5),
    ])  # fmt: skip
    return frame.axes.T @ start, frame.axes.T @ np.diag(spacing[::-1])


def on_grid(volume: Volume, frame: HeadFrame, grid: Lattice, *, smooth_mm: float = 0.0) -> npt.NDArray[np.uint8]:
    """Resample the volume to the model's grid: head in the middle, its top just below the upper edge.

    Parameters
    ----------
    volume : Volume
        In equation 4's values.
    frame : HeadFrame
        Where the head is.
    grid : Lattice
        ``size`` (D, H, W) and ``spacing_mm`` in the same order.
    smooth_mm : float
        Slices of the grid are smoothed so far, standard deviation of a Gaussian.

    Returns
    -------
    numpy.ndarray
        uint8, shape (D, H, W), 0 to 127; slices inferior to superior, rows front to back, columns from the
        patient's right to left. Outside the head and outside the volume it is 0 (air).
    """
    size = grid.size
    itk = sitk.GetImageFromArray(_without_surroundings(volume, frame))  # index space: spacing 1, origin 0
    target = sitk.Image(size[2], size[1], size[0], sitk.sitkFloat32)
    start, step = grid_affine(frame, grid)
    to_index = np.linalg.inv(volume.affine[:, :3])
    transform = sitk.AffineTransform(3)
    transform.SetMatrix((to_index @ step).ravel().tolist())
    transform.SetTranslation((to_index @ (start - volume.affine[:, 3])).tolist())
    moved = sitk.Resample(itk, target, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    values = sitk.GetArrayFromImage(moved)
    if smooth_mm:
        values = ndimage.gaussian_filter(values, (0, *np.divide(smooth_mm, spacing_of(grid)[1:])))
    return np.clip(np.round(values), 0, TOP).astype(np.uint8)


def _without_surroundings(volume: Volume, frame: HeadFrame) -> Floats:
    """Return the values with air for head rest, couch, cushions and marks; a rim around the head stays."""
    kept = np.zeros(frame.mask.shape, dtype=bool)
    for head, room in zip(frame.mask, kept, strict=True):
        room[:] = ndimage.binary_dilation(ndimage.binary_fill_holes(head), iterations=RIM_PIXELS)
    values: Floats = np.where(kept, volume.values, np.float32(0))
    return values
