"""Heads lie turned in the scanner: the line in the slices about which a head is most nearly its own mirror image.

Of 55 head CTs (CT-ICH) half were turned by more than 5 degrees, six by more than 18, and one by 47. What compares left
with right, and what knows a place by the normal heads there, needs them straight.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.manifest import Preprocessing
from workers.images.pixels import Floats
from workers.images.resample import HeadFrame, Raster, framed, on_grid
from workers.images.volume import Volume

#: The greatest turn that is looked for: at 90 degrees heads are nearly symmetric again, front to back.
MAX_DEGREES = 60.0
#: Where the search starts, degrees and mm, and how fine it ends: the same line for the same head, not the last digit.
STARTS_DEGREES = np.arange(-MAX_DEGREES, MAX_DEGREES + 1, 4.0)
STARTS_MM = (-6.0, 0.0, 6.0)
FINEST = 0.25
SMOOTHING_PIXELS = 1.0
PIXEL_MM = 3.5
#: Where the line is looked for: the upper 84 mm of a head, above nose and chin.
BOX = Raster(size=(9, 64, 64), spacing_mm=(10.0, PIXEL_MM, PIXEL_MM))


def pose(volume: Volume, frame: HeadFrame, grid: Preprocessing) -> HeadFrame:
    """Return the axes along which the grid is laid: the head's own, if the grid wants heads straightened."""
    return straightened(volume, frame) if grid.straighten else frame


def straightened(volume: Volume, frame: HeadFrame) -> HeadFrame:
    """Turn a frame about the slices' normal, and move it sideways, so that it lies along the head's midline.

    Parameters
    ----------
    volume : Volume
        In equation 4's values.
    frame : HeadFrame
        Where the head is, along the patient's axes.

    Returns
    -------
    HeadFrame
        The same head; left and back are its own, within `MAX_DEGREES` of the patient's.
    """
    box = ndimage.gaussian_filter(
        on_grid(volume, frame, BOX).astype(np.float32), (0, SMOOTHING_PIXELS, SMOOTHING_PIXELS)
    )
    degrees, offset_mm = _midline(box)
    turn = np.radians(degrees)
    left = np.cos(turn) * frame.axes[0] + np.sin(turn) * frame.axes[1]
    axes = np.stack([left, np.cross(frame.axes[2], left), frame.axes[2]])
    middle = frame.axes[:2].T @ frame.centre
    new = framed(volume, frame.mask, axes)
    return replace(new, centre=np.array([axes[0] @ middle + offset_mm, new.centre[1]]), turned_degrees=degrees)


def _midline(box: Floats) -> tuple[float, float]:
    """Return turn and offset of the line of least asymmetry: the best of a coarse raster, and downhill from there."""
    seen: dict[tuple[float, float], float] = {}

    def at(line: tuple[float, float]) -> float:
        if line not in seen:
            seen[line] = _asymmetry(box, *line)
        return seen[line]

    best = min(((float(degrees), mm) for degrees in STARTS_DEGREES for mm in STARTS_MM), key=at)
    step = 2.0
    while step >= FINEST:
        degrees, mm = best
        around = [(degrees + step, mm), (degrees - step, mm), (degrees, mm + step), (degrees, mm - step)]
        nearest = min((line for line in around if abs(line[0]) <= MAX_DEGREES), key=at)
        if at(nearest) < at(best):
            best = nearest
        else:
            step /= 2
    return best


def _asymmetry(box: Floats, degrees: float, offset_mm: float) -> float:
    """Return by how much the box differs from its mirror image about a line, as a share of its mean."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[1.0, 0.0, 0.0], [0.0, cosine, sine], [0.0, -sine, cosine]])
    middle = (np.array(box.shape) - 1) / 2
    start = middle + turn @ (np.array([0.0, 0.0, offset_mm / PIXEL_MM]) - middle)
    laid: npt.NDArray[np.float32] = ndimage.affine_transform(box, turn, start, order=1)
    return float(np.abs(laid - laid[:, :, ::-1]).mean(dtype=np.float64) / max(float(laid.mean()), 1e-6))
