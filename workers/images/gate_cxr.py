"""Is this picture a frontal chest radiograph, the right way up and the right way round in grey? The image decides.

A small network (`SmallNetwork`) looks at 64 × 64 greys and at their mirror image. It learned from chests with and
without illnesses, as they are exposed, framed and marked, and from what chests can be turned into, heads and drawings;
`workers.lab.gates.chest` makes its numbers, ``gate_cxr.npz``.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.errors import NotScoredError
from workers.images.small_network import Floats, Layers, SmallNetwork, shipped

SIDE = 64
LAYERS: Layers = (
    (16, (1, 3, 3), (1, 2, 2)),
    (32, (1, 3, 3), (1, 2, 2)),
    (48, (1, 3, 3), (1, 2, 2)),
    (64, (1, 3, 3), (1, 1, 1)),
    (16, (1, 1, 1), (1, 1, 1)),
)
#: Least logit of a chest: so nearly all pass of those that are drawn ill, and one in a thousand of what is no chest
#: (``python -m tests.bench.impostors``).
MIN_LOGIT = 0.6


def check_frontal_chest(tensor: npt.NDArray[np.uint8]) -> None:
    """Refuse pictures that are no frontal chest radiograph.

    Parameters
    ----------
    tensor : numpy.ndarray
        uint8, shape (H, W): the model's input.

    Raises
    ------
    NotScoredError
        If the picture doesn't look like one.
    """
    if not chest_logit(tensor) >= MIN_LOGIT:  # not a number is no chest either
        raise NotScoredError("the image does not look like a frontal chest radiograph")


def chest_logit(tensor: npt.NDArray[np.uint8]) -> float:
    """Return how surely a picture, uint8 (H, W) of any size, is a frontal chest radiograph: the mean of two logits.

    A heart on the right is a chest's, too: the mirror image has its say.
    """
    return _learned().even_logit(seen(at_side(tensor))[:, None])


def at_side(picture: npt.NDArray[np.uint8]) -> Floats:
    """Bring a model's grid to 64 × 64: means over blocks if it is a multiple, else by linear interpolation."""
    rows, columns = (n // SIDE for n in picture.shape)
    if rows and columns and picture.shape == (rows * SIDE, columns * SIDE):
        mean: Floats = picture.reshape(SIDE, rows, SIDE, columns).mean(axis=(1, 3), dtype=np.float32)
        return mean
    factors = [SIDE / n for n in picture.shape]
    zoomed: Floats = ndimage.zoom(picture.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
    return zoomed


def seen(pictures: Floats) -> Floats:
    """Return pictures, (…, H, W), 0 to 255, as the network sees them: (1, …, H, W)."""
    return (pictures / 128 - 1).astype(np.float32)[None]


@cache
def _learned() -> SmallNetwork:
    return SmallNetwork.of(LAYERS, shipped("gate_cxr.npz"))
