"""One model input in, one score out."""

import math
import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import ndimage

from tests.support.flows import grey, resum, tiny_bundle, tiny_calibration, tiny_manifest
from triage.bundles import Bundle
from triage.calibration import UNLIKE
from triage.errors import BundleError
from triage.messages import ModelInput
from workers.flows.classifiers import NONE
from workers.flows.engine import Engine, choose_device
from workers.flows.glow import dequantise
from workers.flows.measure import Measurer, statistics
from workers.flows.replay import Replay, fastest
from workers.flows.transform import FlowGrid, to_flow_grid
from workers.flows.views import views


def chest(seed: int = 0) -> ModelInput:
    return ModelInput(modality="CXR", pixels=grey((8, 8), 256, seed))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "tiny")


def test_a_score_says_what_made_it_and_adds_up(bundle: Bundle) -> None:
    score = Engine(bundle, "cpu").score(chest())
    assert (score.bundle_name, score.bundle_version, score.bundle_digest) == ("tiny", "0.1", bundle.digest)
    assert (score.calibration, score.compute, score.not_scored) == ("test", "cpu float32", "")
    cell = -16 * math.log(16)
    assert score.log_prob_normal == pytest.approx(math.fsum(score.levels_normal) + cell)
    assert score.log_prob_mixture == pytest.approx(math.fsum(score.levels_mixture) + cell)
    assert score.log_posterior == pytest.approx(score.log_prob_normal - score.log_prob_mixture)
    assert 0 <= score.percentile <= 100
    assert score.model_time_s > 0


def test_a_volume_is_scored_too(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "ct", "BCT")
    score = Engine(bundle, "cpu").score(ModelInput(modality="BCT", pixels=grey((8, 8, 8), 128)))
    assert len(score.levels_normal) == len(score.levels_mixture) == 2


def test_scoring_again_or_in_another_engine_gives_the_very_same_numbers(bundle: Bundle) -> None:
    engine = Engine(bundle, "cpu")
    scores = [engine.score(chest()), engine.score(chest()), Engine(Bundle.open(bundle.folder), "cpu").score(chest())]
    assert len({(s.log_prob_normal, s.log_prob_mixture, *s.levels_normal) for s in scores}) == 1


@pytest.mark.parametrize("modality", ["CXR", "BCT"])
def test_the_flows_statistic_is_a_mean_over_views_and_all_else_is_of_the_image_itself(
    tmp_path: Path, modality: Literal["CXR", "BCT"]
) -> None:
    one, several = (
        Engine(tiny_bundle(tmp_path / str(count) / "tiny", modality, views=count), "cpu") for count in (1, 4)
    )
    grid = one.bundle.preprocessing
    image = ndimage.gaussian_filter(grey(grid.size, grid.grey_levels), 1)
    alone = [one.score(ModelInput(modality=modality, pixels=view)) for view in views(image, 4)]
    found = several.score(ModelInput(modality=modality, pixels=image))
    ratios = [score.flows for score in alone]
    assert ratios[0] == pytest.approx(-alone[0].log_posterior)
    assert len(set(ratios)) > 1
    assert found.flows == pytest.approx(np.mean(ratios))
    assert found.combined == found.flows
    assert found.levels_normal == pytest.approx(alone[0].levels_normal)
    assert found.levels_mixture == pytest.approx(alone[0].levels_mixture)
    assert found.log_posterior == pytest.approx(alone[0].log_posterior)


def test_a_copy_that_takes_the_statistic_out_of_range_is_told_as_unlike(tmp_path: Path) -> None:
    image = ModelInput(modality="CXR", pixels=ndimage.gaussian_filter(grey((8, 8), 256), 1))
    free = [Engine(tiny_bundle(tmp_path / f"free{count}", views=count), "cpu").score(image) for count in (1, 4)]
    own, mean = (score.flows for score in free)
    near = abs(mean - own) / 2
    assert near > 0
    narrow = tiny_calibration(template=(0.0,) * 64, ranges={"ratio": (own - near, own + near)})
    alone, with_copies = (
        Engine(tiny_bundle(tmp_path / f"narrow{count}", calibration=narrow, views=count), "cpu").score(image)
        for count in (1, 4)
    )
    assert (alone.not_scored, with_copies.not_scored) == ("", UNLIKE)


