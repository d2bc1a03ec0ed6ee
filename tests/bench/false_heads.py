"""Volumes that are no head CTs of kinds that made no gate but for `KNOWN`, as HU on the raster of CT-ICH.

Made of untouched heads (shuffled, cut, turned, contrasts of MR), of single slices of other body parts in the public
DICOM collection, and drawn.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Hu = npt.NDArray[np.floating]
Family = Iterator[tuple[str, Hu]]

_Z, _Y, _X = np.mgrid[-1:1:32j, -1:1:128j, -1:1:128j]


#: Kinds for which the gate got a look of its own.
KNOWN = {
    "slices shuffled", "interleaved with another head", "turned by 90 degrees", "face down", "two heads",
    "coronal as axial", "twice, one on the other", "vertex on another head",
}  # fmt: skip


def of_head(hu: Hu, other: Hu, rng: np.random.Generator) -> Family:
    """Yield what is made of a real head, -20 to 100 HU, slices from below."""
    yield "slices reversed", hu[::-1]
    yield "slices shuffled", hu[rng.permutation(len(hu))]
    pairs = hu.reshape(len(hu) // 2, 2, *hu.shape[1:])
    yield "pairs of slices shuffled", pairs[rng.permutation(len(pairs))].reshape(hu.shape)
    yield "halves swapped", np.concatenate([hu[len(hu) // 2 :], hu[: len(hu) // 2]])
    yield "interleaved with another head", np.where((np.arange(len(hu)) % 2 == 0)[:, None, None], hu, other[::-1])
    yield "lower half", hu[: len(hu) // 2]
    yield "upper third missing", hu[: len(hu) * 2 // 3]
    yield "one slice throughout", np.repeat(hu[len(hu) // 2][None], len(hu), axis=0)
    side = ndimage.zoom(hu, (4, 1, 0.25), order=1)  # columns become slices
    yield "sagittal as axial", side.transpose(2, 0, 1)[:, ::-1]
    yield "coronal as axial", ndimage.zoom(hu, (4, 0.25, 1), order=1).transpose(1, 0, 2)[:, ::-1]
    yield "turned by 90 degrees", np.rot90(hu, rng.choice([1, 3]), axes=(1, 2))
    yield "face down", np.rot90(hu, 2, axes=(1, 2))
    brain = (hu > 5) & (hu < 60)
    yield "MR, T1-like", np.where(hu > 75, rng.uniform(-30, 5), np.where(brain, hu * 1.5 + rng.uniform(-10, 30), hu))
    yield "MR, T2-like", np.where(hu > 75, 0, np.where(brain, rng.uniform(70, 100) - hu, np.where(hu > -15, 60, hu)))
    yield "stored values without rescale", hu + 1024
    yield "inverted", 80 - hu
    yield "every slice turned at random", np.stack([np.rot90(plane, rng.integers(4)) for plane in hu])
    yield "front to back", hu[:, ::-1]
    yield "vertex on another head", np.concatenate([other[: len(hu) // 2], hu[-(len(hu) // 4) :]])
    yield "twice, one on the other", np.concatenate([hu[::2], hu[::2]])
    yield "base missing", hu[len(hu) // 2 :]
    yield "half a head", np.where(_X < 0, hu, -1000)
    yield "two heads", np.concatenate([hu, other], axis=2)[:, :, ::2]
    yield "head of a doll", ndimage.zoom(hu, (1, 0.45, 0.45), order=1)


def of_slices(slices: Sequence[Hu], rng: np.random.Generator) -> Family:
    """Yield volumes of body parts of which there is a single slice: shrinking and growing a little from end to end."""
    for hu in slices:
        small = ndimage.zoom(np.clip(hu, -1000, 1500), [128 / n for n in hu.shape], order=1)
        volume = []
        for share in np.linspace(0, 1, 32):
            zoom = 1 + 0.25 * np.sin(np.pi * share) + rng.normal(0, 0.01)
            middle = np.array([63.5, 63.5])
            volume.append(
                ndimage.affine_transform(small, np.full(2, 1 / zoom), middle * (1 - 1 / zoom), order=1, cval=-1000)
            )
        yield "another body part", np.stack(volume) + rng.normal(0, 4, (32, 128, 128))


def _ellipsoid(rows: float, columns: float, planes: float = 1.4, y: float = 0, x: float = 0) -> Hu:
    return ((_Y - y) / rows) ** 2 + ((_X - x) / columns) ** 2 + (_Z / planes) ** 2


def drawn(rng: np.random.Generator) -> Family:
    """Yield one of every drawn kind."""
    grain = ndimage.gaussian_filter(rng.standard_normal((32, 128, 128)), (0.5, 1, 1)) * 8
    rows, columns = rng.uniform(0.5, 0.85, 2)
    inside = _ellipsoid(rows, columns, 9) < 1
    air = np.full(_X.shape, -1000.0)
    chest = np.where(inside, 45 + grain, air)
    for way in (-1, 1):
        chest[_ellipsoid(0.7 * rows, 0.35 * columns, 2, 0, way * 0.45 * columns) < 1] = -850
    chest[_ellipsoid(0.12, 0.12, 9, 0.7 * rows) < 1] = 400
    yield "thorax", chest
    trunk = np.where(inside, 50 + grain, air)
    trunk[(_ellipsoid(rows, columns, 9) < 1) & (_ellipsoid(rows * 0.93, columns * 0.93, 9) > 1)] = -100
    trunk[_ellipsoid(0.12, 0.14, 9, 0.65 * rows) < 1] = 450
    for _ in range(6):
        trunk[_ellipsoid(*rng.uniform(0.04, 0.12, 2), 1, *rng.uniform(-0.4, 0.4, 2)) < 1] = rng.choice([-500.0, 120.0])
    yield "abdomen", trunk
    neck = np.where(_ellipsoid(0.45, 0.5, 9) < 1, 55 + grain, air)
    neck[_ellipsoid(0.13, 0.15, 9, 0.15) < 1] = 600
    neck[_ellipsoid(0.07, 0.07, 9, -0.15) < 1] = -900
    yield "neck", neck
    legs = air.copy()
    for way in (-1, 1):
        legs[_ellipsoid(0.35, 0.35, 9, 0, way * 0.45) < 1] = 50
        legs[_ellipsoid(0.1, 0.1, 9, 0, way * 0.45) < 1] = 900
    yield "legs", np.where(legs > -900, legs + grain, legs)
    yield "water phantom", np.where(inside, rng.uniform(-5, 5) + grain * 0.3, air)
    rods = np.where(inside, 90 + grain * 0.5, air)
    for value in (-100, 120, 340, 990, -1000, 0):
        rods[_ellipsoid(0.08, 0.08, 9, *rng.uniform(-0.45, 0.45, 2)) < 1] = value
    yield "CT phantom with rods", rods
    shell = _ellipsoid(rows, columns, 1.1)
    yield (
        "skull phantom, even filling",
        np.where(shell < 0.82, rng.uniform(20, 50) + grain * 0.05, np.where(shell < 1, 900, air)),
    )
    yield "skull full of water", np.where(shell < 0.82, grain * 0.4, np.where(shell < 1, 900, air))
    yield "skull full of air", np.where(shell < 0.82, -900.0, np.where(shell < 1, 900, air))
    fruit = _ellipsoid(0.6, 0.6, 0.8)
    yield "melon", np.where(fruit < 0.85, 20 + 3 * grain, np.where(fruit < 1, 45 + grain, air))
    yield (
        "nut",
        np.where(fruit < 0.6, -80 + 2 * grain, np.where(fruit < 0.8, -600, np.where(fruit < 1, 100 + grain, air))),
    )
    jaw = air + 1040 * (_ellipsoid(0.6, 0.5, 9) < 1)
    jaw[abs(np.hypot(_Y * 1.1 + 0.1, _X) - 0.4) < 0.07] = 900
    yield "jaw", jaw + grain
    yield "noise", rng.normal(rng.uniform(-200, 60), rng.uniform(10, 300), _X.shape)
    yield "blank", np.full(_X.shape, rng.uniform(-1000, 100))
    yield "checkerboard", np.where((np.floor(_X * 5) + np.floor(_Y * 5) + np.floor(_Z * 4)) % 2 > 0, 60.0, -20.0)
    yield "gradient", 60 + 100 * (_X * rng.normal() + _Y * rng.normal() + _Z * rng.normal())
