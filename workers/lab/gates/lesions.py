"""What patients have, drawn into heads for the head gate's network: none of it may make a head look like none.

It is drawn coarsely, and larger than life: a gate that refuses the worst bleed of the night does harm. Volumes are HU
on the raster of `workers.lab.gates.head_examples`.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Hu = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Rng = np.random.Generator

#: Slices, rows and columns of a voxel, mm.
VOXEL_MM = (5.0, 3.12, 3.12)
BONE, AIR = 80.0, -20.0
LEAST_PIXELS = 200
#: With less brain to be seen nothing is drawn.
LEAST_VOXELS = 300


def with_lesions(hu: Hu, rng: Rng) -> Hu:
    """Return a head with one to three lesions."""
    inside = brain_of(hu)
    if inside.sum() < LEAST_VOXELS:
        return hu
    for _ in range(rng.integers(1, 4)):
        hu = _KINDS[rng.integers(len(_KINDS))](hu, inside, rng)
    return hu.clip(AIR, 400).astype(np.float32)


def brain_of(hu: Hu) -> npt.NDArray[np.bool_]:
    """Return what the skull encloses in each slice, bool, the volume's shape."""
    disc = np.hypot(*np.mgrid[-2:3, -2:3]) <= 1.6
    found = np.zeros(hu.shape, dtype=bool)
    for plane, inside in zip(hu, found, strict=True):
        closed = ndimage.binary_closing(np.pad(plane >= BONE, 4), disc)[4:-4, 4:-4]
        labels, count = ndimage.label(ndimage.binary_fill_holes(closed) & ~closed)
        if count:
            sizes = np.bincount(labels.ravel())[1:]
            if sizes.max() > LEAST_PIXELS:
                inside[:] = labels == sizes.argmax() + 1
    return found


def noise(shape: tuple[int, ...], wide_mm: float, rng: np.random.Generator) -> Hu:
    """Return smooth noise of spread 1, whose clouds are so wide."""
    sigmas = [wide_mm / mm for mm in VOXEL_MM]
    raw = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigmas, mode="wrap", truncate=3)
    return cast("Hu", raw / max(float(raw.std()), 1e-9))


def _cloud(at: npt.NDArray[np.floating], radii_mm: npt.ArrayLike, shape: tuple[int, ...], rng: Rng) -> Hu:
    """Return how much of every voxel an uneven ellipsoid takes, 0 to 1."""
    away = [(np.arange(n) - p) * mm / r for n, p, mm, r in zip(shape, at, VOXEL_MM, np.asarray(radii_mm), strict=True)]
    far = np.sqrt(sum(d**2 for d in np.meshgrid(*away, indexing="ij", sparse=True)))
    return cast("Hu", np.clip((1.1 - far - noise(shape, 9, rng) * rng.uniform(0, 0.3)) * 4, 0, 1))


def _somewhere(inside: Mask, rng: Rng) -> npt.NDArray[np.floating]:
    points = np.argwhere(inside)
    return cast("npt.NDArray[np.floating]", points[rng.integers(len(points))].astype(float))


def _focus(hu: Hu, inside: Mask, rng: Rng) -> Hu:
    """A bleed, an infarct, oedema, a tumour: of any size."""
    share = _cloud(_somewhere(inside, rng), rng.uniform(6, 50, 3), hu.shape, rng)
    value = rng.uniform(50, 85) if rng.random() < 0.6 else rng.uniform(5, 28)
    return np.where(inside, hu + share * (value - hu), hu)


def _hemisphere(hu: Hu, inside: Mask, rng: Rng) -> Hu:
    x = np.arange(hu.shape[2]) - np.nonzero(inside)[2].mean()
    side = (x * rng.choice([-1, 1]) > rng.uniform(-3, 6))[None, None]
    return np.where(inside & side, hu + rng.uniform(-22, 15), hu)


