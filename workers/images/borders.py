"""Finds the part of a radiograph that holds the patient: collimation, frames and padding are cut off."""

from typing import Literal

import numpy as np
from scipy import ndimage

from workers.images.pixels import Floats, Mask

#: A line belongs to the border if it differs from the border's grey in no more than this share of what the fullest line
#: does: so a frame that is turned by a few degrees is cut near the middle of its slanted edge, not at its corner.
MAX_CONTENT_IN_BORDER = 0.2
#: Greys this close to the darkest or brightest, as a share of the range, count as black or white.
TOLERANCE = 0.02
#: Noise widens the tolerance by so many standard deviations, up to this share of the range.
NOISE_DEVIATIONS = 3.5
MAX_TOLERANCE = 0.1
#: What differs from the border's grey in pieces smaller than this share of the picture is a letter or marker.
MIN_PIECE = 0.03
#: A grey edge is a border if so much of it has one grey.
MIN_EVEN = 0.97
#: Frames can lie in one another (a white edge around a black one); deeper nests aren't borders.
MAX_NESTED_BORDERS = 5
#: Of pictures with longer sides than this, pixels, every second or third pixel is enough. No detector has such.
LONGEST_SIDE = 5000

Box = tuple[int, int, int, int]


def content_box(grey: Floats, padding: Mask | None = None) -> tuple[slice, slice]:
    """Return the rows and columns inside every black or white border, and every one of another grey at two edges.

    Black and white are the picture's own darkest and brightest, so brightness and contrast don't matter. What is
    inside doesn't depend on how wide the border is, on its noise, nor on letters and markers that stand in it. (A grey
    border is one only without noise: a patient's edge may look like a noisy one.)

    Parameters
    ----------
    grey : numpy.ndarray
        float32, shape (rows, columns), 0 black to 1 white.
    padding : numpy.ndarray, optional
        bool, the same shape: pixels that are no image at all.

    Returns
    -------
    tuple of slice
        Rows and columns; everything where the picture is nothing but border.
    """
    height, width = grey.shape
    step = -(-max(height, width) // LONGEST_SIDE)
    grey = grey[::step, ::step]
    blank = np.zeros(grey.shape, dtype=bool) if padding is None else padding[::step, ::step]
    box: Box = (0, grey.shape[0], 0, grey.shape[1])
    for _ in range(MAX_NESTED_BORDERS):
        before = box
        for kind in ("black", "white", "even"):
            box = _cut(grey, blank, box, kind)
        if box == before:
            break
    top, bottom, left, right = (step * line for line in box)
    return slice(top, min(bottom, height)), slice(left, min(right, width))


def _cut(grey: Floats, blank: Mask, box: Box, kind: Literal["black", "white", "even"]) -> Box:
    """Cut one border off; each step sees only what the last one left."""
    top, bottom, left, right = box
    picture, none = grey[top:bottom, left:right], blank[top:bottom, left:right]
    low, high = (float(v) for v in np.percentile(picture[::2, ::2], (0.05, 99.95)))
    noise = NOISE_DEVIATIONS * _noise(picture, low, high)
    tolerance = float(np.clip(noise, TOLERANCE * (high - low), MAX_TOLERANCE * (high - low)))
    if kind == "even":
        level = _even_edge(picture, tolerance / 2)
        if level is None:
            return box
        flat = np.abs(picture - level) <= tolerance
    else:
        flat = picture >= high - tolerance if kind == "white" else picture <= low + tolerance
    inside = _pieces(~(flat | none))
    rows, columns = _content(inside, axis=1), _content(inside, axis=0)
    if rows is None or columns is None:
        return box
    return top + rows[0], top + rows[1], left + columns[0], left + columns[1]


def _even_edge(picture: Floats, tolerance: float) -> float | None:
    """Return the grey that two of the edges have, and no other; None if there is none: a patient ends at one edge."""
    levels: list[float] = []
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        level = float(np.median(edge))
        if float((np.abs(edge - level) <= tolerance).mean()) >= MIN_EVEN:
            if any(abs(level - other) <= tolerance for other in levels):
                return level
            levels.append(level)
    return None


def _noise(picture: Floats, low: float, high: float) -> float:
    """Return the standard deviation of pixel noise, from second differences where the picture isn't clipped."""
    if min(picture.shape) < 8:
        return 0.0
    grid = picture[1:-1:2, :]
    bend = grid[:, :-2:3] - 2 * grid[:, 1:-1:3] + grid[:, 2::3]
    middle = grid[:, 1:-1:3]
    used = (middle > low + 0.1 * (high - low)) & (middle < high - 0.1 * (high - low))
    if used.sum() < 64:
        return 0.0
    return float(np.median(np.abs(bend[used]))) / 0.6745 / 6**0.5


def _pieces(inside: Mask) -> Mask:
    """Keep the pieces of a picture that are large enough to be a part of a patient."""
    labels, count = ndimage.label(inside)
    if count < 2:
        return inside
    sizes = np.bincount(labels.ravel())
    kept = sizes >= min(MIN_PIECE * inside.size, float(sizes[1:].max()))
    kept[0] = False
    pieces: Mask = kept[labels]
    return pieces


def _content(inside: Mask, axis: int) -> tuple[int, int] | None:
    """Return the first and one past the last line along an axis that isn't border, None if all lines are.

    Lines are held against the fullest one, whose content doesn't depend on the border's width.
    """
    count = inside.sum(axis=axis)
    lines = np.flatnonzero(count > MAX_CONTENT_IN_BORDER * count.max())
    return (int(lines[0]), int(lines[-1]) + 1) if lines.size else None
