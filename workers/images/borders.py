"""Finds the part of a radiograph that holds the patient: collimation, frames and padding are cut off."""

import numpy as np
import numpy.typing as npt

from workers.images.pixels import Floats, Mask

#: A line belongs to the border if no more than this share of it differs from the border's grey (letters may).
MAX_CONTENT_IN_BORDER = 0.05
#: Greys this close to black or white count as black or white.
TOLERANCE = 0.02
#: Frames can lie in one another (a white edge around a black one); deeper nests aren't borders.
MAX_NESTED_BORDERS = 4


def content_box(grey: Floats, padding: Mask | None = None) -> tuple[slice, slice]:
    """Return the rows and columns inside every black or white border.

    What is inside doesn't depend on how wide the border is: the box ends at the first line in which more than
    5 % of the pixels are neither the border's grey nor padding.

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
    blank = np.zeros(grey.shape, dtype=bool) if padding is None else padding
    black, white = (grey <= TOLERANCE) | blank, (grey >= 1 - TOLERANCE) | blank
    top, bottom, left, right = 0, grey.shape[0], 0, grey.shape[1]
    for _ in range(MAX_NESTED_BORDERS):
        before = (top, bottom, left, right)
        for flat in (black, white):
            rows = _content(flat[top:bottom, left:right], axis=1)
            columns = _content(flat[top:bottom, left:right], axis=0)
            if rows is None or columns is None:
                continue
            top, bottom = top + rows[0], top + rows[1]
            left, right = left + columns[0], left + columns[1]
        if (top, bottom, left, right) == before:
            break
    return slice(top, bottom), slice(left, right)


def _content(flat: Mask, axis: int) -> tuple[int, int] | None:
    """Return the first and one past the last line along an axis that isn't border, None if all lines are."""
    share: npt.NDArray[np.float64] = 1 - flat.mean(axis=axis)
    lines = np.flatnonzero(share > MAX_CONTENT_IN_BORDER)
    return (int(lines[0]), int(lines[-1]) + 1) if lines.size else None
