"""Volumes that are no head CTs though something like bone encloses something like a brain, as HU on CT-ICH's raster.

Phantoms, drawn shells with structure in them, a nut, a melon, an egg, real skulls around what is no brain of theirs.
`structured` draws one of every family anew.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Hu = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
Rng = np.random.Generator
Family = Iterator[tuple[str, Hu]]

_MM = np.array([5.0, 1.56, 1.56])
#: mm above the lowest slice, behind the middle, left of the middle.
_z, _y, _x = np.mgrid[0:32, -63.5:64, -63.5:64].astype(float) * _MM[:, None, None, None]
_AIR = -1000.0
#: Where bone encloses less, cm³, much of the brain wouldn't be replaced.
_MIN_CASE_CM3 = 900.0
#: Ellipsoids: density; half axes to the left, front, top; middle likewise; degrees.
_SHEPP_LOGAN = (
    (2.0, 0.69, 0.92, 0.81, 0, 0, 0, 0), (-0.98, 0.6624, 0.874, 0.78, 0, -0.0184, 0, 0),
    (-0.02, 0.11, 0.31, 0.22, 0.22, 0, 0, -18), (-0.02, 0.16, 0.41, 0.28, -0.22, 0, 0, 18),
    (0.01, 0.21, 0.25, 0.41, 0, 0.35, -0.15, 0), (0.01, 0.046, 0.046, 0.05, 0, 0.1, 0.25, 0),
    (0.01, 0.046, 0.046, 0.05, 0, -0.1, 0.25, 0), (0.01, 0.046, 0.023, 0.05, -0.08, -0.605, 0, 0),
    (0.01, 0.023, 0.023, 0.02, 0, -0.606, 0, 0), (0.01, 0.023, 0.046, 0.02, 0.06, -0.605, 0, 0),
)  # fmt: skip
_KAK_SLANEY = (
    (2.0, 0.69, 0.92, 0.9, 0, 0, 0, 0), (-0.98, 0.6624, 0.874, 0.88, 0, 0, 0, 0),
    (-0.02, 0.41, 0.16, 0.21, -0.22, 0, -0.25, 108), (-0.02, 0.31, 0.11, 0.22, 0.22, 0, -0.25, 72),
    (0.02, 0.21, 0.25, 0.5, 0, 0.35, -0.25, 0), (0.02, 0.046, 0.046, 0.046, 0, 0.1, -0.25, 0),
    (0.01, 0.046, 0.023, 0.02, -0.08, -0.65, -0.25, 0), (0.01, 0.046, 0.023, 0.02, 0.06, -0.65, -0.25, 90),
    (0.02, 0.056, 0.04, 0.1, 0.06, -0.105, 0.625, 90), (-0.02, 0.056, 0.056, 0.1, 0, 0.1, 0.625, 0),
)  # fmt: skip


def structured(heads: Sequence[Hu], rng: Rng) -> Family:
    """Yield one of every family; heads are a few real ones, -20 to 100 HU, slices from below."""
    yield from _drawn(rng)
    yield from _skulls(heads, rng)


def _drawn(rng: Rng) -> Family:
    for name, table, gain in (
        ("Shepp-Logan", _SHEPP_LOGAN, 1.0),
        ("Shepp-Logan, high contrast", _SHEPP_LOGAN, rng.uniform(1.5, 3)),
        ("Kak-Slaney", _KAK_SLANEY, rng.uniform(1, 2)),
    ):
        unit, front = rng.uniform(86, 98), rng.choice([-1, 1])  # some store the rows from the back
        z = (_z - rng.uniform(135, 152)) / (unit * rng.uniform(0.9, 1.1)) + table[0][3]
        z = np.where(z < 0, z * rng.choice([1.0, 0.6]), z)
        hu = np.full(_z.shape, -1020.0)
        for density, a, b, c, *middle, degrees in table:
            x, y, angle = _x / unit - middle[0], -_y * front / unit - middle[1], np.radians(degrees)
            u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            hu[(u / a) ** 2 + (v / b) ** 2 + ((z - middle[2]) / c) ** 2 < 1] += 1000 * density
        yield name, _with_grain(hu * np.where(abs(hu) < 500, gain, 1) + 20 * gain + rng.uniform(0, 10), rng)
    for form in ("ellipsoid", "superellipsoid", "cylinder", "box"):
        yield f"{form} shell, soft filling", _dressed(_blotches(rng), _depth(rng, form), rng)
    yield "gradient in a shell", _dressed(_gradient(rng), _depth(rng), rng)
    rho = _depth(rng)
    yield "drawn head, ventricles and falx", _dressed(_anatomy(rho, rng), rho, rng)
    rho, steps = _depth(rng), rng.uniform(15, 60, 7)
    yield "nested ellipsoids", _dressed(steps[np.clip(rho * rng.integers(3, 7), 0, 6).astype(int)], rho, rng)
    yield "layers in a shell", _dressed(_waves(rng, 0), _depth(rng), rng)
    hu = np.full(_z.shape, rng.uniform(25, 45))
    for ring, widest in ((rng.uniform(38, 50), 12.0), (rng.uniform(15, 25), 6.0)):
        contrast, angles = rng.uniform(8, 30) * rng.choice([-1, 1]), np.arange(0, 6.2, rng.uniform(0.6, 1.3))
        for angle, radius in zip(angles, np.linspace(widest, 2.5, len(angles)), strict=True):
            hu[np.hypot(_y - ring * np.cos(angle), _x - ring * np.sin(angle)) < radius] += contrast
    yield "low contrast rods in a shell", _dressed(hu, _depth(rng, rng.choice(["ellipsoid", "cylinder"])), rng)
    rho = _depth(rng) * (1 + rng.uniform(0.01, 0.04) * _smooth(rng, 12))
    folds = np.sin(rho * rng.uniform(8, 14) + rng.uniform(2, 4) * _smooth(rng, rng.uniform(8, 14)))
    hu = np.where(abs(folds) < 0.35, rng.uniform(-15, 15), rng.uniform(30, 45) + 5 * folds)
    hu[(abs(_x + 4 * _smooth(rng, 20)) < 3) | ((rho > 0.82) & (folds > 0))] = rng.uniform(0, 70)
    yield "walnut", _dressed(hu, rho, rng, base=False)
    rho, around = _depth(rng), np.arctan2(_x, _y)
    rind = np.cos(rng.integers(8, 14) * around + _smooth(rng, 15))
    hu = np.where(rho > 0.85, rng.uniform(15, 30), _blotches(rng) + rng.uniform(0, 8) * np.cos(3 * around))
    hu[(abs(rho - 0.6) < 0.07) & (rind > 0.6) & (np.sin(_z / 4) > 0)] = rng.uniform(60, 85)  # the seeds
    yield "watermelon", _dressed(hu, rho, rng, bone=rng.uniform(95, 140) + 10 * rind, base=False)
    # An ostrich's, upright or lying.
    long, wide, lies = rng.uniform(70, 80), rng.uniform(58, 66), rng.random() < 0.6
    blunt = 1 + 0.12 * (_y if lies else 75 - _z) / 75
    rho = _ball((75, 0, 0), (wide, long, wide * blunt) if lies else (long, wide * blunt, wide * blunt))
    yolk = _ball(rng.uniform((70, -12, -12), (90, 12, 12)), rng.uniform(28, 38, 3))
    hu = rng.uniform(15, 35) + 2 * _smooth(rng, 15) + rng.uniform(0, 15) * (_ball((75, 0, 0), (50, 50, 45)) < 1)
    hu[np.hypot(_x - 3 * np.sin(_z / 4), _y - 3 * np.cos(_z / 4)) < 5] += 15  # the cords of the yolk
    hu = np.where(yolk < 1, rng.uniform(40, 60) + 4 * np.sin(yolk * 12), hu)
    hu[_z + rng.uniform(-25, 0) < 0] = _AIR  # the air cell
    yield "egg", _with_grain(np.where(rho < 0.93, hu, np.where(rho < 1, rng.uniform(300, 1500), _AIR)), rng)


def _skulls(heads: Sequence[Hu], rng: Rng) -> Family:
    """Yield what is made of real heads, each of one whose skull encloses most of the brain if there is such a head."""
    cases = [(hu, braincase(hu)) for hu in heads]
    sizes = [float(case.sum() * _MM.prod() / 1000) for _, case in cases]
    whole = [pair for pair, size in zip(cases, sizes, strict=True) if size >= min(_MIN_CASE_CM3, max(sizes))]

    def skull() -> tuple[Hu, Mask]:
        return whole[rng.integers(len(whole))]

    size, tall, warped = rng.uniform(10, 35), rng.uniform(20, 60), rng.uniform(0.5, 1.5)
    odd = (np.floor(_x / size) + np.floor(_y / size) + np.floor(_z / tall)) % 2 > 0
    for name, content in (
        ("noise", _blotches(rng)),
        ("a gradient", _gradient(rng)),
        ("marble", _waves(rng, warped)),
        ("a checker", np.where(odd, rng.uniform(38, 60), rng.uniform(8, 30))),
        ("text", _text(rng)),
    ):
        yield f"skull of {name}", filled(*skull(), content, rng)
    hu, case = skull()
    blurred = ndimage.gaussian_filter(_continued(hu, case), rng.uniform(22, 35) / _MM)
    yield "skull of a blurred constant", filled(hu, case, blurred, rng)
    deep = np.stack([ndimage.distance_transform_edt(plane) for plane in case])
    rings = np.sin(2 * np.pi * deep / deep.max() * rng.uniform(2, 4))
    yield "skull of rings", filled(hu, case, rng.uniform(28, 42) + rng.uniform(5, 20) * rings, rng)
    hu, case = skull()
    yield "skull of scrambled phases", filled(hu, case, _scrambled(hu, case, rng), rng)
    hu, case = skull()
    yield "skull of shuffled blocks", filled(hu, case, _in_blocks(hu, case, rng), rng)
    turns: dict[str, Callable[[Hu], Hu]] = {
        "turned by 180 degrees": lambda a: np.rot90(a, 2, axes=(1, 2)),
        "front to back": lambda a: a[:, ::-1],
        "turned by 90 degrees": lambda a: np.rot90(a, int(rng.choice([1, 3])), axes=(1, 2)),
    }
    for name, turn in turns.items():
        hu, case = skull()
        yield f"brain {name} in a skull", filled(hu, case, laid(*skull(), case, turn), rng)
    rho = _depth(rng)
    yield "brain turned by 90 degrees in a shell", _dressed(laid(*skull(), rho < 0.9, turn), rho, rng, base=False)
    hu, share = skull()[0], rng.uniform(0.4, 0.6)
    rows = np.flatnonzero(_outline(hu).any(axis=(0, 2)))
    bony = np.where(hu > 90, 600, hu)
    mirrored = np.roll(bony[:, ::-1], rows[0] + rows[-1] - 127, axis=1)
    yield "averaged with its mirror image, front to back", np.clip(share * bony + (1 - share) * mirrored, -20, 100)
    other = bony[::-1] if rng.random() < 0.5 else turns["turned by 180 degrees"](bony[::-1])
    yield "double exposure, once upside down", np.clip(share * bony + (1 - share) * other, -20, 100)
    rho, hu = np.hypot(_y / 90, _x / 70), np.full(_z.shape, _AIR)
    plane = _dressed(_anatomy(rho, rng), rho, rng, base=False)[18]
    for out, head in zip(hu, _outline(skull()[0]), strict=True):
        if head.any():
            ends = np.percentile(np.nonzero(head), (0.5, 99.5), axis=1)
            scale = np.array([119, 94]) / (ends[1] - ends[0])
            ndimage.affine_transform(plane, scale, 63.5 - scale * ends.mean(axis=0), output=out, order=1, cval=_AIR)
    yield "one drawn slice scaled by an outline", hu


def _depth(rng: Rng, form: str = "ellipsoid") -> Hu:
    """Return how deep in something head-sized, narrower at the top: 0 on its axis, 1 at the outside of its bone."""
    top, up = rng.uniform(138, 152), rng.uniform(72, 92)
    y = _y / rng.uniform(72, 92)
    x = _x / (rng.uniform(60, 74) * (1 + rng.uniform(-0.05, 0.2) * y))  # mostly wider at the back
    if form in ("cylinder", "box"):
        across = np.hypot(y, x) if form == "cylinder" else np.maximum(abs(y), abs(x))
        return np.asarray(np.maximum(across / np.clip((top + 15 - _z) / rng.uniform(20, 45), 0.1, 1), (_z / top) ** 8))
    z = (_z - top + up) / up
    z = np.where(z < 0, z * rng.choice([0.0, 0.4, 0.8]), z)
    power = 2.0 if form == "ellipsoid" else rng.uniform(2.5, 5)
    return np.asarray((abs(y) ** power + abs(x) ** power + abs(z) ** power) ** (1 / power))


def _ball(middle: Iterable[float], half_axes: Iterable[Hu | float]) -> Hu:
    squares = [((at - m) / a) ** 2 for at, m, a in zip((_z, _y, _x), middle, half_axes, strict=True)]
    return np.asarray(np.sqrt(np.sum(squares, axis=0)))


def _dressed(content: Hu, rho: Hu, rng: Rng, bone: Hu | None = None, base: bool = True) -> Hu:
    """Return a filling in bone and mostly a scalp; half of the time in a base of holes and bone, too."""
    hu = np.where(rho < 1 + rng.choice([0, rng.uniform(0.03, 0.1)]), rng.uniform(0, 50), _AIR)
    hu = np.where(rho < 1, rng.uniform(150, 1200) if bone is None else bone, hu)
    hu = np.where(rho < 1 - rng.uniform(0.06, 0.13), content, hu)
    if base and rng.random() < 0.5:
        for value in rng.choice([_AIR, 700, 50], 40):
            middle = rng.uniform((0, -80, -50), (40, 10, 50))
            hu[(_ball(middle, rng.uniform(5, 18, 3)) < 1) & (rho < 0.97)] = value
    return _with_grain(hu, rng)


def _with_grain(hu: Hu, rng: Rng) -> Hu:
    """Return the values with partial volume in the planes, and noise as CT's."""
    blurred = ndimage.gaussian_filter(np.clip(hu, _AIR, 1500), (0, *rng.uniform(0.3, 0.6, 2)))
    return np.asarray(blurred + rng.uniform(0.5, 4) * _smooth(rng, 1.5) * (blurred > -900))


