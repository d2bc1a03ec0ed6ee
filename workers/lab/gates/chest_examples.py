"""Examples for the gate of chest radiographs: chests as they come, ill ones too, and what chests can be turned into.

What patients have is drawn coarsely and larger than life, what happens to pictures likewise: a gate that refuses the
worst chest of the night does harm. Pictures are float32, 0 black to 1 white; chests are squares of `SIDE` pixels that
fill the picture, as the public collections hold them.
"""

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Picture = npt.NDArray[np.float32]
Rng = np.random.Generator

SIDE = 128
_Y, _X = (grid.astype(np.float32) for grid in np.mgrid[0 : 1 : SIDE * 1j, 0 : 1 : SIDE * 1j])
#: How often a chest is left as it is; else how often something is wrong with it, and with its picture.
PLAIN, ILL, ALTERED = 0.2, 0.5, 0.6


def as_exposed(chest: Picture, rng: Rng) -> Picture:
    """Return a chest as another patient, room and machine might have shown it: ill, moved, marked, framed."""
    if rng.random() < PLAIN:
        return chest
    if rng.random() < ILL:
        chest = _ILLS[rng.integers(len(_ILLS))](chest, rng)
    chest = _placed(chest, rng)
    if rng.random() < ALTERED:
        for _ in range(rng.integers(1, 3)):
            chest = _ALTERATIONS[rng.integers(len(_ALTERATIONS))](chest, rng)
    return shown(chest, rng)


def no_chest(chest: Picture, other: Picture, rng: Rng) -> Picture:
    """Return what a chest was made into that is none any more, shown as chests are."""
    return shown(_TURNS[rng.integers(len(_TURNS))](chest, other, rng), rng)


def shown(picture: Picture, rng: Rng) -> Picture:
    """Return a picture with another tone curve, sharpness and grain."""
    found = np.clip(picture, 0, 1) ** np.exp(rng.normal(0, 0.35))
    if rng.random() < 0.5:
        found = ndimage.gaussian_filter(found, rng.uniform(0, 1.2))
    if rng.random() < 0.3:
        found = found + rng.uniform(0.5, 2) * (found - ndimage.gaussian_filter(found, rng.uniform(1, 6)))
    return cast("Picture", (found + rng.normal(0, rng.exponential(0.015), found.shape)).clip(0, 1).astype(np.float32))


def _smooth(wide: float, rng: Rng) -> Picture:
    """Return clouds of spread 1, so wide as a share of the picture."""
    clouds = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), wide * SIDE, mode="reflect")
    return cast("Picture", (clouds / max(float(clouds.std()), 1e-9)).astype(np.float32))


def _step(t: npt.NDArray[np.floating], wide: float) -> npt.NDArray[np.floating]:
    """Return 0 where t is negative, 1 where it is positive, and a soft edge so wide."""
    share: npt.NDArray[np.floating] = 1 / (1 + np.exp(-np.clip(t / wide, -30, 30)))
    return share


def _white(chest: Picture) -> float:
    return float(np.percentile(chest, 88))


def _side(rng: Rng) -> npt.NDArray[np.floating]:
    """Return how far places are from the middle line, towards one side."""
    away: npt.NDArray[np.floating] = (_X - 0.5 + rng.normal(0, 0.04)) * rng.choice([-1, 1])
    return away


def _white_lung(chest: Picture, rng: Rng) -> Picture:
    """One side is white, wholly or nearly, or a part of it."""
    share = _step(_side(rng), rng.uniform(0.01, 0.06)) * rng.uniform(0.6, 1)
    if rng.random() < 0.4:
        share = share * _step((_Y - rng.uniform(0.2, 0.6)) * rng.choice([-1, 1, 1]), rng.uniform(0.02, 0.15))
    white = _white(chest) * rng.uniform(0.85, 1.1) + 0.03 * _smooth(0.05, rng)
    return cast("Picture", np.maximum(chest, chest + share * (white - chest)))


def _black_lung(chest: Picture, rng: Rng) -> Picture:
    """One side holds air and nothing else, and pushes the heart aside."""
    away = _side(rng)
    inside = np.hypot((away - 0.22) / rng.uniform(0.12, 0.25), (_Y - 0.42) / rng.uniform(0.2, 0.42)) < 1
    share = ndimage.gaussian_filter(inside.astype(np.float32), rng.uniform(1, 4)) * rng.uniform(0.5, 1)
    return cast("Picture", chest + share * (float(np.percentile(chest, 4)) - chest))


