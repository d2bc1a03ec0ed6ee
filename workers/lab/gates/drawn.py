"""Drawn pictures that are no chests, for `workers.lab.gates.chest`: patterns, noises, scribbles, shapes and scenes."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Picture = npt.NDArray[np.floating]

SIDE = 256


def drawn(rng: np.random.Generator) -> Iterator[Picture]:
    """Yield about a thousand pictures, float32 (256, 256), 0 to 1."""
    yield from _patterns()
    for _ in range(120):
        yield _scene(rng, exponent=rng.uniform(0.6, 2.0))
        yield _shapes(rng)
        yield _lines(rng)
        yield _tubes(rng)
        yield _ovals(rng)
        yield _side_view(rng)
        yield _joint(rng)
        yield _scaled(ndimage.gaussian_filter(rng.random((SIDE, SIDE)), rng.uniform(0.3, 35)))
        yield _grating(rng)


def _grid() -> tuple[Picture, Picture]:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    return y, x


def _scaled(picture: npt.NDArray[np.float64]) -> Picture:
    scaled: Picture = ((picture - picture.min()) / max(float(np.ptp(picture)), 1e-9)).astype(np.float32)
    return scaled


def _patterns() -> Iterator[Picture]:
    y, x = _grid()
    yield x
    yield y
    yield 1 - y
    yield 1 - np.hypot(x - 0.5, y - 0.5)
    yield np.hypot(x - 0.5, y - 0.5)
    yield np.floor(x * 11) / 10
    yield np.where(np.hypot(x - 0.5, y - 0.5) < 0.3, 0.9, 0.1).astype(np.float32)
    for squares in (2, 4, 8, 16):
        yield (((x * squares).astype(int) + (y * squares).astype(int)) % 2).astype(np.float32)


def _scene(rng: np.random.Generator, exponent: float) -> Picture:
    """Noise whose power falls with frequency as in photographs of scenes (Field, JOSA A 1987)."""
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    f[0, 0] = 1
    white = np.fft.fft2(rng.standard_normal((SIDE, SIDE)))
    scene = np.fft.ifft2(white / f**exponent).real
    if rng.random() < 0.5:
        scene = np.where(scene > np.median(scene), scene + scene.std() * rng.uniform(1, 3), scene)
    return _scaled(scene)


def _shapes(rng: np.random.Generator) -> Picture:
    """Ellipses, boxes and half planes over one another."""
    y, x = _grid()
    picture = np.full((SIDE, SIDE), rng.random(), dtype=np.float64)
    for _ in range(rng.integers(2, 14)):
        (cy, cx), (a, b), turn = rng.random(2), rng.uniform(0.04, 0.4, 2), rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        inside = ((u / a) ** 2 + (v / b) ** 2 < 1, (abs(u) < a) & (abs(v) < b), u > a)[rng.integers(3)]
        picture[inside] = rng.random() * (0.6 + 0.4 * x[inside])
    return _scaled(ndimage.gaussian_filter(picture, rng.uniform(0, 2)))


def _lines(rng: np.random.Generator) -> Picture:
    """Rows of short strokes, as a page of writing."""
    ink = np.zeros((SIDE, SIDE))
    height = int(rng.integers(5, 20))
    margin = int(rng.integers(5, 60))
    for top in range(margin, SIDE - margin - height, int(height * rng.uniform(1.3, 2.2))):
        end = int(rng.integers(SIDE // 2, SIDE - margin // 2))
        at = margin
        while at < end:
            wide = int(rng.integers(1, height))
            ink[top : top + height, at : at + wide] = rng.random((height, min(wide, SIDE - at))) > 0.5
            at += wide + int(rng.integers(1, height))
    ink = ndimage.gaussian_filter(ink, rng.uniform(0.3, 1.2))
    return _scaled(1 - ink if rng.random() < 0.5 else ink)


def _tubes(rng: np.random.Generator) -> Picture:
    """One to five soft limbs with harder shafts in them, from any side."""
    y, x = _grid()
    picture = np.zeros((SIDE, SIDE))
    for _ in range(rng.integers(1, 6)):
        turn, place = rng.normal(0, 0.35) + rng.integers(2) * np.pi / 2, rng.uniform(-0.35, 0.35)
        across = (x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn) - place
        along = (y - 0.5) * np.cos(turn) - (x - 0.5) * np.sin(turn)
        width = rng.uniform(0.04, 0.25) * (1 + rng.uniform(-0.6, 0.6) * along)
        depth = np.sqrt(np.clip(1 - (across / width) ** 2, 0, None))
        shaft = width * rng.uniform(0.2, 0.6) * (1 + rng.uniform(0, 6) * along**2)
        bone = np.sqrt(np.clip(1 - (across / shaft) ** 2, 0, None))
        hollow = np.sqrt(np.clip(1 - (across / (0.6 * shaft)) ** 2, 0, None))
        picture = np.maximum(picture, 0.5 * depth + rng.uniform(0.3, 0.8) * (bone - 0.6 * hollow))
    noise = rng.standard_normal((SIDE, SIDE)) * 0.02
    return _scaled(ndimage.gaussian_filter(picture, 1.0) + noise)


def _ovals(rng: np.random.Generator) -> Picture:
    """A large oval body with few or many dark or bright parts: a cartoon of a trunk, fruit or cell."""
    y, x = _grid()
    picture = np.where(
        ((x - 0.5) / rng.uniform(0.25, 0.7)) ** 2 + ((y - 0.5) / rng.uniform(0.3, 0.8)) ** 2 < 1, 0.6, 0.0
    )
    for _ in range(rng.integers(0, 5)):
        (cy, cx), (a, b) = rng.uniform(0.2, 0.8, 2), rng.uniform(0.05, 0.25, 2)
        picture[((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1] += rng.uniform(-0.5, 0.5)
    for _ in range(rng.integers(0, 2)):
        picture[abs(x - rng.uniform(0.3, 0.7)) < rng.uniform(0.02, 0.08)] += rng.uniform(0.1, 0.5)
    return _scaled(ndimage.gaussian_filter(picture, rng.uniform(0.5, 6)) + 0.02 * rng.standard_normal((SIDE, SIDE)))


def _side_view(rng: np.random.Generator) -> Picture:
    """A trunk from the side: one dark field between a breastbone and a column of blocks, crossed by slanting ribs."""
    y, x = _grid()
    lean = rng.uniform(-0.1, 0.1)
    across = (x - 0.5 - lean * (y - 0.5)) / rng.uniform(0.3, 0.45)
    picture = np.where(across**2 + ((y - 0.55) / 0.7) ** 2 < 1, 0.6, 0.0)
    lung = ((across - rng.uniform(-0.15, 0.15)) / 0.7) ** 2 + (
        (y - rng.uniform(0.4, 0.5)) / rng.uniform(0.3, 0.42)
    ) ** 2
    picture -= 0.45 * np.clip(1.3 - lung, 0, 1)
    back = 1 - 2 * rng.integers(2)
    blocks = abs(across - back * rng.uniform(0.55, 0.8)) < rng.uniform(0.08, 0.16)
    picture += 0.3 * blocks * (0.6 + 0.4 * (np.sin(2 * np.pi * y * rng.uniform(8, 14)) > -0.3))
    ribs = np.sin(2 * np.pi * (y * rng.uniform(6, 11) + back * across * rng.uniform(0.4, 1.2)))
    picture += rng.uniform(0.05, 0.2) * (ribs > 0.6) * (lung < 1.2)
    heart = ((across + back * 0.3) / 0.35) ** 2 + ((y - 0.65) / 0.18) ** 2
    picture += rng.uniform(0.1, 0.3) * np.clip(1 - heart, 0, 1)
    noise = rng.standard_normal((SIDE, SIDE)) * rng.uniform(0.005, 0.03)
    return _scaled(ndimage.gaussian_filter(picture, rng.uniform(1, 4)) + noise)


def _joint(rng: np.random.Generator) -> Picture:
    """A limb along or across the picture whose bones are thickest where they meet."""
    y, x = _grid()
    turn = rng.normal(0, 0.2) + rng.integers(2) * np.pi / 2
    across = (x - 0.5) * np.cos(turn) + (y - 0.5) * np.sin(turn) - rng.uniform(-0.1, 0.1)
    along = (y - 0.5) * np.cos(turn) - (x - 0.5) * np.sin(turn) - rng.uniform(-0.15, 0.15)
    flesh = np.sqrt(np.clip(1 - (across / rng.uniform(0.2, 0.38)) ** 2, 0, None))
    shaft = rng.uniform(0.06, 0.12) + rng.uniform(0.05, 0.12) * np.exp(-((along / 0.12) ** 2))
    bone = np.sqrt(np.clip(1 - (across / shaft) ** 2, 0, None)) * (abs(along) > rng.uniform(0.0, 0.03))
    picture = ndimage.gaussian_filter(0.5 * flesh + rng.uniform(0.4, 0.9) * bone, rng.uniform(0.8, 3))
    return _scaled(picture + 0.2 * ndimage.gaussian_filter(picture, 20) + rng.standard_normal((SIDE, SIDE)) * 0.01)


def _grating(rng: np.random.Generator) -> Picture:
    y, x = _grid()
    turn, waves = rng.uniform(0, np.pi), rng.uniform(2, 40)
    return _scaled(np.sin(2 * np.pi * waves * (x * np.cos(turn) + y * np.sin(turn))).astype(np.float64))
