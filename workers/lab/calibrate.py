"""Calibration: what the two flows make of held-out unlabelled images is what scores are measured against."""

import numpy as np

from triage.calibration import Calibration
from workers.flows.posterior import Posterior, coarse, quantities
from workers.lab.fit import FlowGrid, shifted
from workers.lab.image_set import ImageSet
from workers.lab.presets import Preset


def calibrate(posterior: Posterior, images: ImageSet, grid: FlowGrid, *, name: str, preset: Preset) -> Calibration:
    """Make the calibration of a pair of flows.

    Parameters
    ----------
    posterior : Posterior
        The flows.
    images : ImageSet
        Unlabelled, on the bundle's grid, of patients that no flow was trained on.
    grid : FlowGrid
        From there to the flows' integers.
    name : str
        Of the reference.
    preset : Preset
        Weights of the levels, shifted copies, and how far ranges reach beyond the reference.
    """
    rng = np.random.default_rng(0)
    copies = [shifted(images.pixels, preset.flow.shift, rng) for _ in range(preset.copies)]
    pixels = np.concatenate([images.pixels, *copies])
    normal, mixture = posterior.level_parts(grid(pixels))
    template = np.mean([coarse(image) for image in images.pixels], axis=0)
    rows = [quantities(n, m, image, template) for n, m, image in zip(normal, mixture, pixels, strict=True)]
    ranges: dict[str, tuple[float, float]] = {}
    for quantity in rows[0]:
        values = [row[quantity] for row in rows]
        low, high = min(values), max(values)
        ranges[quantity] = (low - preset.margin * (high - low), high + preset.margin * (high - low))
    statistics = (mixture - normal) @ np.asarray(preset.weights)
    return Calibration(
        name=name,
        images=len(images),
        weights=preset.weights,
        reference=tuple(sorted(statistics.tolist())),
        template=tuple(template.round(3).tolist()),
        ranges=ranges,
    )