def _smooth(rng: Rng, mm: float) -> Hu:
    """Return noise of variance 1 that correlates over so many mm."""
    spectrum = ndimage.fourier_gaussian(np.fft.rfftn(rng.standard_normal(_z.shape)), mm / _MM, _z.shape[-1])
    noise = np.fft.irfftn(spectrum, _z.shape, (0, 1, 2))
    return np.asarray(noise / noise.std())


def _along(rng: Rng) -> Hu:
    """Return mm along any direction."""
    way = rng.standard_normal(3)
    return np.asarray(((_z - 90) * way[0] + _y * way[1] + _x * way[2]) / np.linalg.norm(way))


def _blotches(rng: Rng) -> Hu:
    return np.asarray(rng.uniform(26, 44) + np.exp(rng.uniform(0.9, 2.7)) * _smooth(rng, np.exp(rng.uniform(1.1, 3.4))))


def _gradient(rng: Rng) -> Hu:
    return rng.uniform(28, 42) + rng.uniform(8, 30) * _along(rng) / 75


def _waves(rng: Rng, warped: float) -> Hu:
    waves = np.sin(2 * np.pi * (_along(rng) / rng.uniform(10, 45) + warped * _smooth(rng, 15)))
    return rng.uniform(28, 42) + rng.uniform(4, 15) * (waves if rng.random() < 0.5 else np.sign(waves))


