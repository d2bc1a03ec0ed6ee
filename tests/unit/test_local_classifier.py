"""The third estimator: what it sees, what it learns, and a bundle's file of it."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from tests.support.flows import golden_pixels, tiny_bundle, tiny_calibration, tiny_manifest
from tests.support.heads import a_head
from triage.bundles import LOCAL, Bundle, write_bundle
from triage.calibration import Term
from triage.errors import BundleError
from triage.manifest import Local
from triage.messages import ModelInput, Score
from workers.flows.classifiers import Classifiers
from workers.flows.engine import Engine
from workers.flows.golden_check import check_golden
from workers.flows.local_classifier import (
    LocalClassifier,
    channels,
    planes,
    shapes,
    standardised,
    turned,
    with_neighbours,
)
from workers.flows.relevance import maps_of
from workers.lab.fit_local import Network, fit_local
from workers.lab.golden import make_golden
from workers.lab.image_set import ImageSet
from workers.lab.planted import with_place
from workers.lab.presets import LocalRecipe

SPEC = Local(size=(32, 32), widths=(8, 12, 16, 16), components=6, weights=(1, 0.5, 0.5))
RECIPE = LocalRecipe(spec=SPEC, steps=90, pairs=4, faint=0.5, plain=1.5)
BRAIN = Local(size=(32, 32), widths=(4, 4, 8, 8), window=(10, 90), neighbours=1, slices=2, weights=(1, 1, 0))
CPU = torch.device("cpu")


def radiographs(count: int, seed: int, *, spot: bool = False) -> tuple[ImageSet, np.ndarray]:
    """Return smooth images, perhaps with one bright square each, and where that is."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:32, :32]
    images = 90 + 40 * np.cos(column / rng.uniform(4.5, 5.5, (count, 1, 1))) + rng.normal(0, 3, (count, 32, 32))
    top, left = rng.integers(6, 20, (2, count, 1, 1))
    inside = (row >= top) & (row < top + 6) & (column >= left) & (column < left + 6)
    images += 50 * inside * spot
    keys = tuple(f"{seed}:{number}" for number in range(count))
    return ImageSet(np.clip(images, 0, 255).astype(np.uint8), keys, keys), inside


@cache
def fitted() -> dict[str, torch.Tensor]:
    return fit_local(RECIPE, radiographs(40, 1)[0], radiographs(40, 2)[0], seed=0, device=CPU)


