"""The second estimator: its frozen blocks, its head, and a bundle's file of them."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from scipy import ndimage

from tests.support.flows import golden_pixels, tiny_bundle, tiny_calibration, tiny_manifest
from triage.bundles import CLASSIFIER, Bundle, write_bundle
from triage.calibration import Term
from triage.errors import BundleError
from triage.manifest import Classifier
from triage.messages import ModelInput, Score
from workers.flows.engine import Engine
from workers.flows.set_classifier import FeatureExtractor, SetClassifier, feature_count
from workers.flows.stages import Stages, channels, shapes
from workers.flows.views import moved, views
from workers.lab.fit_classifier import altered, fit_classifier
from workers.lab.image_set import ImageSet
from workers.lab.imagenet import frozen_blocks
from workers.lab.planted import planted
from workers.lab.presets import ClassifierRecipe

SPEC = Classifier(size=(32, 32), blocks=(2, 4), statistics=("mean", "sd"))
RECIPE = ClassifierRecipe(spec=SPEC, copied=10, copies=1, hosts=10)
CPU = torch.device("cpu")


def radiographs(count: int, seed: int, *, spot: bool = False) -> ImageSet:
    """Return smooth noise, some of it with a bright spot."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    images = 90 + 20 * np.sin(x / rng.uniform(3, 9, (count, 1, 1))) + rng.normal(0, 4, (count, 32, 32))
    if spot:
        middle = rng.uniform(8, 24, (2, count, 1, 1))
        images += 70 * np.exp(-((y - middle[0]) ** 2 + (x - middle[1]) ** 2) / 18)
    keys = tuple(f"{seed}:{number}" for number in range(count))
    return ImageSet(np.clip(images, 0, 255).astype(np.uint8), keys, keys)


@cache
def fitted() -> dict[str, torch.Tensor]:
    mixture = ImageSet.union([radiographs(20, 2), radiographs(20, 3, spot=True)])
    return fit_classifier(RECIPE, radiographs(40, 1), mixture, seed=0, device=CPU)


def test_blocks_halve_the_grid_where_efficientnet_does() -> None:
    blocks = (0, 2, 4, 7, 10, 14)
    outputs = Stages(frozen_blocks(14), blocks, CPU)(torch.zeros(1, 3, 65, 64))
    assert [tuple(output.shape) for output in outputs] == [
        (1, 16, 33, 32), (1, 24, 17, 16), (1, 40, 9, 8), (1, 80, 5, 4), (1, 112, 5, 4), (1, 192, 3, 2),
    ]  # fmt: skip
    assert [channels(block) for block in blocks] == [16, 24, 40, 80, 112, 192]
    assert all(tuple(t.shape) == shapes(14)[name] for name, t in frozen_blocks(14).items())


def test_it_learns_the_difference_of_the_sets_without_labels_and_repeats_it() -> None:
    tensors = fitted()
    classifier = SetClassifier(SPEC, tensors, CPU)
    well, ill = (
        np.array([classifier(image) for image in radiographs(30, seed, spot=spot).pixels])
        for seed, spot in ((7, False), (8, True))
    )
    assert (ill[:, None] > well).mean() > 0.95
    again = fitted.__wrapped__()
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors.items())


