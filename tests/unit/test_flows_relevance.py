"""Relevance maps: exact sums, standardisation, and bundles with and without them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.support.flows import grey, perturbed, tiny_bundle
from tests.support.lesions import plant
from triage.bundles import MAPS, Bundle, write_bundle
from triage.errors import BundleError
from triage.manifest import Architecture, Classifier
from triage.messages import ModelInput, Relevance
from workers.flows.engine import Engine
from workers.flows.flow_maps import Expected, contributions, raw_maps
from workers.flows.glow import Glow, dequantise
from workers.flows.posterior import Posterior
from workers.flows.relevance import Mapper, Method, Standard, activations, map_size, smoothed
from workers.flows.set_classifier import SetClassifier, feature_count
from workers.lab.image_set import ImageSet
from workers.lab.imagenet import frozen_blocks
from workers.lab.maps import make_mapper, write_maps
from workers.score import map_one

STARTERS = Path(__file__).resolve().parents[2] / "workers" / "models"
KINDS = ("ratio", "ratio.level1", "normal", "normal.level2", "gradient", "gradient_normal", "difference")


def flow(size: tuple[int, ...], seed: int, prior: str = "fixed") -> Glow:
    architecture = Architecture(size=size, grey_levels=16, depth=2, widths=(4, 4), prior=prior)
    return perturbed(Glow(architecture, seed=seed), seed=seed).double().eval().requires_grad_(False)


def normals(count: int, size: tuple[int, ...] = (8, 8), below: int = 256) -> ImageSet:
    names = tuple(str(n) for n in range(count))
    return ImageSet(grey((count, *size), below), names, names)


@pytest.mark.parametrize("size", [(8, 8), (4, 8, 8)])
@pytest.mark.parametrize("prior", ["fixed", "learned"])
def test_a_levels_map_sums_to_the_levels_part_up_to_a_constant(size: tuple[int, ...], prior: str) -> None:
    own = flow(size, 1, prior)
    x = dequantise(torch.from_numpy(grey((5, 1, *size), 16)).double(), 16)
    parts = own.level_parts(x)
    maps = contributions(own, x)
    assert [tuple(m.shape[1:]) for m in maps] == [shape[1:] for shape in own.latent_shapes]
    for level, found in enumerate(maps):
        offset = parts[:, level] - found.flatten(1).sum(1)
        torch.testing.assert_close(offset, offset[:1].expand(5), atol=1e-9, rtol=0)


def test_spread_over_pixels_sums_stay_sums() -> None:
    posterior = Posterior(flow((8, 8), 1).float(), flow((8, 8), 2).float())
    images = grey((3, 8, 8), 16)
    normal, mixture = posterior.level_parts(images)
    ratio = raw_maps("ratio", posterior, images).sum((1, 2))
    by_level = [raw_maps(f"ratio.level{n}", posterior, images).sum((1, 2)) for n in (1, 2)]
    expected = (mixture - normal).sum(1)
    np.testing.assert_allclose(np.diff(ratio), np.diff(expected), atol=1e-3)
    np.testing.assert_allclose(sum(by_level), ratio, atol=1e-9)


def test_the_gradient_tells_how_the_sum_rises() -> None:
    posterior = Posterior(flow((8, 8), 1), flow((8, 8), 2))
    images = grey((1, 8, 8), 16)
    gradient = raw_maps("gradient", Posterior(flow((8, 8), 1).float(), flow((8, 8), 2).float()), images)[0]
    x = dequantise(torch.from_numpy(images).double().unsqueeze(1), 16)

    def ratio(at: torch.Tensor) -> float:
        return float(posterior.mixture.level_parts(at).sum() - posterior.normal.level_parts(at).sum())

    for place in ((0, 0), (3, 5), (7, 7)):
        nudge = torch.zeros_like(x)
        nudge[0, 0, *place] = 1e-6
        slope = (ratio(x + nudge) - ratio(x - nudge)) / 2e-6
        assert gradient[place] == pytest.approx(slope, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modality", ["CXR", "BCT"])
def test_every_kind_gives_a_map_of_the_grid(kind: str, modality: str, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b", modality)
    images = normals(16, bundle.preprocessing.size, bundle.preprocessing.grey_levels)
    mapper = make_mapper(bundle.manifest, Engine(bundle, "cpu").posterior, images, Method(kind, 0.5))
    assert mapper is not None
    found = mapper(images.pixels[0])
    assert found.values.shape == tuple(bundle.architecture.size)
    assert Relevance.from_wire(found.to_wire()).deviations.tolist() == found.deviations.tolist()
    assert np.array_equal(mapper(images.pixels[0]).values, found.values)


@pytest.mark.parametrize("statistics", [("mean",), ("mean", "sd"), ("sd", "max")])
def test_the_classifiers_map_sums_to_its_logit_up_to_a_constant(statistics: tuple[str, ...]) -> None:
    spec = Classifier(size=(64, 64), blocks=(0, 2), statistics=statistics)
    count, rng = feature_count(spec), np.random.default_rng(0)
    head = {name: torch.from_numpy(rng.uniform(0.5, 1.5, count)) for name in ("head.mean", "head.scale")}
    head |= {"head.weight": torch.from_numpy(rng.normal(size=count)), "head.bias": torch.zeros(1, dtype=torch.float64)}
    classifier = SetClassifier(spec, frozen_blocks(2) | head, torch.device("cpu"))
    images = grey((3, 64, 64), 256)
    maps = activations(classifier, images, (32, 32))
    assert maps.shape == (3, 32, 32)
    logits = [classifier(image) for image in images]
    np.testing.assert_allclose(np.diff(maps.sum((1, 2))), np.diff(logits), rtol=1e-4, atol=1e-4)


def test_standardised_normals_have_mean_0_and_spread_1() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(rng.normal(size=(6, 6)) * 5, np.linspace(1, 3, 36).reshape(6, 6), (200, 6, 6))
    standard = Standard.of(maps)
    found = standard(maps)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(found.std(0), 1, atol=1e-9)
    flat = maps.copy()
    flat[:, 0, 0] = 7.0  # never varies: not divided by nothing
    assert np.isfinite(Standard.of(flat)(flat)).all()
    assert smoothed(maps, Method("ratio")) is maps


def test_what_is_expected_is_found_and_what_is_not_is_left() -> None:
    rng = np.random.default_rng(1)
    modes = rng.normal(size=(3, 64))
    images = np.clip(128 + rng.normal(size=(50, 3)) @ modes * 8, 0, 255).reshape(-1, 8, 8).astype(np.uint8)
    expected = Expected.of(images, 3)
    assert np.abs(expected.difference(images)).mean() < 1
    odd = images[:1].copy()
    odd[0, 4, 4] = 255
    assert np.unravel_index(expected.difference(odd)[0].argmax(), (8, 8)) == (4, 4)


def test_a_planted_lesion_is_found_by_its_difference() -> None:
    row, column = np.mgrid[:128, :128]
    chest = 200 - 120 * sum(np.exp(-((((row - 60) / 34) ** 2 + ((column - x) / 17) ** 2) ** 2)) for x in (37, 91))
    rng = np.random.default_rng(2)
    images = np.stack([chest * rng.uniform(0.9, 1.1) + rng.normal(0, 3, chest.shape) for _ in range(24)])
    images = np.clip(images, 0, 255).astype(np.uint8)
    expected = Expected.of(images[:12], 3)
    method = Method("difference", 2.0)
    standard = Standard.of(smoothed(expected.difference(images[12:]), method))
    for number in range(4):
        planted = plant(images[12 + number], number)
        assert np.array_equal(planted.pixels, plant(images[12 + number], number).pixels)
        found = standard(smoothed(expected.difference(planted.pixels[None]), method))[0]
        assert planted.mask[np.unravel_index(found.argmax(), found.shape)]


def with_maps(bundle: Bundle, posterior: Posterior, images: ImageSet) -> Bundle:
    mapper = make_mapper(bundle.manifest, posterior, images)
    assert mapper is not None
    write_maps(bundle.folder, mapper)
    return write_bundle(bundle.folder, bundle.manifest, bundle.calibration, bundle.card)


def test_a_bundle_keeps_its_maps_and_is_another_bundle(tmp_path: Path) -> None:
    plain = tiny_bundle(tmp_path / "b")
    engine = Engine(plain, "cpu")
    image = normals(1).pixels[0]
    assert Mapper.load(plain, lambda: engine.posterior) is None
    assert map_one(engine, ModelInput(modality="CXR", pixels=image, relevance=True)) is None
    made = with_maps(plain, engine.posterior, normals(16))
    assert made.digest != plain.digest
    assert Bundle.open(made.folder).digest == made.digest
    mapper = Mapper.load(made, lambda: engine.posterior)
    assert mapper is not None
    found = map_one(Engine(made, "cpu"), ModelInput(modality="CXR", pixels=image))
    assert found is not None
    assert np.array_equal(found.values, mapper(image).values)
    assert make_mapper(made.manifest, engine.posterior, normals(3)) is None  # too few to say what is usual


def test_a_file_of_maps_that_is_not_listed_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b")
    engine = Engine(bundle, "cpu")
    made = with_maps(bundle, engine.posterior, normals(16))
    tensors = load_file(made.folder / MAPS)
    save_file({name: tensor[..., :2] for name, tensor in tensors.items()}, made.folder / MAPS, {"method": "ratio"})
    with pytest.raises(BundleError, match="altered"):
        Bundle.open(made.folder)
    cut = write_bundle(made.folder, made.manifest, made.calibration, made.card)
    with pytest.raises(BundleError, match="grid"):
        Mapper.load(cut, lambda: engine.posterior)
    assert map_one(Engine(cut, "cpu"), ModelInput(modality="CXR", pixels=normals(1).pixels[0])) is None  # not raised
    (made.folder / MAPS).unlink()
    with pytest.raises(BundleError):
        Bundle.open(made.folder)


def test_where_a_head_is_marked_is_told_finer_than_its_flows_see() -> None:
    bundle = Bundle.open(STARTERS / "bct-starter")
    engine = Engine(bundle, "cpu")
    mapper = engine.mapper
    assert mapper is not None
    assert mapper(grey(bundle.preprocessing.size, 128)).values.shape == (16, 32, 32)
    assert "posterior" not in vars(engine)  # both flows once more, for which this method has no use
    assert mapper.standard.mean.shape == map_size(bundle.manifest, "local") == (16, 32, 32)
    assert map_size(bundle.manifest, "ratio") == tuple(bundle.architecture.size) == (16, 16, 16)
