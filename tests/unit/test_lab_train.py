"""From two sets to a bundle, in the small: the base flow's way through grey levels; who learns from which images."""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.flows import tiny_bundle
from tests.support.training import ignore
from tests.support.whole_training import CLASSIFIER, LOCAL, SCHEDULE, ramps, run, small
from triage.bundles import Bundle
from triage.errors import ConfigurationError, TrainingDivergedError
from workers.flows.engine import Engine
from workers.lab.claim import claimed
from workers.lab.fit import Progress
from workers.lab.image_set import ImageSet
from workers.lab.rigour import read_record, update_record
from workers.lab.run import Run, Split, split
from workers.lab.train import train


def test_a_base_flow_learns_few_grey_levels_before_many(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    seen: dict[str, list[float]] = {}
    made = train(run(tmp_path, (2, 8)), lambda p: seen.setdefault(p.stage, []).append(p.valid_bpd))
    trained = ["base at 2 grey levels", "base at 8 grey levels", "base", "normal", "mixture"]
    assert list(seen) == [*trained, "calibration", "maps"]
    stages = [stage["name"] for stage in read_record(tmp_path / "small.record")["stages"]]
    assert stages == trained
    # Fewer grey levels take fewer bits: the stages really saw what their names say.
    bits = [seen[name][-1] for name in trained]
    assert bits[0] < bits[1] < bits[2]
    assert Engine(made, "cpu").flows.architecture.grey_levels == 32


def test_a_flow_that_diverges_makes_no_bundle_and_says_how_to_go_on(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    wild = SCHEDULE.model_copy(update={"learning_rate": 1.0, "clip_norm": 1e9, "frozen_levels": 1})
    preset = small(()).model_copy(update={"base": wild.model_copy(update={"frozen_levels": 0}), "flow": wild})
    ordered = Run(preset=preset, normal=ramps(80, 0), mixture=ramps(80, 1), out=tmp_path / "small")
    with pytest.raises(TrainingDivergedError, match="base flow diverged"):
        train(ordered, lambda p: None)
    assert not ordered.out.exists()
    with pytest.raises(ConfigurationError, match="did not end"):
        train(ordered, lambda p: None)


@pytest.mark.parametrize("name", ["my bundle", "Größe", ".hidden", "taken", "file"])
def test_a_place_for_no_bundle_is_told_before_training(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "SHA256SUMS").touch()
    stages: list[str] = []
    with pytest.raises(ConfigurationError):
        train(replace(run(tmp_path), out=tmp_path / name), lambda p: stages.append(p.stage))
    assert not stages


class ToldError(Exception):
    """What the classifiers learn from is known: no need to go on."""


def test_the_classifiers_learn_from_validation_images_and_never_from_those_for_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    once = SCHEDULE.model_copy(update={"epochs": 1, "frozen_levels": 1})
    recipes = {"classifier": CLASSIFIER, "local": LOCAL}
    ordered = replace(run(tmp_path), preset=small(()).model_copy(update={"base": once, "flow": once} | recipes))
    got: list[tuple[ImageSet, ImageSet]] = []

    def fit_sets(recipe: object, normal: ImageSet, mixture: ImageSet, **_: object) -> dict[str, torch.Tensor]:
        got.append((normal, mixture))
        return {"any": torch.zeros(1)}

    def fit_local(*arguments: Any, **options: object) -> None:
        fit_sets(*arguments, **options)
        raise ToldError

    monkeypatch.setattr("workers.lab.train.fit_classifier", fit_sets)
    monkeypatch.setattr("workers.lab.train.fit_local", fit_local)
    with pytest.raises(ToldError):
        train(ordered, lambda p: None)
    assert len(got) == 2
    for sets in got:
        for images, learned_from in zip((ordered.normal, ordered.mixture), sets, strict=True):
            parts: Split = split(images, ordered)
            assert sorted(learned_from.keys) == sorted(parts.train.keys + parts.valid.keys)
            assert not set(learned_from.keys) & set(parts.calibration.keys)
            own = dict(zip(images.keys, images.pixels, strict=True))
            assert all(np.array_equal(own[k], p) for k, p in zip(learned_from.keys, learned_from.pixels, strict=True))


def test_two_trainings_of_one_bundle_are_kept_apart(tmp_path: Path) -> None:
    ordered = run(tmp_path)
    with claimed(ordered.checkpoints), pytest.raises(ConfigurationError, match="another training"):
        train(ordered, lambda p: None, resume=True)
    assert not ordered.checkpoints.exists()
    with claimed(ordered.checkpoints):  # whoever held it has let it go, and so has whoever was refused
        assert ordered.checkpoints.exists()


@pytest.mark.parametrize("record", [[1, 2], {}, {"fingerprint": None}], ids=["list", "empty", "of nothing"])
def test_a_file_that_is_no_checkpoint_of_ours_is_said(tmp_path: Path, record: object) -> None:
    torch.set_num_threads(1)
    ordered = run(tmp_path)
    ordered.checkpoints.mkdir()
    if isinstance(record, dict) and record:
        record = {"fingerprint": ordered.fingerprint, "flow": {}, "average": {}, "optimiser": {}, "state": {"x": 1}}
    torch.save(record, ordered.checkpoints / "base.checkpoint")
    with pytest.raises(ConfigurationError, match="is damaged"):
        train(ordered, lambda p: None, resume=True)


def test_a_damaged_record_loses_no_training(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text('{"stages": [')
    update_record(tmp_path, {"a": 1})
    assert read_record(tmp_path) == {"a": 1}


def test_whose_images_these_are_belongs_to_what_is_resumed(tmp_path: Path) -> None:
    """The split goes by patients: after a sub-folder was renamed images would calibrate that were trained on."""
    first = run(tmp_path / "bundle")
    renamed = replace(first.normal, patients=tuple(f"{name}!" for name in first.normal.patients))
    assert replace(first, normal=renamed).fingerprint != first.fingerprint
    assert replace(first, seed=first.seed).fingerprint == first.fingerprint


ROOT = Path(__file__).parents[2]

#: Every stage and where it is interrupted: of flows in the second epoch, a few steps after the checkpoint.
INTERRUPTED = {
    "base at 2 grey levels": 16, "base": 16, "normal": 10, "mixture": 10, "classifier": 3, "local": 2, "calibration": 3,
    "maps": 0,
}  # fmt: skip
#: Where it then goes on: flows after their checkpoint, all else at its beginning, and nothing that was complete.
RESUMED = [
    ("base at 2 grey levels", 14), ("base", 14), ("normal", 8), ("mixture", 7), ("classifier", 1), ("local", 1),
    ("calibration", 1), ("calibration", 1),
]  # fmt: skip


class PulledPlugError(Exception):
    """The training ends here."""


def until(stage: str, step: int, seen: list[tuple[str, int]]) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        seen.append((progress.stage, progress.step))
        if (progress.stage, progress.step) == (stage, step):
            raise PulledPlugError

    return report


def test_a_training_that_is_interrupted_in_every_stage_makes_the_same_bundle(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    preset = small((2,)).model_copy(update={"classifier": CLASSIFIER, "local": LOCAL})
    whole, cut = (replace(run(tmp_path / name), preset=preset) for name in ("whole", "cut"))
    made = train(whole, ignore)
    attempts: list[list[tuple[str, int]]] = []
    for stage, step in INTERRUPTED.items():
        attempts.append([])
        with pytest.raises(PulledPlugError):
            train(cut, until(stage, step, attempts[-1]), resume=True)
    attempts.append([])
    assert train(cut, until("no stage", 0, attempts[-1]), resume=True).digest == made.digest
    assert [seen[0] for seen in attempts[1:]] == RESUMED
    for name in ("training.json", "curves.csv"):
        assert (cut.record / name).read_bytes() == (whole.record / name).read_bytes()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was killed when its bundle was there, and its checkpoints, too."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.support.whole_training", str(folder)]
    assert subprocess.run(command, cwd=ROOT, timeout=120, check=False).returncode == -signal.SIGKILL
    return folder


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("left", ["all", "lock"])
def test_what_a_training_left_that_was_killed_at_its_very_end_is_removed(
    killed: Path, tmp_path: Path, resume: bool, left: str
) -> None:
    ordered = run(Path(copytree(killed, tmp_path / "copy")))
    digest = Bundle.open(ordered.out).digest
    assert {one.name for one in ordered.checkpoints.iterdir()} > {"lock", "normal.checkpoint", "mixture.checkpoint"}
    if left == "lock":  # it was killed while it removed them
        for path in ordered.checkpoints.iterdir():
            path.unlink()
        (ordered.checkpoints / "lock").touch()
    with pytest.raises(ConfigurationError, match="small is complete"):
        train(ordered, ignore, resume=resume)
    assert not ordered.checkpoints.exists()
    assert Bundle.open(ordered.out).digest == digest


def test_checkpoints_beside_a_bundle_that_was_not_made_from_them_stay(killed: Path, tmp_path: Path) -> None:
    ordered = run(Path(copytree(killed, tmp_path / "copy")))
    rmtree(ordered.out)
    tiny_bundle(ordered.out)
    kept = {one.name for one in ordered.checkpoints.iterdir()}
    with pytest.raises(ConfigurationError, match="already holds a bundle"):
        train(ordered, ignore, resume=True)
    assert {one.name for one in ordered.checkpoints.iterdir()} == kept
