"""Draws a relevance map beside the image that it belongs to. Pixels and words only: no DICOM here."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from triage.pictures import Picture

Rgb = npt.NDArray[np.uint8]

WARNING = "AI TRIAGE - NOT FOR DIAGNOSIS"
RESEARCH = (
    "Research use only. Neither finding nor measurement. What has no colour is not normal: read the original images."
)
OVERLAY = "The same with the relevance map"
# The score has more estimators than the map has: one that looks at the whole image may have raised it.
NOWHERE = "Relevance map: no place stands out"

#: The map's colours begin at the first and are full at the second, standard deviations above the mean of normals.
FROM_SD, TO_SD = 2.0, 8.0
_OPACITY = 0.65
# Dark violet to yellow, ever lighter, so that it reads the same in grey and with any colour vision.
_COLOURS = ((0.0, (94, 35, 158)), (0.35, (181, 54, 122)), (0.7, (251, 135, 97)), (1.0, (252, 253, 191)))

_BACKGROUND, _TEXT, _QUIET, _AMBER, _INK = (14, 16, 20), (226, 230, 236), (150, 158, 170), (255, 191, 71), (20, 16, 8)
_MARGIN, _GAP, _PANEL, _BAR, _HEAD, _CAPTION, _STRIP = 24, 20, 600, 14, 46, 30, 260


def draw(pictures: Sequence[Picture], *, title: str, subtitle: str) -> Rgb:
    """Return the first picture as it is, beside it the same with the map on it, below it the other ones.

    Parameters
    ----------
    pictures : sequence of Picture
        At least one.
    title, subtitle : str
        What made the map; without identifiers of the patient.

    Returns
    -------
    numpy.ndarray
        uint8, (H, W, 3), RGB.
    """
    first, others = pictures[0], pictures[1:5]
    panel = _fitted(first.grey.shape, (_PANEL, _PANEL))
    legend = 96
    width = 2 * _MARGIN + 2 * panel[1] + 2 * _GAP + legend
    strip = _STRIP + _CAPTION + _GAP if others else 0
    top = _MARGIN + _HEAD + 58
    height = top + _CAPTION + panel[0] + _GAP + strip + 34 + _MARGIN
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    _heading(pen, width, title, subtitle)
    left, right = _MARGIN, _MARGIN + panel[1] + _GAP
    at = first.caption
    pen.text((left, top), "Image" + (f", {at}" if at else ""), _TEXT, _font(16))
    pen.text((right, top), OVERLAY if stands_out(pictures) else NOWHERE, _TEXT, _font(16))
    y = top + _CAPTION
    canvas.paste(_scaled(np.repeat(first.grey[..., None], 3, axis=2), panel), (left, y))
    canvas.paste(_scaled(overlaid(first), panel), (right, y))
    _legend(canvas, pen, (right + panel[1] + _GAP, y), panel[0])
    y += panel[0] + _GAP
    if others:
        _strip(canvas, pen, others, y, width)
    pen.text((_MARGIN, height - _MARGIN - 18), RESEARCH, _QUIET, _font(14))
    return np.asarray(canvas)


def stands_out(pictures: Sequence[Picture]) -> bool:
    """Return whether any place of the maps gets a colour."""
    return any(bool((picture.deviations > FROM_SD).any()) for picture in pictures)


def overlaid(picture: Picture) -> Rgb:
    """Return a picture with its map in colours, uint8, (H, W, 3); below `FROM_SD` it stays as it is."""
    place = np.clip((picture.deviations - FROM_SD) / (TO_SD - FROM_SD), 0, 1)
    grey = np.repeat(picture.grey[..., None].astype(np.float64), 3, axis=2)
    # Fading in at the lower end: no edge where nothing is.
    opacity = (_OPACITY * np.clip(place * 6, 0, 1))[..., None]
    mixed: Rgb = np.rint(grey * (1 - opacity) + colours(place) * opacity).astype(np.uint8)
    return mixed


def colours(place: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return the colours of numbers from 0 to 1, float64, (…, 3), 0 to 255."""
    stops = [stop for stop, _ in _COLOURS]
    return np.stack([np.interp(place, stops, [colour[c] for _, colour in _COLOURS]) for c in range(3)], axis=-1)


def _heading(pen: ImageDraw.ImageDraw, width: int, title: str, subtitle: str) -> None:
    pen.rectangle((0, 0, width, _HEAD), _AMBER)
    pen.text((width / 2, _HEAD / 2), WARNING, _INK, _font(24), anchor="mm")
    pen.text((_MARGIN, _HEAD + 14), title, _TEXT, _font(19))
    pen.text((_MARGIN, _HEAD + 41), subtitle, _QUIET, _font(15))


def _legend(canvas: Image.Image, pen: ImageDraw.ImageDraw, corner: tuple[int, int], height: int) -> None:
    x, y = corner
    ramp = np.linspace(1, 0, height)[:, None] * np.ones((1, _BAR))
    canvas.paste(Image.fromarray(np.rint(colours(ramp)).astype(np.uint8), "RGB"), (x, y))
    steps = int(TO_SD - FROM_SD)
    for step in range(0, steps + 1, 2):
        level = y + height - 1 - step * (height - 1) / steps
        pen.line((x + _BAR, level, x + _BAR + 5, level), _QUIET)
        anchor = "ld" if step == 0 else ("lt" if step == steps else "lm")
        sign = "+" if step == steps else ""
        pen.text((x + _BAR + 9, level), f"{FROM_SD + step:.0f}{sign} SD", _TEXT, _font(14), anchor=anchor)
    words = ("above", "normal", "images", "at the", "same", "place")
    for number, word in enumerate(words):
        pen.text((x + _BAR + 9, y + height * 0.40 + 17 * number), word, _QUIET, _font(13))


def _strip(canvas: Image.Image, pen: ImageDraw.ImageDraw, pictures: Sequence[Picture], y: int, width: int) -> None:
    """Draw further pictures small, with their maps, left to right."""
    cell = (width - 2 * _MARGIN - 3 * _GAP) // 4
    for number, picture in enumerate(pictures):
        x = _MARGIN + number * (cell + _GAP)
        size = _fitted(picture.grey.shape, (_STRIP, cell))
        canvas.paste(_scaled(overlaid(picture), size), (x, y))
        pen.text((x, y + _STRIP + 6), picture.caption, _QUIET, _font(14))


def _fitted(shape: tuple[int, ...], box: tuple[int, int]) -> tuple[int, int]:
    scale = min(box[0] / shape[0], box[1] / shape[1])
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _scaled(rgb: Rgb, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(rgb, "RGB").resize((size[1], size[0]), Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Pillow's own: no machine lacks it, so the same map is the same bytes everywhere.
    return ImageFont.load_default(size)
