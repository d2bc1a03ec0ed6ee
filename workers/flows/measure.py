"""What a bundle's networks make of images, before a calibration says what that means.

The estimators, each higher for the more abnormal image:

- ``log_prob_normal``: -log p(x|normal), one flow alone, nats.
- ``plain_ratio``: log p(x) - log p(x|normal), all levels alike: minus the log posterior of the paper's equation 3.
- ``flows``: the bundle's weighted sum of the levels' ratios, the mean over an image's views.
- ``set_classifier``: the logit of the normal set against the mixture, if the bundle has such a classifier.
- ``local_classifier``: how much looks planted into a normal image, if the bundle has such a classifier.
- ``combined``: what ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from triage.calibration import COMBINED, FLOWS, Calibration
from triage.messages import Score
from workers.flows.classifiers import Classifiers, classifier_values
from workers.flows.fused import FusedFlows, Parts, latent_quantities
from workers.flows.glow import dequantise, grey_cell
from workers.flows.posterior import Posterior, part_quantities, quantities
from workers.flows.transform import FlowGrid

BATCHES = {"cpu": 1, "cuda": 32}
"""Images at once: a CPU is busy with the views of one, and then has the bits that a score has."""

Grey = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """N images as the networks see them.

    Attributes
    ----------
    levels : numpy.ndarray
        float64, (2, N, V, L), nats: every level's part of the two log densities (of the flow of normal images, then of
        the flow of all) of every view, the image itself first.
    largest : numpy.ndarray
        float64, (2, N, L): the largest |z| among every level's latents, of the image itself.
    values : tuple of dict of str to float
        The values of the estimators beside the flows, by name; see `workers.flows.classifiers`.
    cell : float
        What belongs to no level: the log of a grey level's volume, nats.
    """

    levels: Numbers
    largest: Numbers
    values: tuple[dict[str, float], ...]
    cell: float

    def __len__(self) -> int:
        return len(self.values)

    @property
    def finite(self) -> Mask:
        """Of which images all numbers are finite."""
        values = np.array([np.isfinite(list(row.values())).all() for row in self.values], dtype=bool)
        found: Mask = values & np.isfinite(self.levels).all((0, 2, 3)) & np.isfinite(self.largest).all((0, 2))
        return found

    def select(self, chosen: Mask) -> Self:
        """Return what is told of some of the images."""
        values = tuple(row for row, ok in zip(self.values, chosen, strict=True) if ok)
        return replace(self, levels=self.levels[:, chosen], largest=self.largest[:, chosen], values=values)

    def quantities(self, number: int, pixels: Grey, template: Numbers) -> dict[str, float]:
        """Return what calibration checks of one of the images itself; see `workers.flows.posterior.quantities`."""
        normal, mixture = self.levels[:, number, 0]
        found = quantities(normal, mixture, pixels, template)
        return found | latent_quantities(self.largest[:, number]) | self.values[number]

    def averaged(self, number: int) -> dict[str, float]:
        """Return those quantities of one of the images that the flows tell, of the mean over its views.

        They are checked, too: a copy on which a flow explodes would take the whole statistic with it, perhaps to the
        list's end.
        """
        return part_quantities(*self.levels[:, number].mean(1))

    def estimates(self, calibration: Calibration) -> dict[str, Numbers]:
        """Return every estimator's values, float64, (N,), by name."""
        rows = [self._estimates(calibration, number) for number in range(len(self))]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def _estimates(self, calibration: Calibration, number: int) -> dict[str, float]:
        normal, mixture = self.levels[:, number]
        found = {
            "log_prob_normal": -float(normal[0].sum()) - self.cell,
            "plain_ratio": float(mixture[0].sum() - normal[0].sum()),
            FLOWS: calibration.statistic(normal.mean(0).tolist(), mixture.mean(0).tolist()),
            **self.values[number],
        }
        return found | {COMBINED: calibration.combined(found)}


def statistics(score: Score) -> dict[str, float]:
    """Return what a score holds of every estimator, by name."""
    return {
        "log_prob_normal": -score.log_prob_normal,
        "plain_ratio": -score.log_posterior,
        FLOWS: score.flows,
        **classifier_values(score),
        COMBINED: score.combined,
    }


@dataclass(frozen=True)
class Measurer:
    """A bundle's networks, ready to be run.

    Attributes
    ----------
    run : callable
        The two flows: takes x, (N, 1, …), returns their `Parts`.
    classifiers : Classifiers
        The other estimators.
    grid : FlowGrid
        From the bundle's grid to the flows' integers.
    device : torch.device
        Where the flows compute.
    advance : callable
        Called with how many images were measured, after every few.
    """

    run: Callable[[Tensor], Parts]
    classifiers: Classifiers
    grid: FlowGrid
    device: torch.device
    advance: Callable[[int], None] = lambda count: None

    @classmethod
    def of(
        cls,
        posterior: Posterior,
        classifiers: Classifiers,
        grid: FlowGrid,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Self:
        """Make one of flows as they are now: later training doesn't reach it."""
        flows = FusedFlows([posterior.normal, posterior.mixture])
        return cls(flows.parts, classifiers, grid, flows.device, advance)

    def __call__(self, pixels: Grey) -> Measured:
        """Measure images, uint8, (N, …) on the bundle's grid, at least one."""
        levels, largest, values = [], [], []
        batch = BATCHES[self.device.type]
        for start in range(0, len(pixels), batch):
            some = pixels[start : start + batch]
            grey = self.grid.views(some)
            v = torch.from_numpy(grey.reshape(-1, *grey.shape[2:])).to(self.device).unsqueeze(1).to(torch.float32)
            parts = self.run(dequantise(v, self.grid.architecture.grey_levels))
            levels.append(parts.log_density.cpu().numpy().reshape(2, *grey.shape[:2], -1))
            largest.append(parts.largest_latent.cpu().numpy().reshape(2, *grey.shape[:2], -1)[:, :, 0])
            values += [self.classifiers(image) for image in some]
            self.advance(len(some))
        cell = grey_cell(self.grid.architecture)
        return Measured(np.concatenate(levels, 1), np.concatenate(largest, 1), tuple(values), cell)
