"""Estimators are weighed by how they tell held-out images of the two sets apart."""

import numpy as np
import pytest

from triage.calibration import Term
from workers.lab.weigh import weighed

PRESET = {"flows": 0.25, "set_classifier": 1.0, "local_classifier": 0.5}
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