def test_brightness_and_contrast_do_not_reach_a_standardised_input() -> None:
    extract = FeatureExtractor(SPEC, frozen_blocks(4), CPU)
    image = radiographs(1, 4).pixels[0] // 2 * 2
    assert extract(image // 2 + 10) == pytest.approx(extract(image), rel=1e-2, abs=1e-2)


def test_a_volume_s_features_are_means_over_its_strongest_slabs() -> None:
    spec = Classifier(size=(16, 16), blocks=(2,), statistics=("max",), window=(0, 100), slab=2, top=2, symmetric=True)
    extract = FeatureExtractor(spec, frozen_blocks(2), CPU)
    volume = np.random.default_rng(0).integers(0, 100, (8, 16, 16), dtype=np.uint8)
    single = FeatureExtractor(spec.model_copy(update={"top": 1}), frozen_blocks(2), CPU)
    slabs = np.sort([single(volume[start : start + 2]) for start in range(0, 8, 2)], axis=0)
    assert extract(volume) == pytest.approx(slabs[-2:].mean(0), rel=1e-4, abs=1e-5)
    assert extract(volume).shape == (feature_count(spec),)


def test_grain_reaches_smoothed_slices_much_less() -> None:
    spec = Classifier(size=(32, 32), blocks=(2, 4), statistics=("mean", "sd"), window=(0, 100), slab=2)
    rng = np.random.default_rng(0)
    volume = ndimage.gaussian_filter(rng.uniform(0, 100, (4, 32, 32)), (0, 4, 4)) * 4 - 150
    pair = [
        np.clip(np.rint(values), 0, 127).astype(np.uint8)
        for values in (volume, volume + rng.normal(0, 5, volume.shape))
    ]

    def change(smooth: float) -> float:
        extract = FeatureExtractor(spec.model_copy(update={"smooth": smooth}), frozen_blocks(4), CPU)
        clean, grainy = map(extract, pair)
        return float(np.abs(grainy - clean).mean() / clean.std())

    assert change(2.0) < 0.5 * change(0.0)


@pytest.mark.parametrize("shape", [(64, 48), (8, 32, 32)])
def test_views_are_the_image_and_small_movements_of_it(shape: tuple[int, ...]) -> None:
    image = ndimage.gaussian_filter(np.random.default_rng(0).uniform(0, 255, shape), 3)
    pixels = (image - image.min()).astype(np.uint8) * 4
    found = list(views(pixels, 5))
    assert np.array_equal(found[0], pixels)
    assert len({view.tobytes() for view in found}) == 5
    assert all(view.shape == shape and view.dtype == np.uint8 for view in found)
    assert [view.tobytes() for view in views(pixels, 5)] == [view.tobytes() for view in found]
    assert all(np.corrcoef(view.ravel(), pixels.ravel())[0, 1] > 0.5 for view in found)
    still = moved(pixels, degrees=0, zoom=1, shift=(0, 0))
    assert np.array_equal(still, pixels)
    aside = moved(pixels, degrees=0, zoom=1, shift=(0, 1 / shape[-1]))
    assert np.array_equal(aside[..., 1:], pixels[..., :-1])


def test_copies_of_a_volume_are_also_cut_elsewhere() -> None:
    pixels = np.repeat(np.arange(16, dtype=np.uint8) * 8, 24 * 24).reshape(16, 24, 24)
    raised = moved(pixels, degrees=0, zoom=1, shift=(0, 0), rise=1 / 16)
    assert np.array_equal(raised[1:], pixels[:-1])
    nodded = moved(pixels, degrees=0, zoom=1, shift=(0, 0), nod=0.25)
    step = nodded[8, :, 0].astype(int)
    assert (np.diff(step) > 0).all()  # the front has risen, the back has sunk
    assert step[-1] - step[0] == pytest.approx(0.25 * 16 * 8 * 23 / 24, abs=1)
    assert (nodded == nodded[:, :, :1]).all()
    middles = {int(view[8].mean()) for view in views(pixels, 6)}
    assert len(middles) > 3


def test_a_logit_is_the_mean_over_views() -> None:
    tensors, image = fitted(), radiographs(1, 5).pixels[0]
    one = SetClassifier(SPEC, tensors, CPU)
    several = SetClassifier(SPEC.model_copy(update={"views": 4}), tensors, CPU)
    assert several(image) == pytest.approx(np.mean([one(view) for view in views(image, 4)]))
    assert several(image) != one(image)


@pytest.mark.parametrize("shape", [(64, 48), (8, 32, 32)])
def test_altered_and_planted_images_stay_images(shape: tuple[int, ...]) -> None:
    levels = 256 if len(shape) == 2 else 128
    image = np.random.default_rng(0).integers(20, 70, shape, dtype=np.uint8)
    for seed in range(5):
        for change in (altered, planted):
            changed = change(image, np.random.default_rng(seed), levels)
            assert changed.shape == shape
            assert changed.dtype == np.uint8
            assert changed.max() < levels
            assert (changed != image).any()
    assert (planted(image, np.random.default_rng(0), levels) >= image).all()


def with_classifier(folder: Path, tensors: dict[str, torch.Tensor]) -> Bundle:
    tiny_bundle(folder)
    golden = load_file(folder / "golden.safetensors")
    logit = SetClassifier(SPEC, tensors, CPU)(golden_pixels(folder))
    save_file(golden | {"set_classifier": torch.tensor([logit], dtype=torch.float64)}, folder / "golden.safetensors")
    save_file(tensors, folder / CLASSIFIER)
    calibration = tiny_calibration(
        combination={
            "flows": Term(centre=0, spread=100, weight=0.25), "set_classifier": Term(centre=0, spread=1, weight=1)
        },
        references={"set_classifier": (-1.0, 1.0)},
        normal_reference=(-2.0, -1.0, 0.0),
    )  # fmt: skip
    manifest = tiny_manifest(name=folder.name).model_copy(update={"classifier": SPEC})
    return write_bundle(folder, manifest, calibration, "# A card\n")


def test_a_bundle_scores_with_both_estimators(tmp_path: Path) -> None:
    bundle = with_classifier(tmp_path / "two", fitted())
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 8), dtype=np.uint8)
    score = Engine(bundle, "cpu").score(ModelInput(modality="CXR", pixels=pixels[1]))
    assert score.set_classifier is not None
    assert score.combined == pytest.approx(-score.log_posterior * 0.25 / 100 + score.set_classifier)
    assert score.percentile == score.percentiles["combined"] == bundle.calibration.percentile(score.combined)
    assert score.p_value == bundle.calibration.p_value(score.combined)
    assert score.calibrated is None
    assert Score.from_wire(score.to_wire()) == score
    scores = Engine(bundle, "cpu").measure(pixels).estimates(bundle.calibration)
    assert tuple(scores) == bundle.manifest.estimators
    assert {"set_classifier", "combined"} <= scores.keys()
    assert scores["set_classifier"][1] == score.set_classifier
    assert scores["combined"][1] == pytest.approx(score.combined)


