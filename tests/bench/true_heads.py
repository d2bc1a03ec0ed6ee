"""Heads that a gate has to pass: of other builds, lying otherwise, and with the worst that a night brings; HU.

Made of real heads on the raster of CT-ICH, -20 to 100 HU, slices from below. Lesions are drawn coarsely.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from workers.images.gate_bct import enclosed_by

Hu = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]

_Z, _Y, _X = np.mgrid[-1:1:32j, -1:1:128j, -1:1:128j]


def built(heads: Iterable[Hu]) -> Iterator[tuple[str, Hu]]:
    """Yield heads of other builds, and as patients lie."""
    for hu in heads:
        for name, zoom in (("6 % wider, shorter", (1, 0.94, 1.06)), ("6 % narrower, longer", (1, 1.06, 0.94))):
            yield name, _moved(hu, zoom=zoom)
        for degrees in (-20, 20):
            yield "turned by 20 degrees", _moved(hu, degrees=degrees)
        for lean in (-10, 10):
            yield "leaning by 10 degrees", _moved(hu, lean=lean)


def _moved(hu: Hu, *, zoom: tuple[float, ...] = (1, 1, 1), degrees: float = 0.0, lean: float = 0.0) -> Hu:
    """Return a head zoomed, turned within its slices, leaning to a shoulder; its bone denser than its window."""
    bony = np.where(hu > 95, 400.0, hu)
    to_mm, (a, b) = np.diag([5.0, 1.56, 1.56]), np.radians((degrees, lean))
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    tilt = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
    matrix = np.linalg.inv(to_mm) @ turn @ tilt @ np.diag(1 / np.array(zoom)) @ to_mm
    middle = (np.array(hu.shape) - 1) / 2
    found: Hu = ndimage.affine_transform(bony, matrix, middle - matrix @ middle, order=1, cval=-20.0)
    return found.clip(-20, 100)


def ill(heads: Iterable[Hu], rng: np.random.Generator) -> Iterator[tuple[str, Hu]]:
    """Yield heads with what patients have at worst."""
    for hu in heads:
        brain = _brain(hu)
        side = _X * rng.choice([-1, 1])
        shrunk = {n: np.stack([ndimage.binary_erosion(plane, iterations=n) for plane in brain]) for n in (5, 9)}
        yield "huge bleed", np.where(brain & _ball(0.2, 0.2 * rng.choice([-1, 1]), 0.3), 68, hu)
        yield "half of the brain bleeds", np.where(brain & (side > 0.02), 65, hu)
        yield "subdural blood, 14 mm, both sides", np.where(brain & ~shrunk[9], 60, hu)
        yield "hygroma, 8 mm, both sides", np.where(brain & ~shrunk[5], 10, hu)
        yield "infarct of a hemisphere", np.where(brain & (side > 0.02), hu - 15, hu)
        yield "hydrocephalus", np.where(brain & _ball(0.2, 0, 0.38), 8, hu)
        yield "swollen", np.where(brain, ndimage.gaussian_filter(hu, (0, 4, 4)), hu)
        yield "half of the vault removed", np.where((hu >= 85) & (side > 0.15) & (_Y < 0.2) & (_Z > -0.2), 30, hu)
        yield "blood in all sulci", np.where(brain & (ndimage.gaussian_filter(hu, (0, 1, 1)) < 28), 65, hu)
        yield "air under the forehead", np.where(brain & (_Y < -0.45) & (_Z > 0), -20, hu)
        rays = np.sin(np.arctan2(_Y, _X) * 18) * 40
        yield "metal streaks", np.where((hu > -15) & (abs(_Z - 0.2) < 0.25), hu + rays, hu).clip(-20, 100)
        thick = np.stack([ndimage.binary_dilation(plane > -15, iterations=12) for plane in hu])
        yield "scalp swollen by 2 cm", np.where((hu < -15) & thick & (side > 0.1), 45, hu)


def _ball(z: float, x: float, radius: float) -> Mask:
    inside: Mask = ((_Z - z) / (1.3 * radius)) ** 2 + (_Y / radius) ** 2 + ((_X - x) / radius) ** 2 < 1
    return inside


def _brain(hu: Hu) -> Mask:
    """Return the largest region that bone encloses in each slice, where it is large."""
    found = np.stack([enclosed_by(plane >= 80, 3) for plane in hu])
    found[found.sum(axis=(1, 2)) <= 800] = False
    return found
