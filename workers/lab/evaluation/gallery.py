"""Galleries: many small images on one sheet, each with a line of text."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from workers.lab.evaluation.figures import NORMAL_COLOUR, png
from workers.lab.evaluation.labels import NORMAL_LABEL
from workers.lab.evaluation.scores import Scored, Scores
from workers.lab.image_set import Pixels

COUNT = 36
COLUMNS = 6
CELL_PIXELS, GAP, STRIP, DPI = 192, 8, 32, 110
ABNORMAL_COLOUR = "#c04a00"


def most_abnormal(scores: Scores, scored: Scored, *, least: bool = False) -> bytes:
    """Draw the 36 images that a metric finds most (or least) abnormal, the extreme one first (figures 7, 8, A.21)."""
    order = np.argsort(scores if least else -scores, kind="stable")[:COUNT]
    captions, colours = [], []
    for place in order:
        labels = sorted(scored.images[place].labels)
        captions.append(f"{', '.join(labels)}\n{scores[place]:,.1f}")
        colours.append(NORMAL_COLOUR if labels == [NORMAL_LABEL] else ABNORMAL_COLOUR)
    return sheet([scored.pixels[place] for place in order], captions, colours)


def sheet(images: Sequence[Pixels], captions: Sequence[str], colours: Sequence[str] | None = None) -> bytes:
    """Draw images, row by row, with their captions above.

    Parameters
    ----------
    images : sequence of numpy.ndarray
        uint8, (H, W) or (D, H, W); of volumes three slices are shown.
    captions : sequence of str
        One an image.
    colours : sequence of str, optional
        Of the captions.
    """
    pictures = [flat(image) for image in images]
    columns = min(COLUMNS if images[0].ndim == 2 else COLUMNS // 2, len(pictures))
    rows = -(-len(pictures) // columns)
    factor = max(1, round(CELL_PIXELS / pictures[0].shape[1] * (1 if images[0].ndim == 2 else 2)))
    height, width = (n * factor for n in pictures[0].shape)
    top = max(int(picture.max()) for picture in pictures) or 1
    canvas = np.full((rows * (height + STRIP) + GAP, columns * (width + GAP) + GAP), 255, np.uint8)
    figure = Figure(figsize=(canvas.shape[1] / DPI, canvas.shape[0] / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        y, x = row * (height + STRIP) + STRIP, column * (width + GAP) + GAP
        bright = np.rint(picture.astype(np.float64) * (255 / top)).astype(np.uint8)
        canvas[y : y + height, x : x + width] = np.kron(bright, np.ones((factor, factor), np.uint8))
        line = colours[number] if colours else "black"
        axes.text(x, y - 3, _short(captions[number]), fontsize=7, color=line, va="bottom", linespacing=1.1)
    # One picture of the whole sheet: an axes for every image takes matplotlib seconds.
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    return png(figure, tight=False)


def _short(caption: str) -> str:
    return "\n".join(line if len(line) <= 26 else f"{line[:25]}…" for line in caption.split("\n"))


def flat(image: Pixels) -> Pixels:
    """Return what is shown of an image: itself, or of a volume the slices at 40, 55 and 70 % of its height."""
    if image.ndim == 2:
        return image
    depth = len(image)
    return np.concatenate([image[int(share * (depth - 1))] for share in (0.4, 0.55, 0.7)], axis=1)