def _along_the_skull(hu: Hu, inside: Mask, rng: Rng) -> Hu:
    """Subdural and epidural blood, hygroma; or wide sulci, where it is patchy."""
    thick = int(rng.integers(1, 6))
    rim = inside & ~np.stack([ndimage.binary_erosion(plane, iterations=thick) for plane in inside])
    x = np.arange(hu.shape[2]) - np.nonzero(inside)[2].mean()
    if rng.random() < 0.5:
        rim &= (x * rng.choice([-1, 1]) > rng.uniform(-5, 8))[None, None]
    if rng.random() < 0.4:
        rim &= noise(hu.shape, rng.uniform(4, 12), rng) > rng.uniform(-0.8, 0.5)
    return np.where(rim, np.float32(rng.uniform(3, 80)), hu)


def _ventricles(hu: Hu, inside: Mask, rng: Rng) -> Hu:
    """Wide ventricles, as one or as two; now and then full of blood."""
    middle = np.argwhere(inside).mean(axis=0) + rng.normal(0, (1, 3, 1))
    value = rng.uniform(2, 16) if rng.random() < 0.75 else rng.uniform(50, 80)
    high, long, wide = rng.uniform((15, 15, 6), (45, 60, 35))
    apart = rng.uniform(0, wide) / VOXEL_MM[2]
    for side in (-1, 1):
        share = _cloud(middle + np.array([0, 0, side * apart]), (high, long, wide), hu.shape, rng)
        hu = np.where(inside, hu + share * (value - hu), hu)
    return hu


def _subarachnoid(hu: Hu, inside: Mask, rng: Rng) -> Hu:
    """Fluid becomes blood."""
    smooth = ndimage.gaussian_filter(hu, (0, 0.5, 0.5))
    fluid = inside & (smooth < np.percentile(smooth[inside], rng.uniform(5, 35)))
    return np.where(fluid, np.float32(rng.uniform(45, 75)), hu)


def _swollen(hu: Hu, inside: Mask, rng: Rng) -> Hu:
    """Grey and white matter, ventricles and sulci can hardly be told apart."""
    level = float(np.median(hu[inside]))
    return np.where(inside, level + (hu - level) * rng.uniform(0.1, 0.7) + rng.uniform(-8, 4), hu)


def _opened(hu: Hu, inside: Mask, rng: Rng) -> Hu:
    """A part of the skull is missing, sometimes most of one side's."""
    at = _somewhere(inside & ~ndimage.binary_erosion(inside), rng)
    share = _cloud(at, rng.uniform(15, 70, 3), hu.shape, rng)
    return np.where((hu >= BONE) & (share > 0.5), np.float32(rng.uniform(10, 50)), hu)


def _scalp(hu: Hu, inside: Mask, rng: Rng) -> Hu:
    head = hu > AIR + 2
    x = np.arange(hu.shape[2]) - np.nonzero(inside)[2].mean()
    side = (x * rng.choice([-1, 1]) > rng.uniform(0, 10))[None, None]
    thick = int(rng.integers(1, 7))
    around = np.stack([ndimage.binary_dilation(plane, iterations=thick) for plane in head]) & ~head
    return np.where(around & side, np.float32(rng.uniform(20, 65)), hu)


def _air(hu: Hu, inside: Mask, rng: Rng) -> Hu:
    share = _cloud(_somewhere(inside, rng), rng.uniform(4, 25, 3), hu.shape, rng)
    return np.where(inside & (share > 0.5), np.float32(AIR), hu)


def _metal(hu: Hu, inside: Mask, rng: Rng) -> Hu:
    """A clip or a coil, and its rays."""
    z, y, x = _somewhere(inside, rng)
    angle = np.arctan2(np.arange(hu.shape[1])[:, None] - y, np.arange(hu.shape[2])[None] - x)
    rays = np.sin(angle * rng.integers(5, 20) + rng.uniform(0, 6)) * rng.uniform(5, 40)
    slices = (abs(np.arange(hu.shape[0]) - z) <= rng.integers(1, 5))[:, None, None]
    streaked = np.where(slices & (hu > AIR + 2), hu + rays, hu)
    clip = _cloud(np.array([z, y, x]), rng.uniform(3, 9, 3), hu.shape, rng) > 0.5
    return np.where(clip, np.float32(400), streaked)


_KINDS: tuple[Callable[[Hu, Mask, Rng], Hu], ...] = (
    _focus, _focus, _hemisphere, _along_the_skull, _along_the_skull, _ventricles, _ventricles, _subarachnoid, _swollen,
    _opened, _scalp, _air, _metal,
)  # fmt: skip
