"""Pictures that are no frontal chest radiographs of kinds that made no gate but for `KNOWN`.

Everything is drawn by code, projected from head CTs of the gate's untouched half, cut from untouched chests, or comes
with installed libraries: scikit-image (CC0 and public domain, see its data/README.txt), scikit-learn (CC BY, see its
images/README.txt), Matplotlib (public domain).
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Picture = npt.NDArray[np.floating]
Family = Iterator[tuple[str, Picture]]

SIDE = 320
_Y, _X = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]


def _scaled(picture: Picture) -> Picture:
    return (picture - picture.min()) / max(float(np.ptp(picture)), 1e-9)


def _exposed(picture: Picture, rng: np.random.Generator) -> Picture:
    """Blur, scatter and quantum noise, as a detector adds them."""
    soft = ndimage.gaussian_filter(picture, rng.uniform(0.8, 2.0))
    soft = soft + 0.15 * ndimage.gaussian_filter(picture, 25) + rng.normal(0, rng.uniform(0.003, 0.02), picture.shape)
    return _scaled(soft)


def _capsule(start: npt.ArrayLike, end: npt.ArrayLike, radius: float) -> Picture:
    """Return the thickness of a cylinder with round ends, along the beam."""
    (y0, x0), (y1, x1) = np.asarray(start, float), np.asarray(end, float)
    long = (y1 - y0) ** 2 + (x1 - x0) ** 2 + 1e-9
    t = np.clip(((_Y - y0) * (y1 - y0) + (_X - x0) * (x1 - x0)) / long, 0, 1)
    away = np.hypot(_Y - y0 - t * (y1 - y0), _X - x0 - t * (x1 - x0))
    return np.sqrt(np.clip(radius**2 - away**2, 0, None))


def _ball(y: float, x: float, rows: float, columns: float) -> Picture:
    return np.sqrt(np.clip(1 - ((_Y - y) / rows) ** 2 - ((_X - x) / columns) ** 2, 0, None))


def hand(rng: np.random.Generator) -> Picture:
    """Wrist, palm and five fingers of three bones each."""
    picture = 0.8 * _ball(0.35, 0, 0.5, 0.4) + _capsule((1.2, 0), (0.7, 0), 0.25)
    for turn, long in zip(
        np.radians((-50, -18, -4, 9, 23)) + rng.normal(0, 0.06, 5), (0.55, 0.8, 0.9, 0.85, 0.7), strict=True
    ):
        at, way = np.array([0.55, 0.1 * np.sin(turn) * 4]), np.array([-np.cos(turn), np.sin(turn)])
        for part in (0.42, 0.33, 0.2, 0.15):
            end = at + way * part * long * 1.25
            picture += 1.2 * _capsule(at, end - way * 0.03, 0.05) + 0.9 * _capsule(at, end, 0.09)
            at = end
    return _exposed(picture, rng)


def long_bones(rng: np.random.Generator) -> Picture:
    """A knee, elbow or forearm: two shafts with knuckles in soft tissue."""
    lean = rng.uniform(-0.15, 0.15)
    picture = _capsule((-1.3, -lean), (1.3, lean), rng.uniform(0.4, 0.6))
    for way in (-1, 1):
        picture += 1.4 * _capsule((way * 1.3, way * lean), (way * 0.22, 0), 0.2) + 1.2 * _ball(
            way * 0.15, 0, 0.16, 0.33
        )
    picture += 0.8 * _capsule((0.3, 0.2), (1.3, 0.28 + lean), 0.08)
    return _exposed(picture, rng)


def pelvis(rng: np.random.Generator) -> Picture:
    """Iliac wings, femoral heads, spine and bowel gas."""
    picture = 1.2 * _ball(0, 0, 1.4, 1.05) + 0.7 * _capsule((-1.3, 0), (0.1, 0), 0.16)
    for way in (-1, 1):
        wing = _ball(-0.2, way * 0.48, 0.48, 0.36) - 0.75 * _ball(-0.18, way * 0.44, 0.38, 0.24)
        picture += 0.9 * np.clip(wing, 0, None) + _ball(0.45, way * 0.55, 0.17, 0.17)
        picture += _capsule((0.5, way * 0.58), (1.3, way * 0.62), 0.16)
        ring = abs(np.hypot((_Y - 0.55) / 0.9, _X - way * 0.18) - 0.14) < 0.05
        picture = picture + 0.4 * ring
    for _ in range(rng.integers(3, 9)):
        picture -= 0.4 * _ball(
            rng.uniform(-0.8, 0.1), rng.uniform(-0.5, 0.5), rng.uniform(0.05, 0.15), rng.uniform(0.05, 0.2)
        )
    return _exposed(picture, rng)


def abdomen(rng: np.random.Generator) -> Picture:
    """Spine, liver, gas, and no lungs."""
    picture = 1.3 * _ball(0, 0, 1.7, 1.0) + 0.5 * _ball(-0.5, -0.4, 0.5, 0.6)
    for y in np.arange(-1.1, 1.2, 0.24):
        picture += 0.6 * ((abs(_X) < 0.14) & (abs(_Y - y) < 0.09)) + 0.3 * _ball(y, 0.0, 0.05, 0.3)
    for _ in range(rng.integers(4, 12)):
        picture -= 0.5 * _ball(*rng.uniform(-0.7, 0.7, 2), *rng.uniform(0.04, 0.2, 2))
    return _exposed(picture, rng)


def spine(rng: np.random.Generator) -> Picture:
    """Lateral vertebrae in a curve."""
    picture = 0.8 * _ball(0, 0, 1.6, 0.8)
    bend = rng.uniform(-0.3, 0.3)
    for y in np.arange(-1.0, 1.1, rng.uniform(0.22, 0.3)):
        x = bend * (1 - y * y)
        picture += 0.9 * ((abs(_X - x) < 0.2) & (abs(_Y - y) < 0.1)) + 0.5 * _capsule(
            (y, x + 0.25), (y + 0.1, x + 0.5), 0.05
        )
    return _exposed(picture, rng)


def lateral_chest(rng: np.random.Generator) -> Picture:
    """A thorax from the side: one lung field, heart in front, spine behind, ribs aslant."""
    picture = 1.3 * _ball(0.1, 0, 1.3, 0.8) - 0.9 * _ball(0.05, 0.05, 0.85, 0.6) + 0.5 * _ball(0.35, -0.3, 0.4, 0.35)
    picture += 0.7 * _capsule((-1.2, 0.45), (1.2, 0.5), 0.12) + 0.5 * _ball(1.0, 0, 0.45, 0.7)
    for y in np.arange(-0.7, 0.8, 0.17):
        picture += 0.5 * _capsule((y, 0.5), (y + 0.25, -0.6), 0.03)
    return _exposed(picture if rng.random() < 0.5 else picture[:, ::-1], rng)


def mammogram(rng: np.random.Generator) -> Picture:
    """Half an ellipse at one edge, bright strands in it."""
    inside = np.clip(1 - (_Y / rng.uniform(0.7, 0.95)) ** 2 - ((_X + 1) / rng.uniform(1.0, 1.6)) ** 2, 0, None)
    strands = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), (3, 9))
    picture = np.sqrt(inside) * (1 + 0.5 * strands / strands.std() * (inside > 0.2))
    return _exposed(np.clip(picture, 0, None) if rng.random() < 0.5 else np.clip(picture, 0, None)[:, ::-1], rng)


def ultrasound(rng: np.random.Generator) -> Picture:
    """A sector of speckle."""
    depth, turn = np.hypot(_Y + 1.0, _X), np.arctan2(_X, _Y + 1.0)
    speckle = abs(ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), (1.2, 2.5)))
    organs = 1 - 0.8 * (_ball(*rng.uniform(-0.3, 0.5, 2), *rng.uniform(0.1, 0.4, 2)) > 0)
    return _scaled(
        speckle * organs * ((depth > 0.15) & (depth < rng.uniform(1.6, 1.95)) & (abs(turn) < rng.uniform(0.5, 0.8)))
    )


def dental(rng: np.random.Generator) -> Picture:
    """Two rows of teeth."""
    picture = 0.4 + 0.2 * _ball(0, 0, 1.2, 1.5)
    for x in np.linspace(-0.95, 0.95, rng.integers(6, 14)):
        for way in (-1, 1):
            picture += 0.8 * _capsule((way * 0.12, x), (way * 0.6, x + rng.normal(0, 0.03)), 0.8 / 12)
    return _exposed(picture, rng)


def shoulder(rng: np.random.Generator) -> Picture:
    """A ball in its socket, shaft, shoulder blade, collarbone and a corner of ribs."""
    way = rng.choice([-1, 1])
    picture = 0.8 * _ball(0.3, -way * 0.2, 1.1, 1.0) + 1.2 * _ball(-0.2, way * 0.35, 0.2, 0.2)
    picture += 1.3 * _capsule((-0.15, way * 0.4), (1.3, way * 0.6), 0.13) + _capsule(
        (-0.5, -way * 0.9), (-0.4, way * 0.3), 0.06
    )
    picture += 0.6 * _ball(0.25, -way * 0.15, 0.6, 0.25)
    for y in np.arange(-0.2, 1.0, 0.25):
        picture += 0.4 * _capsule((y, -way), (y + 0.2, -way * 0.4), 0.03)
    return _exposed(picture, rng)


def foot(rng: np.random.Generator) -> Picture:
    """Heel, ankle and toes from the side."""
    picture = 0.9 * _capsule((0.45, -0.5), (0.6, 0.8), 0.3) + _capsule((-1.2, -0.45), (0.3, -0.5), 0.32)
    picture += 1.2 * _capsule((-1.2, -0.5), (0.1, -0.5), 0.17) + 1.1 * _ball(0.5, -0.6, 0.22, 0.3)
    for y in rng.uniform(0.4, 0.6, 4):
        picture += _capsule((y, -0.1), (y + 0.12, 0.85), 0.05)
    return _exposed(picture, rng)


def barcode(rng: np.random.Generator) -> Picture:
    """Bars or the squares of a code."""
    count = int(rng.integers(12, 60))
    code = rng.random((1 if rng.random() < 0.5 else count, count)) < 0.5
    return np.kron(code, np.ones((SIDE // len(code), SIDE // count)))


def terrain(rng: np.random.Generator) -> Picture:
    """A map with contour lines."""
    height = _scaled(ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), rng.uniform(12, 40)))
    lines = (height * rng.uniform(8, 20)) % 1 < 0.12
    return np.where(lines, 0.1, 0.4 + 0.5 * height)


def test_pattern(rng: np.random.Generator) -> Picture:
    """In the manner of SMPTE and TG18: grey patches in a ring, line pairs at corners and middle, a cross-hatch."""
    picture = np.full((SIDE, SIDE), rng.uniform(0.1, 0.5))
    spacing = int(rng.integers(20, 64))
    picture[::spacing] = picture[:, ::spacing] = 1
    for number in range(12):
        y, x = 0.5 * np.sin(number / 12 * 2 * np.pi), 0.5 * np.cos(number / 12 * 2 * np.pi)
        picture[(abs(_Y - y) < 0.11) & (abs(_X - x) < 0.11)] = number / 11
    for cy, cx in ((0, 0), (-0.8, -0.8), (-0.8, 0.8), (0.8, -0.8), (0.8, 0.8)):
        patch = (abs(_Y - cy) < 0.12) & (abs(_X - cx) < 0.12)
        wave = np.sin((_X if rng.random() < 0.5 else _Y) * rng.uniform(20, 150)) > 0
        picture[patch] = wave[patch]
    if rng.random() < 0.5:
        picture[-28:-4] = np.linspace(0, 1, SIDE)
    return picture


def ramps(rng: np.random.Generator) -> Picture:
    """Gradients, straight or round, steady or stepped."""
    turn = rng.uniform(0, 2 * np.pi)
    way = _X * np.cos(turn) + _Y * np.sin(turn)
    ramp = _scaled(way if rng.random() < 0.5 else np.hypot(_X - rng.normal(0, 0.4), _Y - rng.normal(0, 0.4)))
    ramp = ramp ** rng.uniform(0.4, 2.5)
    return np.floor(ramp * 12) / 12 if rng.random() < 0.4 else ramp


def checkerboard(rng: np.random.Generator) -> Picture:
    """Fields turned by any angle."""
    turn, count = rng.uniform(0, np.pi / 2), rng.uniform(1.5, 20)
    u, v = _X * np.cos(turn) + _Y * np.sin(turn), _Y * np.cos(turn) - _X * np.sin(turn)
    return ((np.floor(u * count) + np.floor(v * count)) % 2) * rng.uniform(0.4, 1) + rng.uniform(0, 0.1)


def page(rng: np.random.Generator) -> Picture:
    """A report: real letters, headings, perhaps a table or a picture's frame."""
    words = ["CHEST", "PA", "normal", "heart", "size", "lungs", "clear", "no", "effusion", "ward", "7", "date of birth"]
    image = Image.new("L", (SIDE, SIDE), 255)
    draw, y = ImageDraw.Draw(image), int(rng.integers(5, 30))
    while y < SIDE - 20:
        size = int(rng.choice([8, 10, 12, 16, 22]))
        text = " ".join(rng.choice(words, int(rng.integers(2, 9))))
        draw.text(
            (int(rng.integers(5, 40)), y), text, fill=int(rng.integers(0, 90)), font=ImageFont.load_default(size=size)
        )
        y += int(size * rng.uniform(1.2, 2.5))
    if rng.random() < 0.4:
        top, left = rng.integers(20, 180, 2)
        draw.rectangle((left, top, left + 120, top + 100), outline=0, fill=int(rng.integers(80, 230)))
    grey = np.asarray(image, dtype=np.float64) / 255
    return 1 - grey if rng.random() < 0.4 else grey


