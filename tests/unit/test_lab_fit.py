"""Training: repeatable to the bit, resumable at any step, and hard to derail."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.training import ARCHITECTURE, ignore, stage
from triage.errors import ConfigurationError
from workers.lab.fit import Progress, Stage, shifted


def weights(made: Stage) -> list[torch.Tensor]:
    return [value.clone() for value in made.flow.state_dict().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_training_lowers_validation_bits(tmp_path: Path) -> None:
    seen: list[Progress] = []
    best = stage(tmp_path, epochs=8).run(seen.append)
    bits = [p.valid_bpd for p in seen if not math.isnan(p.valid_bpd)]
    assert best == min(bits) < bits[0]
    assert seen[-1].step == seen[-1].steps == 40
    assert seen[-1].train_bpd < seen[4].train_bpd


def test_the_released_codes_optimiser_trains_and_resumes_too(tmp_path: Path) -> None:
    seen: list[Progress] = []
    whole = stage(tmp_path / "a", epochs=4, optimiser="adamax")
    whole.run(seen.append)
    assert whole.optimiser.defaults["betas"] == (0.9, 1 - 1 / whole.steps_per_epoch)
    assert seen[-1].valid_bpd < seen[4].valid_bpd
    stage(tmp_path / "b", epochs=4, optimiser="adamax").run(ignore, stop_after=7)
    resumed = stage(tmp_path / "b", epochs=4, optimiser="adamax")
    resumed.resume()
    resumed.run(ignore)
    assert same(weights(whole), weights(resumed))


def test_two_runs_are_the_same_to_the_bit(tmp_path: Path) -> None:
    made = [stage(tmp_path / name) for name in ("a", "b")]
    assert made[0].run(ignore) == made[1].run(ignore)
    assert same(weights(made[0]), weights(made[1]))


@pytest.mark.parametrize("stop_after", [5, 12])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, stop_after: int) -> None:
    whole = stage(tmp_path / "whole")
    best = whole.run(ignore)
    stage(tmp_path / "cut").run(ignore, stop_after=stop_after)
    resumed = stage(tmp_path / "cut")
    assert resumed.resume()
    assert 0 < resumed.state.step <= stop_after
    assert resumed.run(ignore) == best
    assert same(weights(resumed), weights(whole))


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    done = stage(tmp_path)
    best = done.run(ignore)
    again = stage(tmp_path)
    assert again.resume()
    steps: list[Progress] = []
    assert again.run(steps.append) == best
    assert not steps
    assert same(weights(again), weights(done))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    stage(tmp_path).run(ignore)
    other = stage(tmp_path)
    other.fingerprint = "another run"
    with pytest.raises(ConfigurationError, match="other images, seed or preset"):
        other.resume()


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert not stage(tmp_path).resume()


def test_frozen_levels_stay(tmp_path: Path) -> None:
    made = stage(tmp_path, frozen_levels=1)
    before = {name: value.clone() for name, value in made.flow.state_dict().items()}
    made.run(ignore)
    changed = {
        name.split(".")[1] for name, value in made.flow.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"1"}


@pytest.mark.parametrize("frozen", [0, 1])
def test_every_part_that_is_not_frozen_learns(tmp_path: Path, frozen: int) -> None:
    architecture = ARCHITECTURE.model_copy(update={"prior": "learned"})
    made = stage(tmp_path, architecture=architecture, frozen_levels=frozen)
    before = {name: value.clone() for name, value in made.flow.named_parameters()}
    made.run(ignore)
    still = {name for name, value in made.flow.named_parameters() if torch.equal(value, before[name])}
    assert still == {name for name in before if frozen and name.split(".")[1] == "0"}
    assert any(name.startswith("priors.") for name in before)


def poison(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda gradient: torch.full_like(gradient, value)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
def test_a_step_that_would_derail_is_skipped(tmp_path: Path, value: float) -> None:
    made = stage(tmp_path, epochs=2)
    made.run(ignore, stop_after=6)
    before = weights(made)
    hook = next(iter(made.trainable)).register_hook(poison(value))
    made.run(ignore, stop_after=7)
    hook.remove()
    assert made.state.skipped == 1
    assert same(weights(made), before)
    made.run(ignore)
    assert not same(weights(made), before)


def test_steps_are_not_skipped_for_ever(tmp_path: Path) -> None:
    """Neither after a warm-up without one good step, nor where gradients have become larger for good."""
    made = stage(tmp_path, epochs=3)
    hook = next(iter(made.trainable)).register_hook(poison(math.nan))
    made.run(ignore, stop_after=4)
    hook.remove()
    made.run(ignore, stop_after=8)
    assert made.state.skipped == 4
    parameter = next(iter(made.trainable))
    parameter.register_hook(poison(30 * made.state.usual_norm / parameter.numel() ** 0.5))
    made.run(ignore)
    assert 4 < made.state.skipped < 4 + 7


def test_training_ends_when_validation_no_longer_improves(tmp_path: Path) -> None:
    seen: list[Progress] = []
    made = stage(tmp_path, epochs=60, patience=2, learning_rate=0.2, warmup_steps=1)
    made.run(seen.append)
    assert seen[-1].step < seen[-1].steps
    assert made.state.best_bpd <= min(p.valid_bpd for p in seen if not math.isnan(p.valid_bpd))


def test_checkpointing_changes_no_weight(tmp_path: Path) -> None:
    kept, again = stage(tmp_path / "kept"), stage(tmp_path / "again", checkpointing=True)
    assert again.flow.levels[0].checkpointing is True
    assert kept.run(ignore, stop_after=5) == again.run(ignore, stop_after=5)
    assert same(weights(kept), weights(again))


def test_micro_batches_add_up_to_the_batch(tmp_path: Path) -> None:
    whole, parts = stage(tmp_path / "a", micro_batch=8), stage(tmp_path / "b", micro_batch=2)
    for made in (whole, parts):
        made.run(ignore, stop_after=1)
    close = [torch.allclose(a, b, atol=1e-5) for a, b in zip(weights(whole), weights(parts), strict=True)]
    assert all(close)


def test_shifts_repeat_the_edge_and_move_whole_images() -> None:
    image = np.arange(25, dtype=np.uint8).reshape(1, 5, 5)
    found = {shifted(image, 1, np.random.default_rng(seed))[0].tobytes() for seed in range(60)}
    assert len(found) == 9
    right = np.hstack([image[0][:, :1], image[0][:, :-1]])
    assert right.astype(np.uint8).tobytes() in found
