"""The two flows of a bundle as one estimator: every level's parts, and the quantities that calibration checks."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from workers.flows.glow import Glow, dequantise
from workers.likeness import correlation

LevelParts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Posterior:
    """Log posterior of "normal" by two flows: log p(x|normal) - log p(x), up to a constant (paper, equation 3)."""

    normal: Glow
    mixture: Glow

    @torch.inference_mode()
    def level_parts(self, grey: npt.NDArray[np.uint8], *, batch: int = 32) -> tuple[LevelParts, LevelParts]:
        """Return every level's part of ln p(x|normal) and of ln p(x).

        Parameters
        ----------
        grey : numpy.ndarray
            uint8, (N, …) on the flows' grid.
        batch : int
            Images at once; fewer where they are large.

        Returns
        -------
        normal, mixture : numpy.ndarray
            float64, (N, L), nats.
        """
        device = next(self.normal.parameters()).device
        levels = self.normal.architecture.grey_levels
        parts: tuple[list[LevelParts], list[LevelParts]] = ([], [])
        batch = self.normal.batch(batch)
        for start in range(0, len(grey), batch):
            v = torch.from_numpy(grey[start : start + batch]).to(device)
            x = dequantise(v.unsqueeze(1).to(torch.float32), levels)  # (N, 1, …)
            for flow, found in zip((self.normal, self.mixture), parts, strict=True):
                found.append(flow.level_parts(x).cpu().numpy())
        empty = np.empty((0, self.normal.architecture.levels))
        return np.concatenate([empty, *parts[0]]), np.concatenate([empty, *parts[1]])


COARSE = 8
"""Blocks an axis of the coarse grid on which an image is compared with the template."""


def coarse(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the means over `COARSE` blocks along every axis, flattened, of one image."""
    image = pixels.astype(np.float64)
    for axis in range(pixels.ndim):
        blocks = np.array_split(image, min(COARSE, pixels.shape[axis]), axis)
        image = np.concatenate([block.mean(axis=axis, keepdims=True) for block in blocks], axis)
    return image.ravel()


def quantities(
    normal: LevelParts, mixture: LevelParts, pixels: npt.NDArray[np.uint8], template: npt.NDArray[np.float64]
) -> dict[str, float]:
    """Return what calibration checks of one image, by name.

    The flows alone would let a negative or a rotated image pass: its texture is right. Plain statistics of the image
    and its likeness to the mean image don't.

    Parameters
    ----------
    normal, mixture : numpy.ndarray
        (L,): every level's part of the two log densities, nats.
    pixels : numpy.ndarray
        The image on the bundle's grid, before its input transform.
    template : numpy.ndarray
        The mean of `coarse` over the calibration's images.
    """
    found = part_quantities(normal, mixture)
    grey = pixels.astype(np.float64)
    spread = float(grey.std())
    steps = [np.abs(np.diff(grey, axis=axis)).mean() for axis in range(-2, 0)]
    found["input.mean"] = float(grey.mean())
    found["input.spread"] = spread
    found["input.detail"] = float(np.mean(steps)) / spread if spread > 0 else 0.0
    found["input.likeness"] = correlation(coarse(pixels), template)
    return found


def part_quantities(normal: LevelParts, mixture: LevelParts) -> dict[str, float]:
    """Return those of `quantities` that the flows tell."""
    found: dict[str, float] = {}
    for name, parts in (("normal", normal), ("mixture", mixture), ("ratio", mixture - normal)):
        found[name] = float(parts.sum())
        found.update({f"{name}.level{number}": float(part) for number, part in enumerate(parts, start=1)})
    return found
