"""Is this picture a frontal chest radiograph, the right way up and the right way round in grey? The image decides.

A small classifier of ours with two views of the picture: histograms of edge directions on an 8 × 8 raster (Dalal and
Triggs, CVPR 2005), and the greys of a 16 × 16 raster. Each is projected on the principal components of chests. A
picture passes if a logistic regression of the coordinates, their squares, and the distances from the chests'
subspaces says so, and neither distance is larger than chests' are: so what no example of ours resembles is refused as
well. The few numbers are in ``gate_cxr.npz``; `workers.lab.gates.chest` makes them.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.errors import NotScoredError

Vector = npt.NDArray[np.float64]

CELLS, DIRECTIONS, SIDE = 8, 8, 128
GREYS = 16


@dataclass(frozen=True, kw_only=True)
class Subspace:
    """The principal components of chests in one view.

    Attributes
    ----------
    mean : numpy.ndarray
        float64, shape (F,): the mean chest's features.
    components : numpy.ndarray
        float64, shape (K, F).
    deviations : numpy.ndarray
        float64, shape (K,): standard deviations along them.
    limit : numpy.ndarray
        float64, shape (): largest log of the mean squared distance from the subspace that passes.
    """

    mean: Vector
    components: Vector
    deviations: Vector
    limit: Vector

    def inputs(self, features: Vector) -> Vector:
        """Return coordinates, their squares, and the logs of the distances outside and within, (N, 2 K + 2)."""
        centred = features - self.mean
        along = centred @ self.components.T
        outside = ((centred - along @ self.components) ** 2).mean(axis=1, keepdims=True)
        along = along / self.deviations
        within = (along**2).sum(axis=1, keepdims=True)
        return np.hstack([along, along**2, np.log(outside + 1e-9), np.log(within + 1e-9)])


@dataclass(frozen=True, kw_only=True)
class ChestGate:
    """The classifier's numbers.

    Attributes
    ----------
    edges, greys : Subspace
        The chests' subspaces in both views.
    shift, scale, weights : numpy.ndarray
        float64, one number an input: standardisation of the regression's inputs, and its weights.
    bias, threshold : numpy.ndarray
        float64, shape (): the regression's constant; a picture below the threshold is refused.
    """

    edges: Subspace
    greys: Subspace
    shift: Vector
    scale: Vector
    weights: Vector
    bias: Vector
    threshold: Vector

    def passes(self, tensor: npt.NDArray[np.uint8]) -> bool:
        """Return whether a picture, uint8 (H, W) of any size, is taken for a frontal chest radiograph."""
        edges = self.edges.inputs(edge_directions(tensor)[None])
        greys = self.greys.inputs(coarse_greys(tensor)[None])
        if edges[0, -2] > self.edges.limit or greys[0, -2] > self.greys.limit:
            return False
        inputs = (np.hstack([edges, greys]) - self.shift) / self.scale
        return bool(inputs[0] @ self.weights + self.bias >= self.threshold)

    @classmethod
    def load(cls) -> Self:
        """Read the numbers that come with the package."""
        with (
            (resources.files("workers.images") / "gate_cxr.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            found = {name: arrays[name].astype(np.float64) for name in arrays.files}
        edges, greys = (
            Subspace(**{k.removeprefix(view): v for k, v in found.items() if k.startswith(view)})
            for view in ("edges.", "greys.")
        )
        return cls(edges=edges, greys=greys, **{k: v for k, v in found.items() if "." not in k})

    def save(self, path: Path) -> None:
        """Write the numbers as `load` reads them."""
        numbers = {f"{view}.{k}": v for view in ("edges", "greys") for k, v in vars(getattr(self, view)).items()}
        numbers |= {k: v for k, v in vars(self).items() if not isinstance(v, Subspace)}
        np.savez_compressed(path, allow_pickle=False, **{k: v.astype(np.float32) for k, v in numbers.items()})


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


def coarse_greys(tensor: npt.NDArray[np.uint8]) -> Vector:
    """Return the means over a 16 × 16 raster with mean 0 and standard deviation 1, shape (256,)."""
    side = SIDE // GREYS
    greys = _at_side(tensor.astype(np.float64)).reshape(GREYS, side, GREYS, side).mean(axis=(1, 3)).ravel()
    features: Vector = (greys - greys.mean()) / (greys.std() + 1e-6)
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
    if not _gate().passes(tensor):
        raise NotScoredError("the image does not look like a frontal chest radiograph")
