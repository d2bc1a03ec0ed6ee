"""Is this picture a frontal chest radiograph, the right way up and the right way round in grey? The image decides.

A small classifier of ours: histograms of edge directions on an 8 × 8 raster (Dalal and Triggs, CVPR 2005), projected
on the principal components of chests, and a logistic regression of those coordinates, their squares, and the two
distances from the chests' subspace. Edges, not greys, so that exposure and window hardly matter. Its few numbers are
in ``gate_cxr.npz``; `workers.images.fit_gate` makes them.
"""

from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.errors import NotScoredError

Vector = npt.NDArray[np.float64]

CELLS, DIRECTIONS, SIDE = 8, 8, 128


@dataclass(frozen=True, kw_only=True)
class ChestGate:
    """The classifier's numbers.

    Attributes
    ----------
    mean : numpy.ndarray
        float64, shape (512,): the mean chest's features.
    components : numpy.ndarray
        float64, shape (K, 512): principal components.
    deviations : numpy.ndarray
        float64, shape (K,): standard deviations along them.
    shift, scale, weights : numpy.ndarray
        float64, shape (2 K + 2,): standardisation of the regression's inputs, and its weights.
    bias, threshold : numpy.ndarray
        float64, shape (): the regression's constant; a picture at or above the threshold passes.
    """

    mean: Vector
    components: Vector
    deviations: Vector
    shift: Vector
    scale: Vector
    weights: Vector
    bias: Vector
    threshold: Vector

    def score(self, tensor: npt.NDArray[np.uint8]) -> float:
        """Return how much a picture looks like a frontal chest (log-odds); any (H, W) uint8 picture."""
        inputs = (self.inputs(edge_directions(tensor)[None]) - self.shift) / self.scale
        return float(inputs[0] @ self.weights + self.bias)

    def inputs(self, features: Vector) -> Vector:
        """Return the regression's inputs, shape (N, 2 K + 2), of features of shape (N, 512)."""
        return projected(features, self.mean, self.components, self.deviations)

    @classmethod
    def load(cls) -> Self:
        """Read the numbers that come with the package."""
        with (
            (resources.files("workers.images") / "gate_cxr.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            found = {f.name: arrays[f.name].astype(np.float64) for f in fields(cls)}
        return cls(**found)


def projected(features: Vector, mean: Vector, components: Vector, deviations: Vector) -> Vector:
    """Return coordinates in the chests' subspace, their squares, and the logs of both distances from it."""
    centred = features - mean
    along = centred @ components.T
    outside = ((centred - along @ components) ** 2).mean(axis=1, keepdims=True)
    along = along / deviations
    within = (along**2).sum(axis=1, keepdims=True)
    return np.hstack([along, along**2, np.log(outside + 1e-9), np.log(within + 1e-9)])


def edge_directions(tensor: npt.NDArray[np.uint8]) -> Vector:
    """Return a picture's histograms of edge directions, shape (512,): cells in rows, directions in each."""
    picture = _at_side(tensor.astype(np.float64))
    picture = ndimage.gaussian_filter(picture, 1.5)
    down, right = np.gradient(picture)
    strength = np.hypot(right, down)
    turn = (np.arctan2(down, right) % (2 * np.pi)) / (2 * np.pi) * DIRECTIONS
    lower = np.floor(turn).astype(int)
    share = turn - lower
    maps = np.zeros((DIRECTIONS, SIDE, SIDE))
    for direction in range(DIRECTIONS):
        maps[direction] += strength * (1 - share) * (lower % DIRECTIONS == direction)
        maps[direction] += strength * share * ((lower + 1) % DIRECTIONS == direction)
    side = SIDE // CELLS
    cells = maps.reshape(DIRECTIONS, CELLS, side, CELLS, side).sum(axis=(2, 4))
    features: Vector = np.sqrt(cells / (cells.sum() + 1e-6) * CELLS * CELLS).ravel()
    return features


def _at_side(picture: Vector) -> Vector:
    """Bring a model's grid to 128 × 128: means over blocks if it is a multiple, else by linear interpolation."""
    rows, columns = (n // SIDE for n in picture.shape)
    if rows and columns and picture.shape == (rows * SIDE, columns * SIDE):
        mean: Vector = picture.reshape(SIDE, rows, SIDE, columns).mean(axis=(1, 3))
        return mean
    factors = [SIDE / n for n in picture.shape]
    zoomed: Vector = ndimage.zoom(picture, factors, order=1, mode="nearest", grid_mode=True)
    return zoomed


@cache
def _gate() -> ChestGate:
    return ChestGate.load()


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
    gate = _gate()
    if gate.score(tensor) < gate.threshold:
        raise NotScoredError("the image does not look like a frontal chest radiograph")
