"""From nats to percentiles, and to no score at all."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.flows import tiny_calibration
from triage.calibration import UNLIKE

REFERENCE = tuple(float(v) for v in range(10))


def test_a_percentile_is_the_share_of_the_reference_below() -> None:
    calibration = tiny_calibration(reference=REFERENCE)
    assert calibration.percentile(4.5) == pytest.approx(50)
    assert calibration.percentile(-1) == 0
    assert calibration.percentile(11) == 100


@given(st.floats(-20, 20), st.floats(-20, 20))
def test_more_abnormal_is_never_a_lower_percentile(a: float, b: float) -> None:
    calibration = tiny_calibration(reference=REFERENCE)
    low, high = sorted((a, b))
    assert 0 <= calibration.percentile(low) <= calibration.percentile(high) <= 100


def test_the_statistic_weighs_levels_and_rises_with_minus_the_log_posterior() -> None:
    plain = tiny_calibration()
    assert plain.statistic([-1.0, -2.0], [-3.0, -1.5]) == pytest.approx(-(-3.0 - -4.5))
    coarse = tiny_calibration(weights=(0.0, 1.0))
    assert coarse.statistic([-1.0, -2.0], [-3.0, -1.5]) == pytest.approx(0.5)


RANGES = {"normal": (-10.0, 10.0), "ratio": (0.0, 1.0)}


@pytest.mark.parametrize(
    "quantities",
    [
        {"normal": 11.0, "ratio": 0.5},
        {"normal": 0.0, "ratio": -0.1},
        {"normal": math.nan, "ratio": 0.5},
        {"normal": -math.inf, "ratio": 0.5},
        {"normal": 0.0},
        {"normal": 0.0, "ratio": 0.5, "another": math.inf},
    ],
)
def test_what_is_out_of_range_not_finite_or_unknown_is_not_scored(quantities: dict[str, float]) -> None:
    assert tiny_calibration(ranges=RANGES).check(quantities) == UNLIKE == "unlike anything the model was calibrated on"


def test_what_is_in_range_is_scored() -> None:
    assert tiny_calibration(ranges=RANGES).check({"normal": 10.0, "ratio": 0.0, "another": 5.0}) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"reference": (1.0, 0.0)},
        {"reference": (0.0, math.nan)},
        {"ranges": {"ratio": (1.0, 0.0)}},
        {"weights": (-1.0, 1.0)},
        {"format": 2},
        {"note": "?"},
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        tiny_calibration(**change)
