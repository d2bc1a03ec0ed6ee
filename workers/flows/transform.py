"""From the grid that a study was brought onto to the integers that the flows see."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from triage.manifest import Architecture, InputTransform, Manifest
from workers.flows.views import views


def to_flow_grid(
    pixels: npt.NDArray[np.uint8], transform: InputTransform, architecture: Architecture, grey_levels: int
) -> npt.NDArray[np.uint8]:
    """Apply a bundle's input transform to one image.

    Parameters
    ----------
    pixels : numpy.ndarray
        uint8, the bundle's ``preprocessing.size``, values 0 to ``grey_levels - 1``.
    transform, architecture, grey_levels
        The bundle's; see `triage.manifest`.

    Returns
    -------
    numpy.ndarray
        uint8, ``architecture.size``, values 0 to ``architecture.grey_levels - 1``.
    """
    if transform.clip is not None:
        pixels = np.minimum(pixels, np.uint8(transform.clip))
    grey = _pooled(pixels.astype(np.float64), transform.pool) / (grey_levels - 1)
    if transform.standardise:
        spread = float(grey.std())
        # A constant image has no spread to give it; it stays mid-grey, and its calibration refuses it.
        grey = 0.5 + (grey - grey.mean()) * (transform.spread / spread if spread > 0 else 0.0)
    levels = architecture.grey_levels
    return np.clip(np.floor(grey * levels), 0, levels - 1).astype(np.uint8)


@dataclass(frozen=True)
class FlowGrid:
    """How images on the bundle's grid become the flows' integers; see `to_flow_grid`."""

    transform: InputTransform
    architecture: Architecture
    grey_levels: int

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return a bundle's."""
        return cls(manifest.transform, manifest.architecture, manifest.preprocessing.grey_levels)

    def __call__(self, pixels: Iterable[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        """Return images, (N, …), on the flows' grid."""
        grids = [to_flow_grid(image, self.transform, self.architecture, self.grey_levels) for image in pixels]
        return np.stack(grids) if grids else np.empty((0, *self.architecture.size), np.uint8)

    def views(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return images and their copies on the flows' grid, (N, V, …): as many views as the transform asks for."""
        return np.stack([self(views(image, self.transform.views)) for image in pixels])


def from_blocks(blocks: npt.NDArray[np.uint8], size: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return the image of ``size``, uint8, that is constant within blocks: golden inputs are kept as these.

    Raises
    ------
    ValueError
        If the image doesn't divide into so many blocks.
    """
    if len(size) != blocks.ndim or any(m < 1 or n % m for n, m in zip(size, blocks.shape, strict=True)):
        raise ValueError(f"{size} does not divide into {blocks.shape} blocks")
    factors = [n // m for n, m in zip(size, blocks.shape, strict=True)]
    found: npt.NDArray[np.uint8] = np.kron(blocks, np.ones(factors, np.uint8))
    return found


def _pooled(grey: npt.NDArray[np.float64], pool: tuple[int, ...]) -> npt.NDArray[np.float64]:
    blocks = grey.reshape([m for n, f in zip(grey.shape, pool, strict=True) for m in (n // f, f)])
    pooled: npt.NDArray[np.float64] = blocks.mean(axis=tuple(range(1, 2 * len(pool), 2)))
    return pooled
