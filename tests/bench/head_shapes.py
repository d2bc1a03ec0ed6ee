"""Of what `tests.bench.false_heads_structured` and `false_heads_odd` make their volumes: HU on CT-ICH's raster."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Hu = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
Rng = np.random.Generator
Family = Iterator[tuple[str, Hu]]

VOXEL_MM = np.array([5.0, 1.56, 1.56])
#: mm above the lowest slice, behind the middle, left of the middle.
Z, Y, X = np.mgrid[0:32, -63.5:64, -63.5:64].astype(float) * VOXEL_MM[:, None, None, None]
AIR = -1000.0
#: Where bone encloses less, cm³, much of the brain wouldn't be replaced.
MIN_CASE_CM3 = 900.0


def depth(rng: Rng, form: str = "ellipsoid") -> Hu:
    """Return how deep in something head-sized, narrower at the top: 0 on its axis, 1 at the outside of its bone."""
    top, up = rng.uniform(138, 152), rng.uniform(72, 92)
    y = Y / rng.uniform(72, 92)
    x = X / (rng.uniform(60, 74) * (1 + rng.uniform(-0.05, 0.2) * y))  # mostly wider at the back
    if form in ("cylinder", "box"):
        across = np.hypot(y, x) if form == "cylinder" else np.maximum(abs(y), abs(x))
        return np.asarray(np.maximum(across / np.clip((top + 15 - Z) / rng.uniform(20, 45), 0.1, 1), (Z / top) ** 8))
    z = (Z - top + up) / up
    z = np.where(z < 0, z * rng.choice([0.0, 0.4, 0.8]), z)
    power = 2.0 if form == "ellipsoid" else rng.uniform(2.5, 5)
    return np.asarray((abs(y) ** power + abs(x) ** power + abs(z) ** power) ** (1 / power))


def ball(middle: Iterable[float], half_axes: Iterable[Hu | float]) -> Hu:
    squares = [((at - m) / a) ** 2 for at, m, a in zip((Z, Y, X), middle, half_axes, strict=True)]
    return np.asarray(np.sqrt(np.sum(squares, axis=0)))


def dressed(content: Hu, rho: Hu, rng: Rng, bone: Hu | None = None, base: bool = True) -> Hu:
    """Return a filling in bone and mostly a scalp; half of the time in a base of holes and bone, too."""
    hu = np.where(rho < 1 + rng.choice([0, rng.uniform(0.03, 0.1)]), rng.uniform(0, 50), AIR)
    hu = np.where(rho < 1, rng.uniform(150, 1200) if bone is None else bone, hu)
    hu = np.where(rho < 1 - rng.uniform(0.06, 0.13), content, hu)
    if base and rng.random() < 0.5:
        for value in rng.choice([AIR, 700, 50], 40):
            middle = rng.uniform((0, -80, -50), (40, 10, 50))
            hu[(ball(middle, rng.uniform(5, 18, 3)) < 1) & (rho < 0.97)] = value
    return with_grain(hu, rng)


def with_grain(hu: Hu, rng: Rng) -> Hu:
    """Return the values with partial volume in the planes, and noise as CT's."""
    blurred = ndimage.gaussian_filter(np.clip(hu, AIR, 1500), (0, *rng.uniform(0.3, 0.6, 2)))
    return np.asarray(blurred + rng.uniform(0.5, 4) * smooth(rng, 1.5) * (blurred > -900))


def smooth(rng: Rng, mm: float) -> Hu:
    """Return noise of variance 1 that correlates over so many mm."""
    spectrum = ndimage.fourier_gaussian(np.fft.rfftn(rng.standard_normal(Z.shape)), mm / VOXEL_MM, Z.shape[-1])
    noise = np.fft.irfftn(spectrum, Z.shape, (0, 1, 2))
    return np.asarray(noise / noise.std())


def along(rng: Rng) -> Hu:
    """Return mm along any direction."""
    way = rng.standard_normal(3)
    return np.asarray(((Z - 90) * way[0] + Y * way[1] + X * way[2]) / np.linalg.norm(way))


def blotches(rng: Rng) -> Hu:
    return np.asarray(rng.uniform(26, 44) + np.exp(rng.uniform(0.9, 2.7)) * smooth(rng, np.exp(rng.uniform(1.1, 3.4))))


def gradient(rng: Rng) -> Hu:
    return rng.uniform(28, 42) + rng.uniform(8, 30) * along(rng) / 75


def waves(rng: Rng, warped: float) -> Hu:
    waves = np.sin(2 * np.pi * (along(rng) / rng.uniform(10, 45) + warped * smooth(rng, 15)))
    return rng.uniform(28, 42) + rng.uniform(4, 15) * (waves if rng.random() < 0.5 else np.sign(waves))


def text(rng: Rng) -> Hu:
    picture = Image.new("L", (128, 128))
    text = str(rng.choice(["TEST\nONLY", "QA\n2024", "HEAD\nCT", "DO NOT\nREAD", "A B C\n1 2 3"]))
    font = ImageFont.load_default(int(rng.integers(20, 34)))
    ImageDraw.Draw(picture).multiline_text((64, 64), text, 255, font, anchor="mm", stroke_width=1)
    shown = np.asarray(picture) / 255 * (np.sin(Z / rng.uniform(5, 15)) > rng.uniform(-1.5, 0))
    return np.asarray(rng.uniform(25, 40) + rng.choice([-1, 1]) * rng.uniform(10, 30) * shown)


