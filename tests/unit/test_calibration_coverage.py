"""What p-values, probabilities and thresholds promise, checked by simulation."""

import numpy as np
import pytest

from tests.support.flows import tiny_calibration
from triage.calibration import Calibration, Probability, Term, pooled
from triage.errors import ConfigurationError
from workers.lab.probabilities import Method, with_labels

TERMS = {"flows": Term(centre=1, spread=2, weight=0.5), "set_classifier": Term(centre=0, spread=1, weight=1)}


@pytest.mark.parametrize("references", [19, 100])
@pytest.mark.parametrize("level", [0.05, 0.1, 0.5])
def test_a_normal_image_gets_a_small_p_value_no_more_often_than_it_says(references: int, level: float) -> None:
    """Over references and images drawn anew from one skewed distribution, P(p <= a) <= a, and close to it."""
    rng = np.random.default_rng(0)
    small = 0
    trials = 4000
    for _ in range(trials):
        drawn = rng.exponential(size=references + 1)
        calibration = Calibration.model_construct(normal_reference=tuple(np.sort(drawn[:-1]).tolist()))
        p = calibration.p_value(float(drawn[-1]))
        assert p is not None
        small += p <= level
    error = 4 * np.sqrt(level * (1 - level) / trials)
    assert level - 1 / (references + 1) - error < small / trials < level + error


def test_a_p_value_counts_references_at_least_as_abnormal() -> None:
    calibration = tiny_calibration(normal_reference=(1.0, 2.0, 2.0, 3.0))
    assert calibration.p_value(2.0) == pytest.approx(4 / 5)
    assert calibration.p_value(3.5) == pytest.approx(1 / 5)
    assert calibration.p_value(float("nan")) is None
    assert tiny_calibration().p_value(0.0) is None


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_probabilities_hold_at_another_prevalence(method: Method) -> None:
    """Calibrated on a test set half abnormal, used where a tenth is: predicted and observed shares agree."""
    rng = np.random.default_rng(1)

    def cases(normal: int, abnormal: int) -> tuple[np.ndarray, np.ndarray]:
        truth = np.arange(normal + abnormal) >= normal
        return rng.normal(np.where(truth, 1.5, 0.0)), truth

    calibration = with_labels(tiny_calibration(), *cases(2000, 2000), prevalence=0.1, method=method)
    assert calibration.probability is not None
    assert calibration.probability.method == method
    values, truth = cases(18000, 2000)
    predicted = np.array([calibration.calibrated(value) for value in values])
    assert predicted.mean() == pytest.approx(0.1, abs=0.01)
    for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 1.0)):
        chosen = (predicted >= low) & (predicted < high)
        assert predicted[chosen].mean() == pytest.approx(truth[chosen].mean(), abs=0.05)


def test_an_isotonic_curve_follows_what_no_logistic_curve_can() -> None:
    """Half of the middle third is abnormal, none of the lower and all of the upper: a staircase."""
    rng = np.random.default_rng(3)
    values = rng.uniform(0, 3, 3000)
    truth = rng.uniform(size=3000) < np.select([values < 1, values < 2], [0.0, 0.5], 1.0)
    share = float(truth.mean())
    platt, isotonic = (
        with_labels(tiny_calibration(), values, truth, prevalence=share, method=method)
        for method in ("platt", "isotonic")
    )
    for value, wanted in ((0.3, 0.0), (1.1, 0.5), (1.9, 0.5), (2.7, 1.0)):
        assert isotonic.calibrated(value) == pytest.approx(wanted, abs=0.1)
    assert abs(platt.calibrated(1.1) - 0.5) > 0.15
    below = isotonic.calibrated(-5.0)
    assert below is not None
    assert below == pytest.approx(1 / (3000 / 40 + 2), rel=1e-3)  # none of a step's 75 cases was
    again = Calibration.model_validate_json(isotonic.model_dump_json())
    assert again.calibrated(1.5) == isotonic.calibrated(1.5)


def test_equal_scores_have_one_probability() -> None:
    """A file that was copied often: its normal and abnormal copies make no curve."""
    values = np.r_[np.full(300, 1.7), np.linspace(0, 3, 200)]
    truth = np.arange(500) % 2 == 0
    calibration = with_labels(tiny_calibration(), values, truth, prevalence=0.5, method="isotonic")
    assert calibration.calibrated(1.7) == pytest.approx(0.5, abs=0.1)
    with_labels(tiny_calibration(), np.full(500, 1.7), truth, prevalence=0.5, method="isotonic")