def test_a_score_and_the_laboratory_say_the_same_of_an_image_with_views(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny", views=3)
    engine = Engine(bundle, "cpu")
    inputs = [chest(seed) for seed in range(5)]
    in_training = Measurer.of(engine.posterior, NONE, FlowGrid.of(bundle.manifest))
    tables = [measure(stacked(inputs)).estimates(bundle.calibration) for measure in (engine.measure, in_training)]
    for number, one in enumerate(inputs):
        row = statistics(engine.score(one))
        for table in tables:
            assert row == {name: values[number] for name, values in table.items()}


def stacked(inputs: list[ModelInput]) -> np.ndarray:
    return np.stack([one.pixels for one in inputs])


def test_the_percentile_rises_as_the_log_posterior_falls(bundle: Bundle) -> None:
    engine = Engine(bundle, "cpu")
    scores = sorted((engine.score(chest(seed)) for seed in range(12)), key=lambda s: s.log_posterior)
    percentiles = [s.percentile for s in scores]
    assert percentiles == sorted(percentiles, reverse=True)
    assert len(set(percentiles)) > 1


def test_what_is_out_of_the_calibrated_range_is_not_scored(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "strict", calibration=tiny_calibration(ranges={"normal.level1": (0.0, 0.1)}))
    assert Engine(bundle, "cpu").score(chest()).not_scored == UNLIKE


def test_an_overflowing_flow_gives_a_reason_not_a_rank(bundle: Bundle) -> None:
    path = bundle.folder / "mixture.safetensors"
    weights = load_file(path)
    weights["levels.0.steps.0.actnorm.logs"] += 30
    save_file(weights, path)
    resum(bundle.folder)
    score = Engine(Bundle.open(bundle.folder), "cpu").score(chest())
    assert not math.isfinite(score.log_posterior)
    assert score.not_scored == UNLIKE
    assert score.percentile == 0


@pytest.mark.parametrize(
    "model_input",
    [
        ModelInput(modality="BCT", pixels=grey((8, 8, 8), 128)),
        ModelInput(modality="CXR", pixels=grey((8, 16), 256)),
        ModelInput(modality="CXR", pixels=grey((8, 8, 8), 256)),
        ModelInput(modality="CXR", pixels=np.zeros((8, 8), np.float32)),  # type: ignore[arg-type]
    ],
)
def test_an_input_that_does_not_fit_is_refused(bundle: Bundle, model_input: ModelInput) -> None:
    with pytest.raises(BundleError):
        Engine(bundle, "cpu").score(model_input)


def test_grey_values_beyond_the_bundle_s_are_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "ct", "BCT")
    with pytest.raises(BundleError, match="grey values below 128"):
        Engine(bundle, "cpu").score(ModelInput(modality="BCT", pixels=np.full((8, 8, 8), 128, np.uint8)))


@pytest.mark.parametrize("fault", ["pickle", "other shape", "missing tensor", "not finite"])
def test_weights_that_are_not_the_architecture_s_are_refused(bundle: Bundle, fault: str) -> None:
    path = bundle.folder / "normal.safetensors"
    weights = load_file(path)
    name = "levels.0.steps.0.actnorm.bias"
    if fault == "pickle":
        path.write_bytes(pickle.dumps({"weights": 1}))
    else:
        if fault == "other shape":
            weights[name] = torch.zeros(3)
        elif fault == "missing tensor":
            del weights[name]
        else:
            weights[name][0] = math.nan
        save_file(weights, path)
    resum(bundle.folder)
    with pytest.raises(BundleError, match=r"normal\.safetensors"):
        Engine(Bundle.open(bundle.folder), "cpu")


def test_no_environment_lets_a_gpu_compute_in_tf32() -> None:
    """The flows' products in TF32 are 0.7 to 2.5 nats off in the log ratio; some containers ask for it."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    choose_device("cpu")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_a_device_that_is_not_there_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no device cuda:99"):
        Engine(bundle, "cuda:99")


class TestTransform:
    def test_brightness_and_contrast_do_not_matter_once_standardised(self) -> None:
        manifest = tiny_manifest()
        image = grey((8, 8), 100)
        dim = to_flow_grid(image, manifest.transform, manifest.architecture, 256)
        bright = to_flow_grid(image * 2 + 20, manifest.transform, manifest.architecture, 256)
        assert np.abs(dim.astype(int) - bright).max() <= 1

    def test_the_mean_over_blocks_is_taken(self) -> None:
        manifest = tiny_manifest("BCT")
        image = np.kron(grey((4, 4, 4), 128), np.ones((2, 2, 2))).astype(np.uint8)
        found = to_flow_grid(image, manifest.transform, manifest.architecture, 128)
        assert found.shape == (4, 4, 4)
        assert np.array_equal(found, np.minimum(image[::2, ::2, ::2] / 127 * 16, 15).astype(np.uint8))

    def test_what_lies_above_the_clip_is_not_seen(self) -> None:
        manifest = tiny_manifest("BCT")
        clipped = manifest.transform.model_copy(update={"clip": 60})
        high, low = np.full((8, 8, 8), 127, np.uint8), np.full((8, 8, 8), 60, np.uint8)
        grids = [to_flow_grid(image, clipped, manifest.architecture, 128) for image in (high, low)]
        assert np.array_equal(*grids)

    def test_a_constant_image_is_mid_grey(self) -> None:
        manifest = tiny_manifest()
        found = to_flow_grid(np.full((8, 8), 77, np.uint8), manifest.transform, manifest.architecture, 256)
        assert set(found.ravel().tolist()) == {8}


def test_on_a_cpu_nothing_is_recorded(bundle: Bundle) -> None:
    flows = Engine(bundle, "cpu").flows
    assert fastest(flows) == flows.parts


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recorded_pass_gives_the_bits_of_a_launched_one(bundle: Bundle) -> None:
    engine = Engine(bundle, "cuda")
    replay = Replay(engine.flows)
    for seed in range(3):
        v = torch.from_numpy(grey(bundle.architecture.size, 16, seed)).to("cuda").float()[None, None]
        x = dequantise(v, 16)
        assert torch.equal(replay(x).log_density, engine.flows.parts(x).log_density)
    both = x.repeat(2, 1, 1, 1)
    assert torch.equal(replay(both).log_density, engine.flows.parts(both).log_density)
