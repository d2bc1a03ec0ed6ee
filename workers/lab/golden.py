"""Makes the golden input of a bundle: a fictional image with its score, on which `workers.flows` tries machines."""

import numpy as np
import torch
from torch import Tensor

from triage.manifest import Manifest
from workers.flows.classifiers import NONE, Classifiers
from workers.flows.glow import quantise
from workers.flows.posterior import Posterior
from workers.flows.transform import FlowGrid, from_blocks
from workers.lab.image_set import Pixels

RADII, THICK = (0.85, 0.7), 1.2
"""Of a golden head's brain, halves of a slice's sides; and where its skull ends."""

AIR, BRAIN, BRIGHTEST, BONE = 0, 40, 70, 110
"""Grey values, HU + 14, of what is around it, of the darkest and the brightest brain, and of bone."""


def make_golden(posterior: Posterior, manifest: Manifest, classifiers: Classifiers = NONE) -> dict[str, Tensor]:
    """Draw an image from the normal flow (a head's: within a drawn skull) on the bundle's grid, and score it."""
    generator = torch.Generator().manual_seed(0)
    image = posterior.normal.sample(1, generator=generator, temperature=0.7)[0, 0]
    levels = manifest.architecture.grey_levels
    grey = quantise(image, levels).numpy().astype(np.float64)
    blocks = np.rint((grey + 0.5) / levels * (manifest.preprocessing.grey_levels - 1)).astype(np.uint8)
    if blocks.ndim == 3:
        blocks = _in_a_skull(blocks)
    pixels = from_blocks(blocks, manifest.preprocessing.size)
    normal, mixture = posterior.level_parts(FlowGrid.of(manifest)([pixels]))
    values = {name: torch.tensor([value], dtype=torch.float64) for name, value in classifiers(pixels).items()}
    return values | {
        "pixels": torch.from_numpy(blocks),
        "levels_normal": torch.from_numpy(normal[0]),
        "levels_mixture": torch.from_numpy(mixture[0]),
    }


def _in_a_skull(blocks: Pixels) -> Pixels:
    """Return a volume as brain within a skull: where there is none, the local classifier doesn't look at all."""
    rows, columns = (np.linspace(-1, 1, count) / radius for count, radius in zip(blocks.shape[1:], RADII, strict=True))
    away = np.hypot(rows[:, None], columns)
    brain = BRAIN + np.minimum(blocks, BRIGHTEST - BRAIN)
    return np.where(away < 1, brain, np.where(away < THICK, BONE, AIR)).astype(np.uint8)
