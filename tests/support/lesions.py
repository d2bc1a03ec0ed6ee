"""Soft opacities planted into normal chest X-rays: an abnormality whose place is known and whose acquisition matches.

The same image, number and seed always give the same lesion, on any machine.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

#: At 128 pixels a side: a lesion's radius (where it has faded to 14 % of its middle), in pixels.
RADII = (6.0, 16.0)
#: What a lesion's middle adds, as a share of the grey scale: faint to plain.
CONTRASTS = (0.10, 0.30)
#: Where lungs are in a frontal chest X-ray cropped to the chest: (row, column, half height, half width), shares.
_LUNGS = ((0.47, 0.29, 0.27, 0.13), (0.47, 0.71, 0.27, 0.13))


@dataclass(frozen=True)
class Planted:
    """An image with a lesion.

    Attributes
    ----------
    pixels : numpy.ndarray
        uint8, (H, W).
    mask : numpy.ndarray
        bool, (H, W): where the lesion is at least 14 % of its middle (two standard deviations).
    radius, contrast : float
        Of the lesion: pixels, and share of the grey scale.
    """

    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    radius: float
    contrast: float


def lungs(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return where a lesion's middle may lie: within the usual place of the lungs, and dark for the image.

    The place alone where the image has no dark pixel there.
    """
    height, width = pixels.shape
    row, column = np.mgrid[:height, :width]
    usual = np.zeros(pixels.shape, dtype=bool)
    for y, x, half_y, half_x in _LUNGS:
        usual |= np.hypot((row / height - y) / half_y, (column / width - x) / half_x) <= 1
    smooth = ndimage.gaussian_filter(pixels.astype(np.float64), 2.0)
    dark: npt.NDArray[np.bool_] = usual & (smooth < np.median(smooth[usual]))
    return dark if dark.any() else usual


def plant(pixels: npt.NDArray[np.uint8], number: int, *, seed: int = 0) -> Planted:
    """Plant one soft opacity: an irregular Gaussian blob, its noise and edges those of the image underneath.

    Parameters
    ----------
    pixels : numpy.ndarray
        uint8, (H, W), a normal frontal chest X-ray.
    number, seed : int
        Which lesion: with the image's size they determine everything but the place, which its lungs determine too.
    """
    digest = hashlib.sha256(f"lesion/{seed}/{number}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    scale = min(pixels.shape) / 128
    radius = scale * rng.uniform(*RADII)
    contrast = float(rng.uniform(*CONTRASTS))
    places = np.argwhere(lungs(pixels))
    middle = places[rng.integers(len(places))]
    stretch, turn = rng.uniform(0.75, 1.33), rng.uniform(0, np.pi)
    row, column = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    y, x = row - middle[0], column - middle[1]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    bumps = ndimage.gaussian_filter(rng.standard_normal(pixels.shape), radius / 3, mode="wrap")
    distance = np.hypot(along * stretch, across / stretch) * (1 + 0.15 * bumps / bumps.std())
    blob = np.exp(-0.5 * (2 * distance / radius) ** 2)  # two standard deviations at the radius
    grey = pixels.astype(np.float64)
    # An opacity attenuates: what is white already doesn't get whiter.
    added = blob * contrast * 255 * np.clip((255 - grey) / 128, 0, 1)
    planted = np.clip(np.rint(grey + added), 0, 255).astype(np.uint8)
    return Planted(planted, blob >= np.exp(-2.0), float(radius), contrast)
