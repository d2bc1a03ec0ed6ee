"""Chests that a gate has to pass: with the worst that a night brings, and as they are exposed; 0 black to 1 white.

Made of real frontal radiographs, 128 pixels a side, mostly by other means than the gate's own examples: geometry where
those have clouds.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Picture = npt.NDArray[np.floating]

_Y, _X = np.mgrid[-1:1:128j, -1:1:128j]


def ill(chests: npt.NDArray[np.uint8], rng: np.random.Generator) -> Iterator[tuple[str, Picture]]:
    """Yield what patients have at worst."""
    for chest, other in zip(chests.astype(np.float64) / 255, np.roll(chests, 1, axis=0) / 255, strict=True):
        side = _X * rng.choice([-1, 1])
        white, black = np.quantile(chest, (0.85, 0.05))
        lung = ndimage.gaussian_filter((np.hypot((side - 0.45) / 0.35, (_Y + 0.1) / 0.7) < 1).astype(float), 3)
        yield "a white side", np.where(side > 0.05, white + rng.normal(0, 0.02, chest.shape), chest)
        yield "a white lung, heart drawn to it", np.where(side > -0.15, np.maximum(chest, white * 0.95), chest)
        yield "a lung of air alone", chest + lung * (black - chest)
        yield "fluid to the hila, both sides", np.where(rng.uniform(-0.1, 0.2) < _Y, np.maximum(chest, white), chest)
        both = lung + lung[:, ::-1]
        yield "both lungs white", chest + 0.7 * both * np.maximum(white - chest, 0)
        yield "a heart from wall to wall", np.where(np.hypot(_X / 0.8, (_Y - 0.35) / 0.5) < 1, white, chest)
        yield "many metastases", np.maximum(chest, white * 0.9 * _balls(rng, 40, 0.04, 0.09))
        yield "heart on the right", chest[:, ::-1]
        yield "curved spine", _bent(chest, 0.22)
        yield "upper lobe gone", np.where((side > 0) & (_Y < -0.25), np.maximum(chest, white * 0.97), chest)
        yield "one lung of another patient", np.where(side > 0, chest, other)


def exposed(chests: npt.NDArray[np.uint8], rng: np.random.Generator) -> Iterator[tuple[str, Picture]]:
    """Yield chests as rooms, machines and builds show them."""
    for chest in chests.astype(np.float64) / 255:
        yield "white shutters around black ones", np.pad(np.pad(chest, 6), 12, constant_values=1.0)
        yield "lead over the belly", np.where(_Y > 0.7, 1.0, chest)
        yield "chin and arms", np.where((_Y < -0.75) & (abs(_X) < 0.4) | (abs(_X) > 0.88), 0.9, chest)
        yield "the belly, too", np.vstack([chest, np.repeat(chest[-8:].mean(0, keepdims=True), 45, axis=0)])
        yield "turned by 10 degrees", ndimage.rotate(chest, 10 * rng.choice([-1, 1]), reshape=False, order=1)
        yield "turned to the side", _bent(chest, 0.12, whole=True)
        yield "a stout patient", ndimage.gaussian_filter(chest, 14) * 0.6 + chest * 0.4
        yield "grainy", chest + rng.normal(0, 0.08, chest.shape)
        cables = np.abs(_Y - 0.4 * np.sin(3 * _X + rng.uniform(0, 6))) < 0.02
        yield "cables and a pacemaker", np.where(cables | (np.hypot(_X - 0.5, _Y + 0.5) < 0.15), 1.0, chest)
        yield "too far away", np.pad(chest, 22, mode="edge")


def _balls(rng: np.random.Generator, count: int, least: float, most: float) -> Picture:
    found = np.zeros_like(_X)
    for _ in range(count):
        y, x, radius = *rng.uniform(-0.8, 0.8, 2), rng.uniform(least, most)
        found = np.maximum(found, np.hypot(_Y - y, _X - x) < radius)
    return ndimage.gaussian_filter(found, 1)


def _bent(chest: Picture, much: float, *, whole: bool = False) -> Picture:
    """Push the middle aside: in an arc, or from top to bottom."""
    bend = much * (1 - _X**2) * (1 if whole else np.cos(1.5 * _Y))
    found: Picture = ndimage.map_coordinates(chest, [(_Y + 1) * 63.5, (_X + bend + 1) * 63.5], order=1, mode="nearest")
    return found