def _text(rng: Rng) -> Hu:
    picture = Image.new("L", (128, 128))
    text = str(rng.choice(["TEST\nONLY", "QA\n2024", "HEAD\nCT", "DO NOT\nREAD", "A B C\n1 2 3"]))
    font = ImageFont.load_default(int(rng.integers(20, 34)))
    ImageDraw.Draw(picture).multiline_text((64, 64), text, 255, font, anchor="mm", stroke_width=1)
    shown = np.asarray(picture) / 255 * (np.sin(_z / rng.uniform(5, 15)) > rng.uniform(-1.5, 0))
    return np.asarray(rng.uniform(25, 40) + rng.choice([-1, 1]) * rng.uniform(10, 30) * shown)


def _anatomy(rho: Hu, rng: Rng) -> Hu:
    """Return a brain as one draws it: a ribbon of grey matter with furrows, white matter, ganglia, ventricles, falx."""
    grey, white, water = rng.uniform(34, 44), rng.uniform(24, 31), rng.uniform(5, 16)
    furrows = np.sin(rng.integers(14, 30) * np.arctan2(_x, _y) + rng.uniform(0, 4) * _smooth(rng, 14) + _z / 15)
    hu = np.where(rho > 0.72 + 0.08 * furrows, grey, white)
    hu[(furrows > rng.uniform(0.75, 0.95)) & (rho > 0.74)] = water
    wide, middle = rng.uniform(4, 9), rng.uniform(80, 95)
    for way in (-1, 1):
        hu[_ball((middle, 0, way * 20), (18, 22, 13)) < 1] = grey
        for row, lean in ((-22, 0.35), (24, -0.4)):
            aside = _x - way * (10 + lean * (_y - row))
            hu[np.hypot((_y - row) / 20, aside / wide) + abs(_z - middle - 5) / 15 < 1] = water
    hu[_ball((middle - 15, 2, 0), (12, 12, wide / 2)) < 1] = water
    return np.where((abs(_x) < 2) & (abs(_y) > 30) & (_z > middle), rng.uniform(45, 65), hu)


