"""One image as it might have been positioned: slightly turned, zoomed and shifted copies, always the same.

An estimator's mean over them hardly depends on how a patient stood or lay, on a detector's place, or on where slices
were cut; the noise that a network's raster adds to every single copy averages out with it.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Pixels = npt.NDArray[np.uint8]

#: How far copies go: degrees, share of the size, and share of the side.
MOST_DEGREES, MOST_ZOOM, MOST_SHIFT = 8.0, 0.04, 0.016
#: A volume's: its first rows rise against its last by a share of its depth (of 160 mm: 8 degrees over 230 mm), as if
#: the chin were up or down or the gantry tilted, and all of it rises by one (7 mm).
MOST_NOD, MOST_RISE = 0.2, 0.045
#: Powers of its inverse fill four dimensions evenly, or six: the root of t^5 = t + 1, of t^7 = t + 1.
_ROOTS = {2: (1.1673039782614187, 4), 3: (1.1127756842787055, 6)}


def views(pixels: Pixels, count: int) -> Iterator[Pixels]:
    """Yield the image itself, then ``count - 1`` copies of it.

    Parameters
    ----------
    pixels : numpy.ndarray
        uint8, (H, W) or (D, H, W).
    count : int
        How many there are in all.

    References
    ----------
    Roberts, *The unreasonable effectiveness of quasirandom sequences*, 2018, for how the copies are spread.
    """
    yield pixels
    root, dimensions = _ROOTS[pixels.ndim]
    steps, place = root ** -np.arange(1.0, dimensions + 1), np.zeros(6)
    for number in range(1, count):
        place[:dimensions] = ((0.5 + number * steps) % 1) * 2 - 1
        turn, zoom, down, aside, nod, rise = place
        yield moved(
            pixels,
            degrees=MOST_DEGREES * turn,
            zoom=1 + MOST_ZOOM * zoom,
            shift=(MOST_SHIFT * down, MOST_SHIFT * aside),
            nod=MOST_NOD * nod,
            rise=MOST_RISE * rise,
        )


def moved(
    pixels: Pixels, *, degrees: float, zoom: float, shift: tuple[float, float], nod: float = 0.0, rise: float = 0.0
) -> Pixels:
    """Return an image turned and zoomed about its middle and shifted by shares of its sides, its edges repeated.

    Every slice of a volume is moved alike; its front is raised against its back by ``nod`` of its depth, and all of it
    by ``rise`` of its depth.
    """
    angle = np.radians(degrees)
    sides, matrix = np.array(pixels.shape), np.eye(pixels.ndim)
    matrix[-2:, -2:] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    away = np.multiply(shift, sides[-2:])
    if pixels.ndim == 3:
        matrix[0, 1] = nod * sides[0] / sides[1]
        away = np.concatenate([[rise * sides[0]], away])
    middle = (sides - 1) / 2
    offset = middle - matrix @ (middle + away)
    grey = ndimage.affine_transform(pixels.astype(np.float32), matrix, offset, order=1, mode="nearest")
    found: Pixels = np.rint(grey).astype(np.uint8)
    return found