def anatomy(rho: Hu, rng: Rng) -> Hu:
    """Return a brain as one draws it: a ribbon of grey matter with furrows, white matter, ganglia, ventricles, falx."""
    grey, white, water = rng.uniform(34, 44), rng.uniform(24, 31), rng.uniform(5, 16)
    furrows = np.sin(rng.integers(14, 30) * np.arctan2(X, Y) + rng.uniform(0, 4) * smooth(rng, 14) + Z / 15)
    hu = np.where(rho > 0.72 + 0.08 * furrows, grey, white)
    hu[(furrows > rng.uniform(0.75, 0.95)) & (rho > 0.74)] = water
    wide, middle = rng.uniform(4, 9), rng.uniform(80, 95)
    for way in (-1, 1):
        hu[ball((middle, 0, way * 20), (18, 22, 13)) < 1] = grey
        for row, lean in ((-22, 0.35), (24, -0.4)):
            aside = X - way * (10 + lean * (Y - row))
            hu[np.hypot((Y - row) / 20, aside / wide) + abs(Z - middle - 5) / 15 < 1] = water
    hu[ball((middle - 15, 2, 0), (12, 12, wide / 2)) < 1] = water
    return np.where((abs(X) < 2) & (abs(Y) > 30) & (middle < Z), rng.uniform(45, 65), hu)


def outline(hu: Hu) -> Mask:
    """Return the head without its rest, holes filled."""
    labels, _ = ndimage.label(ndimage.binary_opening(hu > -5, np.ones((1, 5, 5))))
    largest = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    return np.stack([ndimage.binary_fill_holes(plane) for plane in largest])


def braincase(hu: Hu) -> Mask:
    """Return what bone encloses in the slices, its largest piece."""
    disc = np.hypot(*np.mgrid[-6:7, -6:7]) <= 6
    closed = [ndimage.binary_closing(np.pad(plane >= 75, 12), disc)[12:-12, 12:-12] for plane in hu]
    enclosed = np.stack([ndimage.binary_fill_holes(plane) & ~plane for plane in closed])
    labels, _ = ndimage.label(ndimage.binary_opening(enclosed, disc[None, 2:-2, 2:-2]))
    return np.asarray(labels == np.append(np.bincount(labels.ravel())[1:], 0).argmax() + 1)


def skulls(heads: Sequence[Hu], rng: Rng) -> Callable[[], tuple[Hu, Mask]]:
    """Return what draws a head and its braincase, of those whose skull encloses most of the brain if there are such."""
    cases = [(hu, braincase(hu)) for hu in heads]
    sizes = [float(case.sum() * VOXEL_MM.prod() / 1000) for _, case in cases]
    whole = [pair for pair, size in zip(cases, sizes, strict=True) if size >= min(MIN_CASE_CM3, max(sizes))]
    return lambda: whole[rng.integers(len(whole))]


def filled(hu: Hu, case: Mask, content: Hu, rng: Rng) -> Hu:
    """Return a head with this in its braincase, and noise as CT's with it."""
    share = ndimage.gaussian_filter(case.astype(float), (0, 0.7, 0.7))
    return np.asarray(np.clip(hu + share * (content + rng.uniform(0.5, 4) * smooth(rng, 1.5) - hu), -20, 100))


def continued(hu: Hu, case: Mask) -> Hu:
    """Return the volume with what is around the braincase replaced by the next within it."""
    inner = ndimage.binary_erosion(case, np.ones((1, 3, 3)), iterations=2)
    return np.asarray(
        hu[tuple(ndimage.distance_transform_edt(~inner, VOXEL_MM, return_distances=False, return_indices=True))]
    )


def laid(brain: Hu, inside: Mask, case: Mask, turn: Callable[[Hu], Hu]) -> Hu:
    """Return a brain, turned and stretched to the extent of a braincase."""
    turned = turn(np.stack([continued(brain, inside), inside], axis=-1))
    low, high = np.percentile(np.nonzero(turned[..., 1]), (1, 99), axis=1)
    to_low, to_high = np.percentile(np.nonzero(case), (1, 99), axis=1)
    scale = (high - low) / (to_high - to_low)
    return np.asarray(ndimage.affine_transform(turned[..., 0], scale, low - scale * to_low, order=1, mode="nearest"))


def scrambled(hu: Hu, case: Mask, rng: Rng) -> Hu:
    """Return noise with a brain's spectrum, and in the braincase with its very values."""
    spectrum = abs(np.fft.rfftn(np.where(case, hu, hu[case].mean())))
    phases = np.angle(np.fft.rfftn(rng.standard_normal(hu.shape)))
    noise, found = np.fft.irfftn(spectrum * np.exp(1j * phases), hu.shape, (0, 1, 2)), continued(hu, case)
    found[case] = np.sort(found[case])[noise[case].argsort().argsort()]
    return found


def in_blocks(hu: Hu, case: Mask, rng: Rng) -> Hu:
    """Return a braincase's blocks at random in one another's places."""
    tall, wide = int(rng.choice([2, 4])), int(rng.choice([8, 16]))
    cells, order = (32 // tall, tall, 128 // wide, wide, 128 // wide, wide), (0, 2, 4, 1, 3, 5)
    blocks = continued(hu, case).reshape(cells).transpose(order).reshape(-1, tall, wide, wide)
    within = np.flatnonzero(case.reshape(cells).any(axis=(1, 3, 5)))
    blocks[within] = blocks[rng.permutation(within)]
    return blocks.reshape([cells[axis] for axis in order]).transpose(np.argsort(order)).reshape(hu.shape)