def _outline(hu: Hu) -> Mask:
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


def filled(hu: Hu, case: Mask, content: Hu, rng: Rng) -> Hu:
    """Return a head with this in its braincase, and noise as CT's with it."""
    share = ndimage.gaussian_filter(case.astype(float), (0, 0.7, 0.7))
    return np.asarray(np.clip(hu + share * (content + rng.uniform(0.5, 4) * _smooth(rng, 1.5) - hu), -20, 100))


def _continued(hu: Hu, case: Mask) -> Hu:
    """Return the volume with what is around the braincase replaced by the next within it."""
    inner = ndimage.binary_erosion(case, np.ones((1, 3, 3)), iterations=2)
    return np.asarray(
        hu[tuple(ndimage.distance_transform_edt(~inner, _MM, return_distances=False, return_indices=True))]
    )


def laid(brain: Hu, inside: Mask, case: Mask, turn: Callable[[Hu], Hu]) -> Hu:
    """Return a brain, turned and stretched to the extent of a braincase."""
    turned = turn(np.stack([_continued(brain, inside), inside], axis=-1))
    low, high = np.percentile(np.nonzero(turned[..., 1]), (1, 99), axis=1)
    to_low, to_high = np.percentile(np.nonzero(case), (1, 99), axis=1)
    scale = (high - low) / (to_high - to_low)
    return np.asarray(ndimage.affine_transform(turned[..., 0], scale, low - scale * to_low, order=1, mode="nearest"))