def test_it_finds_what_it_was_never_shown_and_says_where() -> None:
    classifier = LocalClassifier(SPEC, fitted(), CPU)
    well, (ill, inside) = radiographs(30, 7)[0], radiographs(30, 8, spot=True)
    healthy, spotted = (np.array([classifier(image) for image in images.pixels]) for images in (well, ill))
    assert (spotted[:, None] > healthy).mean() > 0.9
    maps = classifier.maps(ill.pixels, (16, 16))
    assert maps.shape == (30, 16, 16)
    coarse = inside.reshape(30, 16, 2, 16, 2).mean((2, 4)) > 0.5
    assert (
        np.mean([there[peak.argmax() // 16, peak.argmax() % 16] for peak, there in zip(maps, coarse, strict=True)])
        > 0.7
    )


def test_rehearsal_teaches_what_was_planted_and_not_which_set_an_image_is_of() -> None:
    """A bright square tells the sets apart: only steps after the rehearsal teach that it does."""
    normal, mixture = radiographs(40, 1)[0], radiographs(40, 2, spot=True)[0]
    spotted, well = radiographs(30, 8, spot=True)[0].pixels, radiographs(30, 7)[0].pixels

    def areas(recipe: LocalRecipe) -> list[float]:
        classifier = LocalClassifier(SPEC, fit_local(recipe, normal, mixture, seed=0, device=CPU), CPU)
        ill, healthy = (np.array([classifier.statistics(image) for image in images]) for images in (spotted, well))
        return [float((ill[:, None, column] > healthy[:, column]).mean()) for column in range(3)]

    untaught = areas(RECIPE.model_copy(update={"steps": 1}))
    rehearsed = areas(RECIPE.model_copy(update={"steps": 1, "rehearsal": 90}))
    taught = areas(RECIPE.model_copy(update={"set_weight": 1.0}))
    assert max(untaught) < 0.9  # one step teaches nothing
    assert min(rehearsed[:2]) > 0.9 > rehearsed[2]
    assert min(taught) > 0.9


def test_statistics_are_means_over_turned_images() -> None:
    image = radiographs(1, 3, spot=True)[0].pixels[0]

    def statistics(*turns: float) -> np.ndarray:
        return LocalClassifier(SPEC.model_copy(update={"turns": turns}), fitted(), CPU).statistics(image)

    assert np.array_equal(statistics(0.0), LocalClassifier(SPEC, fitted(), CPU).statistics(image))
    assert np.allclose(statistics(-4.0, 0.0, 4.0), np.mean([statistics(turn) for turn in (-4.0, 0.0, 4.0)], 0))
    assert not np.allclose(statistics(4.0), statistics(0.0))


@pytest.mark.parametrize("shape", [(16, 16), (16, 24)])
def test_an_image_is_turned_about_its_middle(shape: tuple[int, int]) -> None:
    x = torch.rand(2, 1, *shape)
    assert torch.allclose(turned(x, 180.0), x.flip(-1, -2), atol=1e-5)
    upright = turned(x, 90.0)[..., shape[1] // 2 - 8 : shape[1] // 2 + 8]
    assert torch.allclose(upright, x[..., shape[1] // 2 - 8 : shape[1] // 2 + 8].rot90(1, (-2, -1)), atol=1e-5)


def test_training_repeats_itself_and_reports() -> None:
    recipe = RECIPE.model_copy(update={"steps": 3, "rehearsal": 2, "spec": SPEC.model_copy(update={"members": 2})})
    normal, mixture = radiographs(10, 1)[0], radiographs(10, 2)[0]
    told: list[tuple[int, int]] = []
    one, two = (
        fit_local(recipe, normal, mixture, seed=1, device=CPU, report=lambda done, of: told.append((done, of)))
        for _ in range(2)
    )
    assert told == [(step, 10) for step in range(1, 11)] * 2
    assert one.keys() == shapes(recipe.spec).keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert not torch.equal(one["0.stem.weight"], one["1.stem.weight"])


def test_the_number_of_threads_changes_no_bit() -> None:
    image, before = radiographs(1, 9)[0].pixels[0], torch.get_num_threads()
    spec = Local(size=(64, 64), widths=(24, 32, 48, 64), members=2, components=150, weights=(1, 1, 1))
    generator = torch.Generator().manual_seed(0)
    tensors = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes(spec).items()}
    tensors |= {name: torch.ones(tensors[name].shape) for name in ("statistic.scale", "expected.spread")}
    classifier = LocalClassifier(spec, tensors, CPU)
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(np.concatenate([classifier.maps(image[None], (32, 32)).ravel(), [classifier(image)]]))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_brightness_and_contrast_do_not_reach_the_network() -> None:
    image = radiographs(1, 4)[0].pixels[0] // 2 * 2
    first, second = (
        channels(planes(pixels, SPEC, CPU), SPEC.model_copy(update={"components": 0}), None)
        for pixels in (image, image // 2 + 10)
    )
    assert torch.allclose(first, second, atol=1e-2)


@pytest.mark.parametrize("shape", [(32, 32), (4, 32, 32)])
def test_grain_reaches_softened_slices_much_less_and_blood_does(shape: tuple[int, ...]) -> None:
    rng, soft = np.random.default_rng(0), BRAIN.model_copy(update={"soften": 1.0})
    brain = np.full(shape, 49, np.uint8)
    grainy, bleeding = brain + rng.normal(0, 5, shape), brain.copy()
    bleeding[..., 10:20, 10:20] = 79

    def changed(pixels: np.ndarray, spec: Local) -> float:
        changes = planes(np.rint(pixels).astype(np.uint8), spec, CPU) - planes(brain, spec, CPU)
        return float(changes.square().mean().sqrt())

    assert changed(grainy, soft) < 0.4 * changed(grainy, BRAIN)
    assert changed(bleeding, soft) > 0.8 * changed(bleeding, BRAIN)
    assert planes(bleeding, soft, CPU).shape == planes(bleeding, BRAIN, CPU).shape


def test_slices_are_seen_with_their_neighbours() -> None:
    stack = with_neighbours(planes(a_head(0, (8, 32, 32)), BRAIN, CPU), BRAIN)
    assert stack.shape == (8, 3, 32, 32)
    assert torch.equal(stack[3, 0], stack[2, 1])
    assert torch.equal(stack[0, 0], stack[0, 1])
    assert standardised(stack, BRAIN).max() == pytest.approx((114 - 10) / 80 * 2 - 1)


def test_a_folded_network_is_the_network() -> None:
    torch.manual_seed(0)
    spec = SPEC.model_copy(update={"components": 0})
    network = Network(spec)
    for _ in range(3):
        network(torch.randn(4, 2, 32, 32))
    network.eval()
    folded = {f"0.{name}": tensor for name, tensor in network.folded().items()}
    statistic = {"statistic.centre": torch.zeros(3), "statistic.scale": torch.ones(3)}
    image = radiographs(1, 5)[0].pixels[0]
    x = channels(planes(image, spec, CPU), spec, None)
    with torch.no_grad():
        logits, pooled = network(torch.cat([x, x.flip(-1)]))
    found, of_image = LocalClassifier(spec, folded | statistic, CPU).members(image)
    assert found[0, 0] == pytest.approx((logits[0] + logits[1].flip(-1)).numpy() / 2, abs=1e-4)
    assert of_image[0, 0] == pytest.approx(pooled.mean(0).numpy(), abs=1e-4)


def test_what_is_planted_brightens_where_it_is_said_to_be() -> None:
    image = np.random.default_rng(0).integers(40, 60, (64, 48)).astype(np.float32)
    for seed in range(12):
        made, place = with_place(image, np.random.default_rng(seed), faint=0.3, plain=1.0)
        assert made.shape == place.shape == image.shape
        assert set(np.unique(place)) <= {0, 1}
        assert (made >= image - 1e-3).all()
        if place.any():
            assert (made - image)[place > 0].mean() > (made - image)[place == 0].mean()
    again = with_place(image, np.random.default_rng(11), faint=0.3, plain=1.0)[0]
    assert np.array_equal(made, again)


def with_local(folder: Path, tensors: dict[str, torch.Tensor]) -> Bundle:
    tiny_bundle(folder)
    value = LocalClassifier(SPEC, tensors, CPU)(golden_pixels(folder))
    golden = load_file(folder / "golden.safetensors")
    save_file(golden | {"local_classifier": torch.tensor([value], dtype=torch.float64)}, folder / "golden.safetensors")
    save_file(tensors, folder / LOCAL)
    calibration = tiny_calibration(
        combination={
            "flows": Term(centre=0, spread=100, weight=0.25), "local_classifier": Term(centre=0, spread=2, weight=1)
        },
        references={"local_classifier": (-1.0, 1.0)},
    )  # fmt: skip
    manifest = tiny_manifest(name=folder.name).model_copy(update={"local": SPEC})
    return write_bundle(folder, manifest, calibration, "# A card\n")


def test_a_bundle_scores_with_it(tmp_path: Path) -> None:
    bundle = with_local(tmp_path / "local", fitted())
    pixels = np.random.default_rng(0).integers(0, 255, (3, 8, 8), dtype=np.uint8)
    engine = Engine(bundle, "cpu")
    score = engine.score(ModelInput(modality="CXR", pixels=pixels[1]))
    assert score.local_classifier is not None
    assert score.set_classifier is None
    assert score.combined == pytest.approx(-score.log_posterior * 0.25 / 100 + score.local_classifier / 2)
    assert Score.from_wire(score.to_wire()) == score
    assert check_golden(Engine(bundle, "cpu")).passed
    assert engine.measure(pixels).values[1]["local_classifier"] == score.local_classifier
    maps = maps_of(
        "local",
        pixels,
        bundle.manifest,
        posterior=lambda: engine.posterior,
        classifiers=engine.classifiers,
        expected=None,
    )
    assert maps.shape == (3, 4, 4)
    assert "local_classifier" in make_golden(engine.posterior, bundle.manifest, engine.classifiers)
    with pytest.raises(ValueError, match="no local"):
        maps_of(
            "local",
            pixels,
            bundle.manifest,
            posterior=lambda: engine.posterior,
            classifiers=Classifiers(),
            expected=None,
        )


def test_one_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path) -> None:
    tensors = fitted()
    bundle = with_local(tmp_path / "local", tensors)
    for name, change in (
        ("0.head.weight", torch.zeros(3)),
        ("0.map.bias", torch.tensor([torch.nan])),
        ("statistic.scale", torch.zeros(3, dtype=torch.float64)),
        ("more", torch.zeros(1)),
    ):
        save_file(tensors | {name: change}, bundle.folder / LOCAL)
        changed = write_bundle(bundle.folder, bundle.manifest, bundle.calibration, bundle.card)
        with pytest.raises(BundleError, match="doesn't hold"):
            Engine(changed, "cpu")
    (bundle.folder / LOCAL).unlink()
    with pytest.raises(BundleError, match="disagree"):
        write_bundle(bundle.folder, bundle.manifest, bundle.calibration, bundle.card)


@pytest.mark.parametrize(
    "change",
    [{"size": (60, 64)}, {"widths": (1, 2, 3)}, {"window": (5, 5)}, {"weights": (0, 0, 0)}, {"top": 0}, {"x": 1}],
)
def test_one_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Local.model_validate(SPEC.model_dump() | change)


def test_a_chest_x_ray_has_no_neighbouring_slices() -> None:
    manifest = tiny_manifest().model_dump() | {"local": BRAIN.model_dump()}
    with pytest.raises(ValidationError, match="neighbouring"):
        type(tiny_manifest()).model_validate(manifest)
