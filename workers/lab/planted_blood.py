"""Artificial blood for training without labels: where it lies and how dense it is, after textbooks, not after images.

Fresh blood is 50 to 80 HU where brain is 25 to 45 and fluid about 10. It is planted as a ball within the brain
(intraparenchymal, with a dark rim now and then), a lens or a crescent along the inside of the skull (epidural,
subdural), a filling of ventricles and sulci (intraventricular, subarachnoid), and a layer along a fold of the dura.
Slices are thick, so edges are partial volumes; the host's own noise stays on top. What pushes the brain aside is left
out. What is tiny and bright, as calcifications are, isn't blood: `with_dots` plants it unmarked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from workers.flows.intracranial import inside_skull
from workers.lab.image_set import Pixels
from workers.lab.planted import step

Values = npt.NDArray[np.float32]
Place = npt.NDArray[np.float64]
Point = npt.NDArray[np.intp]

HU_OFFSET = 14  # grey levels are HU + 14 (paper, equation 4)
#: Slices with less brain than this, mm², are the skull's base and top: nothing is planted there.
LEAST_AREA_MM2 = 2000.0
#: A marked voxel is so much denser than it was, HU.
LEAST_CONTRAST = 5.0
_FLUID = 32.0  # grey: ventricles and sulci are below it (18 HU)


@dataclass(frozen=True)
class Head:
    """A head CT, and what its blood is planted by; made once, planted into often.

    Attributes
    ----------
    values, smooth : numpy.ndarray
        float32, (D, H, W): grey values, and smoothed a little.
    inside : numpy.ndarray
        bool, (D, H, W): within the skull, where there is enough of it.
    depth_mm : numpy.ndarray
        float32, (D, H, W): distance to the skull's inside within the slice.
    spacing_mm : tuple of float
        Of the voxels, in the order of the axes.
    shown : numpy.ndarray
        Numbers of the slices that show any of the inside of a skull.
    brain, rim, fluid : numpy.ndarray
        (N, 3): voxels within, of them those along the skull, and those of ventricles and sulci.
    """

    values: Values
    smooth: Values
    inside: npt.NDArray[np.bool_]
    depth_mm: Values
    spacing_mm: tuple[float, ...]
    shown: Point
    brain: Point
    rim: Point
    fluid: Point

    @classmethod
    def of(cls, pixels: Pixels, spacing_mm: tuple[float, ...]) -> Self:
        """Look at one head, (D, H, W), on the bundle's grid."""
        values = pixels.astype(np.float32)
        area = spacing_mm[1] * spacing_mm[2]
        inside = inside_skull(values)
        shown = np.flatnonzero(inside.any((1, 2)))
        inside &= (inside.sum((1, 2)) * area >= LEAST_AREA_MM2)[:, None, None]
        depth = np.stack([ndimage.distance_transform_edt(plane, spacing_mm[1:]) for plane in inside])
        smooth = ndimage.gaussian_filter(values, (0, 0.7, 0.7))
        near = max(3.0, 1.1 * max(spacing_mm[1:]))  # at least the outermost voxels
        rim, fluid = inside & (depth < near), inside & (depth > 3) & (smooth < _FLUID)
        points = map(np.argwhere, (inside, rim, fluid))
        return cls(values, smooth, inside, depth.astype(np.float32), spacing_mm, shown, *points)

    def away_from(self, point: Point) -> tuple[Place, Place, Place]:
        """Return how far every voxel is from a voxel along each axis, mm; to be broadcast."""
        axes = [(np.arange(n) - p) * s for n, p, s in zip(self.inside.shape, point, self.spacing_mm, strict=True)]
        z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
        return z, y, x

    def clouds(self, rng: np.random.Generator, size_mm: float) -> Place:
        """Return smooth noise of spread 1, whose clouds are about ``size_mm`` wide."""
        coarse = (2, 4, 4)
        shape = [-(-n // c) for n, c in zip(self.inside.shape, coarse, strict=True)]
        sigmas = [size_mm / (s * c) for s, c in zip(self.spacing_mm, coarse, strict=True)]
        noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigmas)
        fine: Place = ndimage.zoom(noise / (noise.std() + 1e-9), coarse, order=1)
        return fine[tuple(slice(n) for n in self.inside.shape)]


Kind = Callable[[Head, np.random.Generator], tuple[Place, Place]]


def with_blood(head: Head, rng: np.random.Generator) -> tuple[Values, Values]:
    """Return the head with one or two artificial hemorrhages, and which part of each voxel they are.

    Parameters
    ----------
    head : Head
        The host.
    rng : numpy.random.Generator
        Draws them.

    Returns
    -------
    values, place : numpy.ndarray
        float32, (D, H, W): grey values (HU + 14), and shares from 0 to 1, 0 where nothing can be seen. In a head
        without brain nothing is planted.
    """
    values, place = head.values.copy(), np.zeros(head.values.shape, np.float32)
    if not len(head.brain):
        return values, place
    kinds, odds = zip(*_KINDS.items(), strict=True)
    for _ in range(rng.choice([1, 1, 2])):
        share, around = kinds[rng.choice(len(kinds), p=odds)](head, rng)
        share = ndimage.gaussian_filter(share, (rng.uniform(0, 0.4), 0.4, 0.4)) * head.inside
        blood = HU_OFFSET + rng.uniform(44, 76) + rng.uniform(0, 5) * head.clouds(rng, 6)
        noise = head.values - head.smooth
        before = values + around * (1 - share)
        values = before + share * (np.maximum(blood + 0.7 * noise, before) - before)
        place = np.maximum(place, np.where(values - head.values > LEAST_CONTRAST, share, 0))
    return values.astype(np.float32), place.astype(np.float32)


def with_dots(head: Head, values: Values, rng: np.random.Generator) -> Values:
    """Return grey values with one to three bright dots in the brain, as calcifications are."""
    values = values.copy()
    for _ in range(rng.integers(1, 4) if len(head.brain) else 0):
        z, y, x = head.away_from(_one_of(head.brain, rng))
        radius = rng.uniform(0.8, 1.8)
        dot = np.exp(-0.5 * ((z / 2.5) ** 2 + (y / radius) ** 2 + (x / radius) ** 2))
        values += (rng.uniform(25, 80) * dot * head.inside).astype(np.float32)
    return values


def _intraparenchymal(head: Head, rng: np.random.Generator) -> tuple[Place, Place]:
    """A ball from 3 to 20 mm, dented; 2 in 5 have a dark rim."""
    z, y, x = head.away_from(_one_of(head.brain, rng))
    radius = float(np.exp(rng.uniform(np.log(3), np.log(20))))
    radii = np.maximum(radius * rng.uniform(0.7, 1.6, 3), (3, 0, 0))
    turn = rng.uniform(0, np.pi)
    across, along = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    distance = np.sqrt((z / radii[0]) ** 2 + (across / radii[1]) ** 2 + (along / radii[2]) ** 2)
    distance = distance * (1 + rng.uniform(0, 0.3) * head.clouds(rng, 6))
    edema = np.zeros_like(distance)
    if rng.uniform() < 0.4:
        edema = -rng.uniform(3, 10) * step(rng.uniform(1.3, 1.8) - distance, 0.15) * head.inside
    return step(1 - distance, 1.5 / radius), edema


def _along_skull(head: Head, rng: np.random.Generator) -> tuple[Place, Place]:
    """A lens, short and thick, or a crescent, long and thin, on the inside of the skull."""
    z, y, x = head.away_from(_one_of(head.rim, rng))
    distance = np.sqrt(z**2 + y**2 + x**2)
    if rng.uniform() < 0.5:
        length = rng.uniform(10, 40)
        thickness = rng.uniform(2.5, min(20.0, 0.6 * length)) * np.clip(1 - (distance / length) ** 2, -0.5, None)
    else:
        length = rng.uniform(25, 90)
        thickness = rng.uniform(2, 9) * np.clip(3 - 3 * (distance / length) ** 2, -1, 1)
    thickness = thickness * (1 + rng.uniform(0, 0.25) * head.clouds(rng, 10))
    return step(thickness - head.depth_mm, 0.8) * (distance < 1.2 * length), np.zeros_like(distance)


def _in_fluid(head: Head, rng: np.random.Generator) -> tuple[Place, Place]:
    """What is dark within 8 to 45 mm fills; 2 in 5 settle at the back, as in somebody who lies."""
    if len(head.fluid) < 50:
        return _along_skull(head, rng)
    z, y, x = head.away_from(_one_of(head.fluid, rng))
    near = step(rng.uniform(8, 45) - np.sqrt(z**2 + y**2 + x**2), 2)
    if rng.uniform() < 0.4:
        near = near * step(y - rng.uniform(-5, 5), 1.5)
    dark = np.clip((rng.uniform(34, 42) - head.smooth) / rng.uniform(6, 14), 0, 1)
    if rng.uniform() < 0.4:
        dark = ndimage.grey_dilation(dark, (1, 3, 3))
    return dark * near, np.zeros_like(near)


def _along_fold(head: Head, rng: np.random.Generator) -> tuple[Place, Place]:
    """A wavy layer of 2 to 5 mm, mostly upright and near the middle, as the falx, else anyhow, as the tentorium."""
    point = _one_of(head.brain, rng)
    z, y, x = head.away_from(point)
    if rng.uniform() < 0.6:
        middle = np.flatnonzero(head.inside[point[0]].any(0)).mean()
        x = x + (point[2] - middle) * head.spacing_mm[2]
    turn = rng.normal(0, 0.2) if rng.uniform() < 0.6 else rng.uniform(0, np.pi)
    off = x * np.cos(turn) + y * np.sin(turn) + 1.5 * head.clouds(rng, 15)
    near = step(rng.uniform(12, 45) - np.sqrt(z**2 + y**2 + x**2), 2)
    return step(rng.uniform(0.8, 2.5) - np.abs(off), 0.7) * near, np.zeros_like(near)


_KINDS: dict[Kind, float] = {_intraparenchymal: 0.4, _along_skull: 0.36, _in_fluid: 0.14, _along_fold: 0.1}


def _one_of(points: Point, rng: np.random.Generator) -> Point:
    one: Point = points[rng.integers(len(points))]
    return one