def screenshot(rng: np.random.Generator) -> Picture:
    """Windows, bars, buttons and a plot."""
    image = Image.new("L", (SIDE, SIDE), int(rng.integers(20, 240)))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 6)):
        x, y, wide, high = (int(v) for v in rng.integers((0, 0, 60, 50), (200, 200, 240, 220)))
        draw.rectangle((x, y, x + wide, y + high), fill=int(rng.integers(0, 255)), outline=0)
        draw.rectangle((x, y, x + wide, y + 14), fill=int(rng.integers(0, 255)))
        draw.text(
            (x + 4, y + 1), "File  Edit  View", fill=int(rng.choice([0, 255])), font=ImageFont.load_default(size=10)
        )
        draw.line(
            [(x + i * 8, y + high - int(v)) for i, v in enumerate(rng.integers(5, 45, wide // 8))], fill=0, width=2
        )
    return np.asarray(image, dtype=np.float64) / 255


def nearly_blank(rng: np.random.Generator) -> Picture:
    """Air or a plate: hardly any contrast, a shade, dust, noise."""
    picture = (
        0.5
        + rng.uniform(0.005, 0.05) * _X
        + rng.uniform(0.005, 0.05) * _Y
        + rng.normal(0, rng.uniform(0.001, 0.03), _X.shape)
    )
    for _ in range(rng.integers(0, 4)):
        picture += 0.05 * _ball(*rng.uniform(-0.9, 0.9, 2), *rng.uniform(0.02, 0.3, 2))
    return np.clip(picture, 0, 1)


def noise(rng: np.random.Generator) -> Picture:
    """Salt and pepper, speckle, stripes."""
    kind = rng.integers(3)
    if kind == 0:
        return (rng.random((SIDE, SIDE)) < rng.uniform(0.05, 0.6)).astype(float)
    if kind == 1:
        return _scaled(rng.gamma(1.0, 1.0, (SIDE, SIDE)))
    return _scaled(rng.random((SIDE, 1)) + 0.3 * rng.random((SIDE, SIDE)))


DRAWN: dict[str, Callable[[np.random.Generator], Picture]] = {
    "hand": hand, "long bones": long_bones, "pelvis": pelvis, "abdomen": abdomen, "spine, lateral": spine,
    "chest, lateral (drawn)": lateral_chest, "mammogram": mammogram, "ultrasound": ultrasound, "teeth": dental,
    "test pattern": test_pattern, "shoulder": shoulder, "foot": foot, "barcode": barcode, "map": terrain,
    "ramps": ramps, "checkerboard": checkerboard, "page": page, "screenshot": screenshot,
    "nearly blank": nearly_blank, "noise": noise,
}  # fmt: skip


#: Kinds of which the gate has seen examples since, cut or drawn in another way and of other patients.
KNOWN = {
    "a half (left)", "a half (right)", "upper half", "lower half", "turned by 25 to 50 degrees", "on its side",
    "chest, lateral (drawn)", "long bones",
}  # fmt: skip


def drawn(count: int, rng: np.random.Generator) -> Family:
    """Yield ``count`` of every drawn family."""
    for name, draw in DRAWN.items():
        for _ in range(count):
            yield name, draw(rng)


def cut(chests: npt.NDArray[np.uint8], rng: np.random.Generator) -> Family:
    """Yield what is made of real chests otherwise than for the gate."""
    for chest, other in zip(chests.astype(np.float64) / 255, np.roll(chests, 1, axis=0) / 255, strict=True):
        yield "a half (left)", chest[:, :64]
        yield "a half (right)", chest[:, 64:]
        yield "upper half", chest[:64]
        yield "lower half", chest[64:]
        yield "on its side", np.rot90(chest, rng.choice([1, 3]))
        yield "upside down", chest[::-1, ::-1]
        yield "inverted, windowed", np.clip((1 - chest) * rng.uniform(0.8, 1.4) - rng.uniform(0, 0.15), 0, 1)
        yield "mirrored halves", np.hstack([chest[:, :64], chest[:, :64][:, ::-1]])[::-1]
        yield "four in one", np.block([[chest, other], [other, chest]])[::2, ::2]
        yield "tiles shuffled", _tiles(chest, rng)
        yield (
            "turned by 25 to 50 degrees",
            ndimage.rotate(chest, rng.choice([-1, 1]) * rng.uniform(25, 50), reshape=False, order=1),
        )
        yield "edges alone", _scaled(np.hypot(ndimage.sobel(chest, 0), ndimage.sobel(chest, 1)))


def _tiles(picture: Picture, rng: np.random.Generator) -> Picture:
    tiles = picture.reshape(4, 32, 4, 32).transpose(0, 2, 1, 3).reshape(16, 32, 32)[rng.permutation(16)]
    return tiles.reshape(4, 4, 32, 32).transpose(0, 2, 1, 3).reshape(128, 128)


def projected(heads: npt.NDArray[np.uint8], rng: np.random.Generator) -> Family:
    """Yield slices and projections of head CTs, as radiographs and as MR would show them."""
    for volume in heads.astype(np.float64) / 255:
        for axis, name in ((1, "skull, frontal"), (2, "skull, lateral")):
            yield name, _exposed((volume**2).mean(axis=axis)[::-1].repeat(4, axis=0), rng)
        yield "localizer of a head", _scaled(volume.mean(axis=0))
        for number in rng.integers(6, 28, 2):
            brain = volume[number]
            yield "CT slice", np.clip((brain - 0.3) * rng.uniform(1, 3), 0, 1)
            yield "MR-like slice", np.where(brain > 0.85, 0.05, np.clip(1.2 - brain, 0, 1) * (brain > 0.12))
        yield "contact sheet", np.block([[volume[8], volume[14]], [volume[20], volume[26]]])


def photographs() -> Family:
    """Yield photographs of installed libraries, whole, mirrored and in parts; none of those libraries is needed."""
    for library, folder in (
        ("skimage", "data"),
        ("sklearn", "datasets/images"),
        ("matplotlib", "mpl-data/sample_data"),
    ):
        spec = find_spec(library)
        for place in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted((Path(place) / folder).glob("*")):
                if path.suffix in (".png", ".jpg"):
                    grey = np.asarray(Image.open(path).convert("L"), dtype=np.float64) / 255
                    rows, columns = grey.shape
                    yield "photograph", grey
                    yield "photograph, negative", 1 - grey
                    yield "photograph, part", grey[rows // 6 : rows * 5 // 6, columns // 6 : columns * 5 // 6]
                    yield "photograph, upper left", grey[: rows * 2 // 3, : columns * 2 // 3]
                elif path.name == "lfw_subset.npy":
                    for face in np.load(path)[:100:4]:
                        yield "face", ndimage.zoom(face.astype(np.float64), 8, order=1)