def _fluid(chest: Picture, rng: Rng) -> Picture:
    """Fluid or high diaphragms on both sides, or a large heart."""
    level = rng.uniform(0.35, 0.75) + rng.uniform(-0.3, 0.3) * (_X - 0.5) - rng.uniform(0, 0.6) * (_X - 0.5) ** 2
    share = _step(_Y - level, rng.uniform(0.01, 0.1))
    if rng.random() < 0.4:
        share = np.hypot((_X - rng.uniform(0.4, 0.7)) / rng.uniform(0.2, 0.42), (_Y - 0.65) / rng.uniform(0.2, 0.4)) < 1
        share = ndimage.gaussian_filter(share.astype(np.float32), rng.uniform(1, 4))
    return cast("Picture", chest + share * rng.uniform(0.6, 1) * np.maximum(_white(chest) - chest, 0))


def _opacities(chest: Picture, rng: Rng) -> Picture:
    """Few large or many small white clouds."""
    clouds = np.clip(_smooth(rng.uniform(0.01, 0.12), rng) - rng.uniform(0, 1.5), 0, 1)
    return cast("Picture", chest + clouds * rng.uniform(0.3, 1) * np.maximum(_white(chest) - chest, 0))


def _shifted_heart(chest: Picture, rng: Rng) -> Picture:
    """One lung is small, the other large: a patient turned to the side, a collapse, a curved spine."""
    bend = rng.uniform(0.05, 0.16) * rng.choice([-1, 1]) * np.sin(np.pi * _X)
    bend = bend * (np.cos(np.pi * (_Y - rng.uniform(0.2, 0.8))) if rng.random() < 0.5 else 1)
    at = np.stack([_Y, np.clip(_X + bend, 0, 1)]) * (SIDE - 1)
    return cast("Picture", ndimage.map_coordinates(chest, at, order=1, mode="nearest"))


def _soft_tissue(chest: Picture, rng: Rng) -> Picture:
    """A stout patient: much scatter, little to be told apart."""
    grey = ndimage.gaussian_filter(chest, rng.uniform(10, 30))
    return cast("Picture", grey + (chest - grey) * rng.uniform(0.25, 0.7))


_ILLS: tuple[Callable[[Picture, Rng], Picture], ...] = (
    _white_lung, _white_lung, _white_lung, _black_lung, _fluid, _fluid, _opacities, _opacities, _shifted_heart,
    _shifted_heart, _soft_tissue,
)  # fmt: skip


def _placed(chest: Picture, rng: Rng) -> Picture:
    """Return a chest a little turned, nearer or farther, wider or taller, with more of the belly or the neck."""
    angle = np.radians(np.clip(rng.normal(0, 5), -14, 14))
    scale = np.exp(rng.normal(-0.04, 0.14)) * np.exp(rng.normal(0, 0.06) * np.array([-1, 1]))
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale[:, None]
    middle = np.full(2, (SIDE - 1) / 2)
    offset = middle - matrix @ (middle + rng.normal(0, (0.07, 0.05)) * SIDE)
    mode = ("nearest", "nearest", "reflect", "constant")[rng.integers(4)]
    turned = ndimage.affine_transform(chest, matrix, offset, order=1, mode=mode)
    return cast("Picture", turned)


def _frame(chest: Picture, rng: Rng) -> Picture:
    """Shutters leave a part of the plate black, white or grey."""
    top, left = rng.uniform(0, 0.2, 2)
    bottom, right = 1 - rng.uniform(0, 0.2, 2)
    lean = rng.normal(0, 0.02) * (_X - 0.5)
    inside = (_Y + lean > top) & (_Y + lean < bottom) & (left < _X) & (right > _X)
    share = ndimage.gaussian_filter(inside.astype(np.float32), rng.uniform(0, 1.2))
    return cast("Picture", share * chest + (1 - share) * np.float32(rng.choice([0, 0, 1, 1, rng.random()])))


def _gown(chest: Picture, rng: Rng) -> Picture:
    """Something white or grey lies over an edge: a table, an arm, a chin, lead."""
    away = (_Y, 1 - _Y, _X, 1 - _X)[rng.integers(4)] + 0.03 * _smooth(0.15, rng)
    share = _step(rng.uniform(0.05, 0.22) - away, rng.uniform(0.003, 0.03)) * rng.uniform(0.4, 1)
    found: Picture = chest + share * (np.float32(rng.uniform(0.5, 1)) - chest)
    return found