def test_an_isotonic_curve_promises_no_more_than_its_cases_show() -> None:
    """Few cases at the top, and a rare abnormality: what is told for one half is not one case in seven."""
    rng = np.random.default_rng(0)
    told, shown = [], []
    for _ in range(30):
        truth = np.arange(600) >= 300
        calibration = with_labels(
            tiny_calibration(), rng.normal(truth * 1.0), truth, prevalence=0.01, method="isotonic"
        )  # fmt: skip
        used = np.arange(20000) >= 19800
        probability = np.array([calibration.calibrated(value) for value in rng.normal(used * 1.0)])
        top = probability >= np.quantile(probability, 0.998)
        told.append(probability[top].mean())
        shown.append(used[top].mean())
    assert 0.5 * np.mean(shown) < np.mean(told) < np.mean(shown) + 0.05


def test_an_isotonic_calibration_that_falls_is_refused() -> None:
    with pytest.raises(ValueError, match="falls"):
        Probability(
            slope=0, intercept=0, knots=((0.0, 1.0), (1.0, 0.0)), prevalence=0.5, assumed=0.5, normal=200, abnormal=200
        )


def test_thresholds_reach_the_sensitivity_that_they_name() -> None:
    rng = np.random.default_rng(2)
    values, truth = rng.normal(size=160), np.arange(160) >= 80
    calibration = with_labels(tiny_calibration(), values, truth, prevalence=0.2)
    points = [point for point in calibration.operating_points if point.kind == "sensitivity"]
    assert [point.target for point in points] == [0.8, 0.9, 0.95]
    for point in points:
        assert (values[truth] >= point.threshold).mean() >= point.target
        # The highest that does: one case less would miss it.
        assert (values[truth] > point.threshold).mean() < point.target


def test_few_labels_make_no_probability() -> None:
    with pytest.raises(ConfigurationError, match="too few"):
        with_labels(tiny_calibration(), np.arange(60.0), np.arange(60) >= 30, prevalence=0.1)
    with pytest.raises(ConfigurationError, match="isotonic"):
        with_labels(tiny_calibration(), np.arange(160.0), np.arange(160) >= 80, prevalence=0.1, method="isotonic")
    assert tiny_calibration().calibrated(1.0) is None


def test_a_linear_pool_hears_one_estimator_that_is_sure() -> None:
    terms = {name: Term(centre=0.0, spread=1.0, weight=1.0) for name in ("flows", "set_classifier", "local_classifier")}
    log, linear = (
        tiny_calibration(combination=terms, pooling=pooling).combined for pooling in ("logarithmic", "linear")
    )
    sure = {"flows": -1.0, "set_classifier": -1.0, "local_classifier": 3.0}
    unsure = dict.fromkeys(terms, 1.0)
    assert log(sure) < log(unsure)
    assert linear(sure) > linear(unsure)
    assert linear(unsure) == pytest.approx(log(unsure))
    # The mean of the ratios, its logarithm as long as the weights' sum.
    assert linear(sure) == pytest.approx(3 / 0.5 * np.log((2 * np.exp(-0.5) + np.exp(1.5)) / 3))
    assert linear({**unsure, "flows": 1e4}) == pytest.approx(3 * (1e4 - np.log(3) / 0.5))
    # What counts nothing says nothing, however far it is off.
    alone = pooled(np.array([2000.0, 0.5]), np.array([0.0, 1.0]), "linear")
    assert alone == pytest.approx(0.5)
    for pool in (log, linear):
        assert not np.isfinite(pool({**unsure, "flows": np.inf, "set_classifier": -np.inf}))


def test_the_combined_statistic_weighs_standardised_estimators() -> None:
    calibration = tiny_calibration(combination=TERMS, references={"flows": (0.0, 2.0)})
    assert calibration.combined({"flows": 3.0, "set_classifier": 0.25}) == pytest.approx(0.5 * (3 - 1) / 2 + 0.25)
    assert tiny_calibration().combined({"flows": 3.0}) == 3.0
    with pytest.raises(ValueError, match="set_classifier"):
        calibration.combined({"flows": 3.0})
    assert calibration.percentiles({"flows": 1.0, "combined": 0.0, "other": 1.0, "plain_ratio": float("nan")}) == {
        "flows": pytest.approx(50.0), "combined": pytest.approx(50.0),
    }  # fmt: skip
