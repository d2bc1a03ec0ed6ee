"""Artificial abnormalities for training without labels: soft opacities in lungs, dense blobs in brains.

They are planted into images of the normal set, so that an image and its planted copy differ in the abnormality alone,
not in the machine: the set classifier learns from them in which direction disease, rather than acquisition, lies
(as in self-supervised anomaly detection, e.g. arXiv:2011.04197). They are crude, and no test uses this generator.

`with_place` plants a richer mixture into a chest X-ray and says where: the local classifier learns from it. Soft
opacities are among it, so that it finds those of tests/support/lesions.py is partly circular, though their sizes,
shapes, places and contrasts, and how they brighten an image, are drawn differently.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, special

from workers.lab.image_set import Pixels

Blob = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Shape = tuple[int, ...]
Place = tuple[float, float]


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
    image: Blob = pixels.astype(np.float64)
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


def with_place(image: Blob, rng: np.random.Generator, *, faint: float, plain: float) -> tuple[Blob, Blob]:
    """Return the image with one or two artificial abnormalities, and where they are.

    Parameters
    ----------
    image : numpy.ndarray
        float, a chest X-ray (H, W), on any grid.
    rng : numpy.random.Generator
        Draws them.
    faint, plain : float
        Of the least and of the most conspicuous: contrast as a share of that between soft tissue and lung.

    Returns
    -------
    image, place : numpy.ndarray
        float32; the second is 1 where something was planted and 0 elsewhere.
    """
    made: Blob = image.astype(np.float64)
    place = np.zeros(image.shape, bool)
    for _ in range(rng.integers(1, 3) if rng.uniform() < 0.5 else 1):
        contrast = float(np.exp(rng.uniform(np.log(faint), np.log(plain))))
        made, where = _chest(made, rng, contrast)
        place |= where
    return made.astype(np.float32), place.astype(np.float32)


def _chest(image: Blob, rng: np.random.Generator, contrast: float) -> tuple[Blob, Mask]:
    """Plant one abnormality of a kind drawn at random into a chest X-ray."""
    shape, pixel = image.shape, min(image.shape) / 128
    smooth = ndimage.gaussian_filter(image, 2.5 * pixel)
    lung, tissue = np.quantile(image, [0.1, 0.93])
    middle = _somewhere(smooth, rng)
    kinds, odds = zip(*_KINDS.items(), strict=True)
    strength = kinds[rng.choice(len(kinds), p=odds)](shape, middle, pixel, rng)
    # Half of them fill air, and show the less the denser it is underneath; half lie before everything alike.
    room = np.maximum(tissue - smooth, 0.1 * (tissue - lung)) if rng.uniform() < 0.5 else 0.7 * (tissue - lung)
    added = strength * (contrast * room)
    return image + added, (strength > 0.3) & (added > 0.01 * (tissue - lung))


def _somewhere(smooth: Blob, rng: np.random.Generator) -> tuple[float, float]:
    """Draw a place: mostly where it is darker than usual within the middle of the image, sometimes anywhere there."""
    height, width = smooth.shape
    top, left = round(0.14 * height), round(0.1 * width)
    box = smooth[top : height - top, left : width - left]
    low, high = np.quantile(box, [0.08, 0.55])
    dark = np.argwhere((box >= low) & (box <= high)) if rng.uniform() < 0.75 else np.argwhere(np.isfinite(box))
    y, x = dark[rng.integers(len(dark))] if len(dark) else np.array(box.shape) / 2
    return float(y) + top, float(x) + left


def _soft(shape: Shape, middle: Place, size: float, rng: np.random.Generator) -> Blob:
    """Return an irregular patch that fades over ``size`` pixels, 1 in its middle."""
    down, across = _turned(shape, middle, rng.uniform(0, np.pi))
    stretch = np.exp(rng.uniform(-0.35, 0.35))
    distance = np.hypot(down * stretch, across / stretch) / size
    distance *= np.exp(rng.uniform(0, 0.25) * _clouds(shape, max(size, 3.0), rng))
    found: Blob = np.exp(-(distance ** rng.choice([1.5, 2.0, 2.0, 3.0, 4.0])))
    return found


def _opacity_patch(shape: Shape, middle: Place, pixel: float, rng: np.random.Generator) -> Blob:
    return _soft(shape, middle, pixel * np.exp(rng.uniform(np.log(2.2), np.log(11))), rng)


def _cluster(shape: Shape, middle: Place, pixel: float, rng: np.random.Generator) -> Blob:
    found = np.zeros(shape)
    for _ in range(rng.integers(2, 7)):
        here = (middle[0] + rng.normal(0, 9 * pixel), middle[1] + rng.normal(0, 7 * pixel))
        found = np.maximum(found, rng.uniform(0.5, 1) * _soft(shape, here, pixel * rng.uniform(1.8, 4.5), rng))
    return found


def _consolidation(shape: Shape, middle: Place, pixel: float, rng: np.random.Generator) -> Blob:
    """Return patches, half of them ending at a fissure."""
    found = _soft(shape, middle, pixel * rng.uniform(8, 20), rng)
    found = found * step(_clouds(shape, pixel * rng.uniform(5, 12), rng) + rng.uniform(0, 1), 0.25)
    if rng.uniform() < 0.5:
        down, _ = _turned(shape, middle, rng.uniform(-0.4, 0.4) + rng.choice([0, np.pi]))
        found = found * step(down, pixel * rng.uniform(0.8, 2.5))
    scaled: Blob = found / max(float(found.max()), 1e-3)
    return scaled


def _effusion(shape: Shape, _: Place, pixel: float, rng: np.random.Generator) -> Blob:
    """Return a basal opacity of one side that rises towards the chest wall."""
    row, column = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    from_wall = np.abs(column - rng.choice([rng.uniform(0.02, 0.14), rng.uniform(0.86, 0.98)]))
    below = step(row - rng.uniform(0.5, 0.8) - 0.5 * from_wall, pixel * rng.uniform(1.5, 5) / shape[0])
    found: Blob = below * step(rng.uniform(0.34, 0.4) - from_wall, 3 * pixel / shape[1])
    return found


def _nodule(shape: Shape, middle: Place, pixel: float, rng: np.random.Generator) -> Blob:
    down, across = _turned(shape, middle, 0.0)
    return step(pixel * rng.uniform(1.8, 5) - np.hypot(down, across), pixel * rng.uniform(0.4, 1))


def _reticular(shape: Shape, middle: Place, pixel: float, rng: np.random.Generator) -> Blob:
    window = _soft(shape, middle, pixel * rng.uniform(8, 22), rng)
    return np.clip(window * np.abs(_clouds(shape, pixel * rng.uniform(2, 4), rng)), 0, 1.5)


def step(x: Blob, width: float) -> npt.NDArray[np.float64]:
    """Return a step from 0 to 1 where ``x`` passes 0, so many units wide."""
    found: npt.NDArray[np.float64] = special.expit(x / width)
    return found


def _turned(shape: Shape, middle: Place, turn: float) -> tuple[Blob, Blob]:
    row, column = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    y, x = row - middle[0], column - middle[1]
    return y * np.cos(turn) - x * np.sin(turn), y * np.sin(turn) + x * np.cos(turn)


def _clouds(shape: Shape, size: float, rng: np.random.Generator) -> Blob:
    """Return smooth noise of mean 0 and spread 1; ``size`` is about how many pixels a cloud is wide."""
    coarse = [max(2, round(n / size)) + 3 for n in shape]
    fine = ndimage.zoom(rng.standard_normal(coarse), [(n + 4) / m for n, m in zip(shape, coarse, strict=True)])
    cut = fine[2 : 2 + shape[0], 2 : 2 + shape[1]]
    found: Blob = (cut - cut.mean()) / (cut.std() + 1e-6)
    return found


_KINDS: dict[Callable[[Shape, Place, float, np.random.Generator], Blob], float] = {
    _opacity_patch: 0.5,
    _cluster: 0.12,
    _consolidation: 0.14,
    _effusion: 0.1,
    _nodule: 0.07,
    _reticular: 0.07,
}
