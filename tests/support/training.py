"""One tiny stage of training: a flow of two levels that learns ramps; a whole one that doesn't end by itself."""

from pathlib import Path

import numpy as np
import torch

from triage.manifest import Architecture, InputTransform
from workers.flows.glow import Glow, dequantise
from workers.flows.transform import FlowGrid
from workers.lab.fit import Progress, Stage
from workers.lab.image_set import ImageSet
from workers.lab.presets import Schedule

ARCHITECTURE = Architecture(size=(8, 8), grey_levels=16, depth=1, widths=(6, 6))
GRID = FlowGrid(InputTransform(), ARCHITECTURE, 16)


def images(count: int, seed: int = 0) -> ImageSet:
    """Return ramps of random slope."""
    rng = np.random.default_rng(seed)
    ramp = np.arange(8)[None, :, None] * rng.uniform(0, 2, (count, 1, 1)) + np.zeros((1, 1, 8))
    names = tuple(f"{seed}:{n}" for n in range(count))
    return ImageSet(np.clip(ramp + rng.integers(0, 3, ramp.shape), 0, 15).astype(np.uint8), names, names)


def stage(folder: Path, *, architecture: Architecture = ARCHITECTURE, **changes: object) -> Stage:
    """Return the stage of a small flow, untrained."""
    plain = {"epochs": 4, "batch": 8, "micro_batch": 4, "learning_rate": 5e-3, "warmup_steps": 4, "shift": 1}
    train = images(40)
    flow = Glow(architecture, seed=0)
    x = torch.from_numpy(train.pixels).unsqueeze(1).float()
    flow.initialise(dequantise(x, 16))
    return Stage(
        name="normal",
        flow=flow,
        train=train,
        valid=images(20, seed=1),
        grid=GRID,
        schedule=Schedule.model_validate(plain | changes),
        seed=7,
        checkpoint=folder / "normal.checkpoint",
        fingerprint="this run",
    )


def ignore(progress: Progress) -> None:
    """Take what training reports, and do nothing."""


def two_sets(folder: Path) -> list[str]:
    """Write 40 images of either set into ``folder``; return the options that name them."""
    for seed, name in enumerate(("normal", "mixture")):
        coarse = np.random.default_rng(seed).integers(40, 216, (40, 8, 8))
        np.savez(folder / f"{name}.npz", x=np.kron(coarse, np.ones((1, 16, 16))).astype(np.uint8))
    return ["--normal", str(folder / "normal.npz"), "--mixture", str(folder / "mixture.npz")]


def endless(out: Path, sets: list[str]) -> list[str]:
    """Return the command that trains a bundle, but its first flow has no end."""
    plain = ["train", "--preset", "starter-cxr", "--no-probe", "--threads", "1", "--device", "cpu", "--out", str(out)]
    settings = ("architecture.depth=1", "flow.batch=8", "flow.epochs=100000", "flow.patience=100000")
    return [*plain, *sets, *(word for setting in settings for word in ("--set", setting))]
