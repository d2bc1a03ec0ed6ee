"""One image as it might have been positioned: slightly turned, zoomed and shifted copies, always the same.

An estimator's mean over them hardly depends on how a patient stood or a detector lay; the noise that a network's raster
adds to every single copy averages out with it.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Pixels = npt.NDArray[np.uint8]

#: How far copies go: degrees, share of the size, and share of the side.
MOST_DEGREES, MOST_ZOOM, MOST_SHIFT = 8.0, 0.04, 0.016
#: Steps that fill four dimensions evenly: powers of the inverse of the root of t^5 = t + 1.
_STEPS = 1.1673039782614187 ** -np.arange(1.0, 5.0)


def views(pixels: Pixels, count: int) -> Iterator[Pixels]:
    """Yield the image itself, then ``count - 1`` copies of it.

    Parameters
    ----------
    pixels : numpy.ndarray
        uint8, (H, W) or (D, H, W); every slice of a volume is moved alike.
    count : int
        How many there are in all.

    References
    ----------
    Roberts, *The unreasonable effectiveness of quasirandom sequences*, 2018, for how the copies are spread.
    """
    yield pixels
    for number in range(1, count):
        turn, zoom, *shift = ((0.5 + number * _STEPS) % 1) * 2 - 1
        yield moved(
            pixels,
            degrees=MOST_DEGREES * turn,
            zoom=1 + MOST_ZOOM * zoom,
            shift=(MOST_SHIFT * shift[0], MOST_SHIFT * shift[1]),
        )


def moved(pixels: Pixels, *, degrees: float, zoom: float, shift: tuple[float, float]) -> Pixels:
    """Return an image turned and zoomed about its middle and shifted by shares of its sides, its edges repeated."""
    angle = np.radians(degrees)
    plane = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    sides = np.array(pixels.shape[-2:])
    middle = (sides - 1) / 2
    start = middle - plane @ (middle + np.multiply(shift, sides))
    matrix, offset = np.eye(pixels.ndim), np.zeros(pixels.ndim)
    matrix[-2:, -2:], offset[-2:] = plane, start
    grey = ndimage.affine_transform(pixels.astype(np.float32), matrix, offset, order=1, mode="nearest")
    found: Pixels = np.rint(grey).astype(np.uint8)
    return found
