"""Heads in HU as volumes, and drawn ones: a scalp, a skull, brain with a ventricle in it, in HU + 14."""

import numpy as np
import numpy.typing as npt

from workers.images.volume import Volume, lying_straight

SPACING_MM = (5.0, 1.8, 1.8)
BRAIN, SKULL = 0.86, 0.97
"""What they end at, of `from_middle` with the head's radii."""


def volume_of(hu: npt.NDArray[np.floating], between_mm: float = 5.0) -> Volume:
    """Return a head, (D, H, W), HU, on the raster of `shared/data/bct_ctich.npz`, slices from below."""
    return Volume.of_hu(hu, lying_straight((between_mm, 1.56, 1.56)))


def from_middle(
    size: tuple[int, int, int], radii: tuple[float, float, float] = (1.4, 0.9, 0.75)
) -> npt.NDArray[np.float64]:
    """Return how far every voxel is from the middle, in radii; these in half axes of the volume."""
    z, y, x = (np.linspace(-1, 1, n) / radius for n, radius in zip(size, radii, strict=True))
    found: npt.NDArray[np.float64] = np.sqrt(x[None, None, :] ** 2 + y[None, :, None] ** 2 + z[:, None, None] ** 2)
    return found


def a_head(seed: int, size: tuple[int, int, int] = (20, 96, 96)) -> npt.NDArray[np.uint8]:
    """Return a head CT, uint8, whose noise is drawn by ``seed``; the outermost slices show its top and its base."""
    rng = np.random.default_rng(seed)
    radius = from_middle(size)
    values = np.select([radius < BRAIN, radius < SKULL, radius < 1.06], [48.0, 120.0, 45.0], 0.0)
    values = np.where(from_middle(size, (0.5, 0.3, 0.1)) < 1, 22.0, values)
    noisy = np.where(values > 0, values + rng.normal(0, 2, size), 0)
    return np.clip(noisy, 0, 114).round().astype(np.uint8)