def _scrambled(hu: Hu, case: Mask, rng: Rng) -> Hu:
    """Return noise with a brain's spectrum, and in the braincase with its very values."""
    spectrum = abs(np.fft.rfftn(np.where(case, hu, hu[case].mean())))
    phases = np.angle(np.fft.rfftn(rng.standard_normal(hu.shape)))
    noise, found = np.fft.irfftn(spectrum * np.exp(1j * phases), hu.shape, (0, 1, 2)), _continued(hu, case)
    found[case] = np.sort(found[case])[noise[case].argsort().argsort()]
    return found


def _in_blocks(hu: Hu, case: Mask, rng: Rng) -> Hu:
    """Return a braincase's blocks at random in one another's places."""
    tall, wide = int(rng.choice([2, 4])), int(rng.choice([8, 16]))
    cells, order = (32 // tall, tall, 128 // wide, wide, 128 // wide, wide), (0, 2, 4, 1, 3, 5)
    blocks = _continued(hu, case).reshape(cells).transpose(order).reshape(-1, tall, wide, wide)
    within = np.flatnonzero(case.reshape(cells).any(axis=(1, 3, 5)))
    blocks[within] = blocks[rng.permutation(within)]
    return blocks.reshape([cells[axis] for axis in order]).transpose(np.argsort(order)).reshape(hu.shape)