def _marks(chest: Picture, rng: Rng) -> Picture:
    """Letters, boxes, electrodes."""
    found = chest.copy()
    for _ in range(rng.integers(1, 5)):
        (y, x), (high, wide) = rng.integers(0, SIDE - 8, 2), rng.integers(3, 14, 2)
        part = rng.random((high, wide)) > 0.4 if rng.random() < 0.5 else np.ones((high, wide))
        patch = found[y : y + high, x : x + wide]
        patch[...] = np.where(part[: patch.shape[0], : patch.shape[1]], np.float32(rng.choice([0, 1, 1])), patch)
    return found


def _wires(chest: Picture, rng: Rng) -> Picture:
    """Cables, tubes, rods and a box of metal."""
    ink = np.zeros((SIDE, SIDE), dtype=np.float32)
    for _ in range(rng.integers(1, 6)):
        t = np.linspace(0, 1, 400)
        points = rng.uniform(-0.1, 1.1, (3, 2))
        line = np.outer((1 - t) ** 2, points[0]) + np.outer(2 * t * (1 - t), points[1]) + np.outer(t**2, points[2])
        y, x = np.round(line[(line > 0).all(1) & (line < 1).all(1)].T * (SIDE - 1)).astype(int)
        ink[y, x] = 1
    if rng.random() < 0.3:
        y, x = rng.integers(10, SIDE - 20, 2)
        ink[y : y + rng.integers(5, 16), x : x + rng.integers(5, 16)] = 1
    ink = ndimage.grey_dilation(ink, size=(int(rng.integers(1, 4)),) * 2)
    return cast("Picture", chest + ndimage.gaussian_filter(ink, 0.5) * rng.uniform(0.2, 0.8) * (1 - chest))


def _uneven(chest: Picture, rng: Rng) -> Picture:
    """One side, or one end, is brighter than the other."""
    slope = rng.normal(0, 0.25) * (_X - 0.5) + rng.normal(0, 0.25) * (_Y - 0.5)
    return cast("Picture", (chest + slope).clip(0, 1).astype(np.float32))


_ALTERATIONS: tuple[Callable[[Picture, Rng], Picture], ...] = (_frame, _frame, _gown, _marks, _wires, _uneven)


def _part(chest: Picture, other: Picture, rng: Rng) -> Picture:
    """A quarter of a chest, more or less, or half of it."""
    if rng.random() < 0.5:
        side = int(rng.uniform(0.38, 0.6) * SIDE)
        top, left = rng.integers(0, SIDE - side, 2)
        return chest[top : top + side, left : left + side]
    at = round(SIDE * rng.uniform(0.42, 0.58))
    return (chest[:at], chest[-at:], chest[:, :at], chest[:, -at:])[rng.integers(4)]


def _askew(chest: Picture, other: Picture, rng: Rng) -> Picture:
    turned = ndimage.rotate(chest, float(rng.uniform(28, 332)), reshape=False, order=1, mode="constant")
    return cast("Picture", turned)


def _doubled(chest: Picture, other: Picture, rng: Rng) -> Picture:
    half = SIDE // 2
    match rng.integers(3):
        case 0:
            return chest[:, :half].repeat(2, axis=1)
        case 1:
            return chest[:half].repeat(2, axis=0)
        case _:
            return np.hstack([chest, other])[:, ::2]


def _rolled(chest: Picture, other: Picture, rng: Rng) -> Picture:
    return np.roll(chest, int(rng.integers(36, 93)), axis=int(rng.integers(2)))


_TURNS: tuple[Callable[[Picture, Picture, Rng], Picture], ...] = (
    lambda chest, other, rng: 1 - chest,
    lambda chest, other, rng: 1 - chest,
    lambda chest, other, rng: chest[::-1],
    lambda chest, other, rng: chest[::-1, ::-1],
    lambda chest, other, rng: np.rot90(chest, rng.choice([1, 3])),
    _part, _part, _askew, _doubled, _rolled,
)  # fmt: skip


def chests(images: npt.NDArray[np.uint8], rng: Rng) -> Iterator[Picture]:
    """Yield chests without end, each shown anew."""
    while True:
        for row in rng.permutation(len(images)):
            yield as_exposed(images[row].astype(np.float32) / 255, rng)


def turned(images: npt.NDArray[np.uint8], rng: Rng) -> Iterator[Picture]:
    """Yield what is no chest any more, without end: of chests as they come, ill ones too."""
    while True:
        order = rng.permutation(len(images))
        for row, other in zip(order, np.roll(order, 1), strict=True):
            first, second = (as_exposed(images[k].astype(np.float32) / 255, rng) for k in (row, other))
            yield no_chest(first, second, rng)
