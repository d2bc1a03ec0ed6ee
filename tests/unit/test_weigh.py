"""Estimators are weighed by how they tell held-out images of the two sets apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from triage.calibration import Calibration, Term
from triage.manifest import Classifier
from workers.flows.classifiers import Classifiers
from workers.flows.glow import Glow
from workers.flows.measure import Measurer
from workers.flows.posterior import Posterior
from workers.flows.set_classifier import SetClassifier
from workers.flows.transform import FlowGrid
from workers.lab.calibrate import LEAST_WEIGHING, calibrate
from workers.lab.fit_classifier import fit_classifier
from workers.lab.image_set import ImageSet
from workers.lab.presets import ClassifierRecipe, find_preset
from workers.lab.weigh import weighed

PRESET = {"flows": 0.25, "set_classifier": 1.0, "local_classifier": 0.5}
CPU = torch.device("cpu")
TINY = {"size": (8, 8), "depth": 1, "widths": (8,)}
Values = dict[str, np.ndarray]


def terms(weights: dict[str, float] = PRESET) -> dict[str, Term]:
    return {name: Term(centre=0.0, spread=1.0, weight=weight) for name, weight in weights.items()}


def values(count: int, seed: int, **shifts: float) -> Values:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=count) + shifts.get(name, 0.0) for name in PRESET}


def weights(found: dict[str, Term]) -> dict[str, float]:
    return {name: term.weight for name, term in found.items()}


def test_the_estimator_that_tells_the_sets_apart_gets_the_weight() -> None:
    found = weights(weighed(terms(), values(300, 0), values(300, 1, local_classifier=1.5)))
    assert found["local_classifier"] > 0.85 * sum(PRESET.values())
    found = weights(weighed(terms(), values(300, 0), values(300, 1, flows=1.5)))
    assert found["flows"] > 0.85 * sum(PRESET.values())


def test_where_nothing_tells_the_sets_apart_the_presets_weights_stand() -> None:
    few = weights(weighed(terms(), values(4, 0), values(4, 1)))
    assert few == pytest.approx(PRESET, abs=0.2)


def test_equally_good_estimators_share_the_weight() -> None:
    found = weights(weighed(terms(), values(2000, 0), values(2000, 1, flows=0.5, set_classifier=0.5)))
    assert found["flows"] == pytest.approx(found["set_classifier"], rel=0.25)
    assert found["local_classifier"] < 0.15


def test_a_linear_pool_weighs_by_what_it_pools() -> None:
    # Half of the mixture shows to one estimator, half to another; a third sees nothing.
    mixture = values(600, 1)
    mixture["flows"][:300] += 4.0
    mixture["local_classifier"][300:] += 4.0
    found = weights(weighed(terms(), values(600, 0), mixture, "linear"))
    assert found["flows"] == pytest.approx(found["local_classifier"], rel=0.25)
    assert found["set_classifier"] < 0.2


def test_an_estimator_that_calls_normals_abnormal_is_not_turned_round() -> None:
    found = weights(weighed(terms(), values(300, 0, set_classifier=1.0), values(300, 1, local_classifier=0.5)))
    assert 0 <= found["set_classifier"] < 0.1


def test_one_odd_image_does_not_decide() -> None:
    normal, mixture = values(200, 0), values(200, 1, local_classifier=1.0)
    mixture["flows"][0] = 1e12
    assert weights(weighed(terms(), normal, mixture))["flows"] < 0.15


def test_the_sum_of_the_weights_centres_and_spreads_stay() -> None:
    before = terms()
    found = weighed(before, values(50, 0), values(50, 1, local_classifier=0.5))
    assert sum(weights(found).values()) == pytest.approx(sum(PRESET.values()), abs=0.003)
    assert all((found[name].centre, found[name].spread) == (0.0, 1.0) for name in before)


@pytest.mark.parametrize("alone", [{}, {"flows": 1.0}, {"flows": 1.0, "set_classifier": 0.0}])
def test_there_is_nothing_to_weigh_in_one_estimator(alone: dict[str, float]) -> None:
    before = terms(alone)
    assert weighed(before, values(50, 0), values(50, 1)) == before


def radiographs(count: int, seed: int, *, spots: bool) -> ImageSet:
    """Return grey noise; with spots, every other image has a bright one."""
    rng = np.random.default_rng(seed)
    images = 90 + ndimage.gaussian_filter(rng.normal(0, 60, (count, 32, 32)), (0, 2, 2))
    y, x = np.mgrid[:32, :32]
    spot = 80 * np.exp(-((y - 16) ** 2 + (x - 16) ** 2) / 18)
    images += spots * spot * (np.arange(count) % 2).reshape(-1, 1, 1)
    keys = tuple(f"{seed}:{number}" for number in range(count))
    return ImageSet(np.clip(images, 0, 255).astype(np.uint8), keys, keys)


@pytest.fixture(scope="module")
def measure() -> Measurer:
    """Return two flows that know nothing and a set classifier that knows the spots."""
    recipe = ClassifierRecipe(
        spec=Classifier(size=(32, 32), blocks=(2, 4), statistics=("mean", "sd")), copied=10, copies=1, hosts=10
    )
    sets = (radiographs(60, 1, spots=False), radiographs(60, 2, spots=True))
    classifier = SetClassifier(recipe.spec, fit_classifier(recipe, *sets, seed=0, device=CPU), CPU)
    architecture = find_preset("starter-cxr").architecture.model_copy(update=TINY)
    pair = Posterior(*(Glow(architecture, seed=seed).eval() for seed in (0, 1)))
    preset = find_preset("starter-cxr")
    return Measurer.of(pair, Classifiers(classifier, None), FlowGrid(preset.transform, architecture, 256))


def calibration(measure: Measurer, normals: ImageSet) -> Calibration:
    preset = find_preset("starter-cxr").model_copy(update={"weights": (1.0,)})
    return calibrate(measure, radiographs(80, 3, spots=True), normals, name="held out", preset=preset)


def test_a_bundle_is_weighed_by_half_of_its_held_out_normals_and_p_values_are_against_the_others(
    measure: Measurer,
) -> None:
    normals = radiographs(6 * LEAST_WEIGHING, 4, spots=False)
    found = calibration(measure, normals)
    weight = {name: term.weight for name, term in found.combination.items()}
    assert weight["set_classifier"] > 0.9 * sum(weight.values())
    against = len(found.normal_reference)
    assert 0.35 * len(normals) < against < 0.65 * len(normals)


@pytest.mark.parametrize(("count", "patients"), [(LEAST_WEIGHING, LEAST_WEIGHING), (6 * LEAST_WEIGHING, 1)])
def test_too_few_held_out_normals_leave_the_presets_weights_and_are_all_p_values_reference(
    measure: Measurer, count: int, patients: int
) -> None:
    normals = radiographs(count, 4, spots=False)
    names = tuple(str(number % patients) for number in range(count))
    found = calibration(measure, replace(normals, patients=names))
    preset = find_preset("starter-cxr").combination
    assert {name: term.weight for name, term in found.combination.items()} == {
        name: preset[name] for name in ("flows", "set_classifier")
    }
    assert len(found.normal_reference) == count
