"""Calibration where images are too few to keep any aside: everybody is scored by what was trained without them."""

from pathlib import Path

import numpy as np
import torch

from triage.manifest import Architecture, InputTransform, Preprocessing
from workers.lab.fit import Progress
from workers.lab.image_set import ImageSet
from workers.lab.presets import Preset, Schedule
from workers.lab.train import Run, divide, leave_out, train

COUNT = 40
SCHEDULE = Schedule(epochs=1, batch=8, micro_batch=8, learning_rate=1e-3, warmup_steps=2)
PRESET = Preset(
    name="tiny",
    modality="CXR",
    preprocessing=Preprocessing(size=(8, 8), grey_levels=16),
    transform=InputTransform(),
    architecture=Architecture(size=(8, 8), grey_levels=16, depth=1, widths=(4, 4)),
    base=SCHEDULE,
    flow=SCHEDULE,
    weights=(1.0, 1.0),
    validation_share=0.2,
    copies=1,
    folds=3,
)


def run(folder: Path) -> Run:
    """Return a run of ramps, half of them normal, four of which are kept out."""
    rng = np.random.default_rng(0)
    ramps = np.arange(8)[None, :, None] * rng.uniform(0.5, 1.5, (COUNT, 1, 1)) + rng.integers(0, 3, (COUNT, 8, 8))
    names = tuple(f"p{number}" for number in range(COUNT))
    mixture = ImageSet(np.clip(ramps, 0, 15).astype(np.uint8), names, names)
    normal = mixture.select([number % 2 == 0 for number in range(COUNT)])
    return Run(preset=PRESET, normal=normal, mixture=mixture, out=folder / "tiny", excluded=frozenset(names[:4]))


def test_every_patient_is_in_one_fold_and_every_fold_has_normals_and_others(tmp_path: Path) -> None:
    made = run(tmp_path)
    folds = divide(made)
    assert sorted(p for fold in folds for p in fold) == sorted({*made.mixture.patients} - made.excluded)
    for fold in folds:
        assert len(fold) == 12
        assert len(fold & {*made.normal.patients}) == 6


def test_an_image_is_scored_by_what_was_trained_without_its_patient(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    made = run(tmp_path)
    left_out = leave_out(made, lambda progress: None, resume=False)
    assert left_out is not None
    pixels, patients = made.mixture.pixels[4:], made.mixture.patients[4:]
    together = left_out(pixels, patients)[0]
    for fold, measure in left_out.folds:
        index = [number for number, patient in enumerate(patients) if patient in fold]
        assert np.array_equal(together[:, index], measure(pixels[index])[0])
    assert not np.array_equal(left_out.folds[0][1](pixels)[0], left_out.folds[1][1](pixels)[0])


def test_the_bundle_is_calibrated_on_everybody_but_who_was_kept_out(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    stages: list[Progress] = []
    bundle = train(run(tmp_path), stages.append)
    assert {progress.stage for progress in stages} == {
        prefix + name for prefix in ("", "fold 1 ", "fold 2 ", "fold 3 ") for name in ("base", "normal", "mixture")
    }
    calibration = bundle.calibration
    assert (calibration.images, len(calibration.reference)) == (COUNT - 4, 2 * (COUNT - 4))
    assert len(calibration.normal_reference) == COUNT // 2 - 2
    assert "without its patient" in bundle.card