def test_a_bundle_without_a_classifier_ranks_by_its_flows(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "one")
    score = Engine(bundle, "cpu").score(ModelInput(modality="CXR", pixels=np.zeros((8, 8), np.uint8)))
    assert score.set_classifier is None
    assert score.combined == pytest.approx(-score.log_posterior)


def test_a_classifier_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path) -> None:
    tensors = fitted()
    bundle = with_classifier(tmp_path / "two", tensors)
    for name, change in (
        ("head.weight", torch.zeros(3, dtype=torch.float64)),
        ("head.bias", torch.tensor([torch.nan], dtype=torch.float64)),
        ("more", torch.zeros(1)),
    ):
        save_file(tensors | {name: change}, bundle.folder / CLASSIFIER)
        altered_bundle = write_bundle(bundle.folder, bundle.manifest, bundle.calibration, bundle.card)
        with pytest.raises(BundleError, match="doesn't hold"):
            Engine(altered_bundle, "cpu")
    (bundle.folder / CLASSIFIER).unlink()
    with pytest.raises(BundleError, match="disagree"):
        write_bundle(bundle.folder, bundle.manifest, bundle.calibration, bundle.card)


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": (4, 2)}, {"blocks": (16,)}, {"size": (8192, 32)}, {"statistics": ("median",)}, {"window": (5, 5)},
        {"x": 1},
    ],
)  # fmt: skip
def test_a_classifier_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Classifier.model_validate(SPEC.model_dump() | change)
