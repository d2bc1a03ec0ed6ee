"""A whole training in the small: images, preset and run; as a process it kills itself when its bundle is there.

``python -m tests.support.whole_training FOLDER``
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from triage.manifest import Architecture, Classifier, InputTransform, Local, Preprocessing
from workers.lab.fit import Progress
from workers.lab.image_set import ImageSet
from workers.lab.presets import ClassifierRecipe, LocalRecipe, Preset, Schedule
from workers.lab.run import Run
from workers.lab.train import train

SCHEDULE = Schedule(epochs=2, batch=8, micro_batch=8, learning_rate=3e-3, warmup_steps=2)
LOCAL = LocalRecipe(
    spec=Local(size=(16, 16), widths=(4, 4, 4, 4), components=4, weights=(0.0, 0.0, 1.0)), steps=2, pairs=2
)
CLASSIFIER = ClassifierRecipe(spec=Classifier(size=(32, 32), blocks=(2,), statistics=("mean",)), copied=4, copies=1)


def small(progression: tuple[int, ...]) -> Preset:
    """Return a preset of tiny flows without classifiers."""
    return Preset(
        name="small",
        modality="CXR",
        preprocessing=Preprocessing(size=(16, 16), grey_levels=256),
        transform=InputTransform(pool=(2, 2), standardise=True),
        architecture=Architecture(size=(8, 8), grey_levels=32, depth=2, widths=(8, 8), shared_levels=1),
        base=SCHEDULE,
        progression=progression,
        flow=SCHEDULE.model_copy(update={"frozen_levels": 1}),
        weights=(1.0, 1.0),
    )


def ramps(count: int, seed: int) -> ImageSet:
    """Return noisy ramps of random slope, every one of another patient."""
    rng = np.random.default_rng(seed)
    ramp = np.arange(16)[None, :, None] * rng.uniform(4, 10, (count, 1, 1)) + rng.uniform(0, 60, (count, 16, 16))
    names = tuple(f"{seed}:{n}" for n in range(count))
    return ImageSet(ramp.astype(np.uint8), names, names)


def run(folder: Path, progression: tuple[int, ...] = ()) -> Run:
    """Return what trains ``folder/small``."""
    return Run(preset=small(progression), normal=ramps(80, 0), mixture=ramps(80, 1), out=folder / "small")


def main(folder: Path) -> None:
    """Train until the bundle is in its place, and no further."""
    torch.set_num_threads(1)

    def report(progress: Progress) -> None:
        if (progress.stage, progress.step) == ("maps", 1):
            os.kill(os.getpid(), signal.SIGKILL)

    train(run(folder), report)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
