"""Where in a head CT the inside of the skull is: by bone in most directions, slice by slice.

A rule, not a model: it works on the clipped grey values that a bundle's grid holds (bone is just "bright" there)
and forgives the gaps that thin bone has at 1.8 mm, and the large one that a craniectomy leaves. Teeth, marrow and the
first vertebrae pass as well now and then.
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
#: Where a surgeon took bone away, brain meets it in fewer directions; scalp and muscle, outside of it, in four or so.
#: That counts in so many slices below the vertex (the base is open anyway), and only where the rule above finds less
#: than this share of it: in one or two slices of three of CT-ICH's 55 heads.
_DIRECTIONS_OPEN, _VAULT, _CLOSED = 5, 18, 0.6
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
    directions = _directions_with(smooth > BONY)
    soft = (smooth <= BONE) & (values > AIR)
    found = np.stack([_brain(*planes) for planes in zip(soft & (directions >= _DIRECTIONS), values, strict=True)])
    head = np.flatnonzero((values > AIR).sum((1, 2)) >= _LEAST)
    if not len(head):
        return found
    for number in range(max(0, head[-1] - _VAULT), head[-1] + 1):
        wider = soft[number] & (directions[number] >= _DIRECTIONS_OPEN)
        if found[number].sum() < _CLOSED * wider.sum():
            brain = _brain(wider, values[number])
            if found[number].sum() < _CLOSED * brain.sum():
                found[number] = brain
    return found


def _brain(soft: Mask, values: Values) -> Mask:
    """Return the compartments of a slice that hold brain, (H, W), of what soft tissue is within bone."""
    found = np.zeros(soft.shape, dtype=bool)
    if soft.sum() < _LEAST:
        return found
    away = np.hypot(*np.mgrid[-_OPENING : _OPENING + 1, -_OPENING : _OPENING + 1])
    labels, count = ndimage.label(ndimage.binary_opening(soft, away <= _OPENING + 0.3))
    for label in range(1, count + 1):
        piece = labels == label
        if piece.sum() >= _LEAST and np.median(values[piece]) >= TISSUE:
            found |= piece
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
