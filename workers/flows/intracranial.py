"""Where in a head CT the inside of the skull is: by bone in most directions, slice by slice.

A rule, not a model: it works on the clipped grey values that a bundle's grid holds (bone is just "bright" there)
and forgives the gaps that thin bone has at 1.8 mm. Teeth, marrow and the first vertebrae pass as well now and then.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float32]

#: Grey values, HU + 14: certainly bone; at least bone's partial volume.
BONE, BONY = 92.0, 80.0
#: Air is below it. Compartments whose median is below the other (20 HU) hold air or fat: sinuses, orbits.
AIR, TISSUE = 6.0, 34.0
_DIRECTIONS = 7  # of 8 in which bone is met: one may lead through a gap
_OPENING = 4  # pixels: narrower than this are scalp, marrow, sinuses
_LEAST = 150  # pixels in a slice


def inside_skull(grey: npt.NDArray[np.uint8] | Values) -> Mask:
    """Return where soft tissue is enclosed by bone.

    Parameters
    ----------
    grey : numpy.ndarray
        A head CT on the bundle's grid, (D, H, W): HU + 14, clipped.

    Returns
    -------
    numpy.ndarray
        bool, (D, H, W).
    """
    values = grey.astype(np.float32)
    smooth = ndimage.gaussian_filter(values, (0, 0.5, 0.5))
    soft = (_directions_with(smooth > BONY) >= _DIRECTIONS) & (smooth <= BONE) & (values > AIR)
    away = np.hypot(*np.mgrid[-_OPENING : _OPENING + 1, -_OPENING : _OPENING + 1])
    found = np.zeros(values.shape, dtype=bool)
    for number, plane in enumerate(soft):
        if plane.sum() < _LEAST:
            continue
        opened = ndimage.binary_opening(plane, away <= _OPENING + 0.3)
        labels, count = ndimage.label(opened)
        for label in range(1, count + 1):
            piece = labels == label
            if piece.sum() >= _LEAST and np.median(values[number][piece]) >= TISSUE:
                found[number] |= piece
    return found


def _directions_with(bone: Mask) -> npt.NDArray[np.int8]:
    """Return in how many of 8 directions within a slice each voxel meets bone."""
    count = np.zeros(bone.shape, dtype=np.int8)
    for axis in (1, 2):
        count += np.maximum.accumulate(bone, axis)
        count += np.flip(np.maximum.accumulate(np.flip(bone, axis), axis), axis)
    for down in (1, -1):
        for right in (1, -1):
            met = bone[:, ::down, ::right].copy()
            for row in range(1, met.shape[1]):
                met[:, row, 1:] |= met[:, row - 1, :-1]
            count += met[:, ::down, ::right]
    return count
