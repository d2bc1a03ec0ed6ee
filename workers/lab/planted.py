"""Artificial abnormalities for training without labels: soft opacities in lungs, dense blobs in brains.

They are planted into images of the normal set, so that an image and its planted copy differ in the abnormality alone,
not in the machine: the set classifier learns from them in which direction disease, rather than acquisition, lies
(as in self-supervised anomaly detection, e.g. arXiv:2011.04197). They are crude, and no test uses this generator.
"""

import numpy as np
import numpy.typing as npt

from workers.lab.image_set import Pixels

Blob = npt.NDArray[np.float64]


def planted(pixels: Pixels, rng: np.random.Generator, grey_levels: int) -> Pixels:
    """Return the image with one or two artificial abnormalities.

    Parameters
    ----------
    pixels : numpy.ndarray
        uint8, a chest X-ray (H, W), or a head CT (D, H, W) of which one grey level is 1 HU.
    rng : numpy.random.Generator
        Draws them.
    grey_levels : int
        Grey values are below it.
    """
    image = pixels.astype(np.float64)
    for _ in range(rng.integers(1, 3)):
        image = _opacity(image, rng, grey_levels) if pixels.ndim == 2 else _bleeding(image, rng)
    return np.clip(np.rint(image), 0, grey_levels - 1).astype(np.uint8)


def _opacity(image: Blob, rng: np.random.Generator, grey_levels: int) -> Blob:
    side = rng.choice([rng.uniform(0.18, 0.40), rng.uniform(0.60, 0.82)])
    radius = rng.uniform(0.03, 0.08)
    blob = _blob(image.shape, (rng.uniform(0.25, 0.75), side), (radius, radius * rng.uniform(0.7, 1.4)), rng)
    return image + blob * rng.uniform(0.03, 0.35) * grey_levels


def _bleeding(image: Blob, rng: np.random.Generator) -> Blob:
    """Raise brain tissue to the density of fresh blood; skull and air stay as they are."""
    brain = (image > 30) & (image < 70)  # 16 to 56 HU
    places = np.argwhere(brain)
    if not len(places):
        return image
    middle = places[rng.integers(len(places))] / np.array(image.shape)
    radius = rng.uniform(0.02, 0.07)
    radii = (radius * rng.uniform(0.8, 2.5), radius, radius * rng.uniform(0.5, 2.0))
    blob = _blob(image.shape, tuple(middle), radii, rng)
    return np.where(brain, image + np.minimum(1.0, 2 * blob) * rng.uniform(15, 40), image)


def _blob(
    shape: tuple[int, ...], middle: tuple[float, ...], radii: tuple[float, ...], rng: np.random.Generator
) -> Blob:
    """Return a Gaussian of height 1, turned in its plane; ``middle`` and ``radii`` are shares of the axes."""
    axes = [np.arange(n) / n - m for n, m in zip(shape, middle, strict=True)]
    *depth, y, x = np.meshgrid(*axes, indexing="ij")
    turn = rng.uniform(0, np.pi)
    across = (x * np.cos(turn) + y * np.sin(turn)) / radii[-2]
    along = (y * np.cos(turn) - x * np.sin(turn)) / radii[-1]
    square = across**2 + along**2 + sum((z / radii[0]) ** 2 for z in depth)
    found: Blob = np.exp(-0.5 * square)
    return found
