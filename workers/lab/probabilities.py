"""What labels add to a calibration: probabilities, by Platt's method or isotonic regression, and sensitivities."""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from triage.calibration import Calibration, Probability
from triage.errors import ConfigurationError
from workers.lab.calibrate import point_at
from workers.lab.evaluation.metrics import fixed_sensitivity

SENSITIVITIES = (0.8, 0.9, 0.95)
LEAST_LABELS = 50
#: Isotonic regression learns a curve of any shape, which takes more cases than Platt's two numbers.
LEAST_ISOTONIC = 200
#: Its steps: so many, but of no fewer cases each.
STEPS, CASES = 40, 20

Method = Literal["platt", "isotonic"]
Numbers = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]


def with_labels(
    calibration: Calibration, combined: Numbers, abnormal: Truth, *, prevalence: float, method: Method = "platt"
) -> Calibration:
    """Add what labels allow: a probability, corrected for the prevalence, and thresholds by sensitivity.

    Parameters
    ----------
    calibration : Calibration
        Made without labels.
    combined : numpy.ndarray
        The combined statistic of labelled cases that no estimator was trained on, (N,).
    abnormal : numpy.ndarray
        Their labels, bool, (N,).
    prevalence : float
        The share of abnormal studies where the bundle will be used.
    method : str
        ``"platt"``: a logistic curve; ``"isotonic"``: any curve that never falls.

    Raises
    ------
    ConfigurationError
        If there are fewer than 50 cases of either kind (isotonic: 200).
    """
    count, least = (int(abnormal.sum()), int((~abnormal).sum())), least_labels(method)
    if min(count) < least:
        raise ConfigurationError(
            f"{count[0]} abnormal and {count[1]} normal labels are too few for probabilities ({method})",
            remedy=f"bring {least} of either, or calibrate without labels",
        )
    fitted = _platt(combined, abnormal) if method == "platt" else _isotonic(combined, abnormal)
    share = float(abnormal.mean())
    probability = Probability.model_validate(
        {"prevalence": share, "assumed": prevalence, "normal": count[1], "abnormal": count[0], **fitted}
    )
    points = [
        point_at(calibration, "sensitivity", s, fixed_sensitivity(combined, abnormal, s)["threshold"])
        for s in SENSITIVITIES
    ]
    kept = [point for point in calibration.operating_points if point.kind == "flag_rate"]
    return calibration.model_copy(update={"probability": probability, "operating_points": (*kept, *points)})


def least_labels(method: Method) -> int:
    """Return how many cases of either kind a method needs."""
    return LEAST_ISOTONIC if method == "isotonic" else LEAST_LABELS


def _platt(combined: Numbers, abnormal: Truth) -> dict[str, float]:
    """Platt 1999, *Probabilistic outputs for support vector machines*; a falling curve becomes a flat one."""
    spread = float(combined.std()) or 1.0
    model = LogisticRegression(C=1e4).fit(combined[:, None] / spread, abnormal)
    slope = float(model.coef_[0, 0]) / spread
    share = float(abnormal.mean())
    flat = math.log(share / (1 - share))
    return {"slope": max(slope, 0.0), "intercept": float(model.intercept_[0]) if slope > 0 else flat}


def _isotonic(combined: Numbers, abnormal: Truth) -> dict[str, object]:
    """Zadrozny and Elkan 2002, over steps of equally many cases.

    A step of few cases at an end would promise what they can't show, and a rarer prevalence would multiply that: so a
    step has a share of them all, and is drawn towards one half by a case of either kind (Laplace's rule of succession).
    """
    ordered = np.sort(combined)
    starts = [part[0] for part in np.array_split(ordered, min(STEPS, len(ordered) // CASES))]
    step_of = np.searchsorted(np.unique(starts), combined, side="right") - 1  # equal values fall into one step
    steps = [np.flatnonzero(step_of == number) for number in range(step_of.max() + 1)]
    shares = [(abnormal[step].sum() + 1) / (len(step) + 2) for step in steps]
    places = np.maximum.accumulate([combined[step].mean() for step in steps]).tolist()  # means round
    rising = IsotonicRegression().fit_transform(
        np.arange(len(steps)), shares, sample_weight=[len(step) for step in steps]
    )
    logits = np.log(rising / (1 - rising))
    return {"slope": 0.0, "intercept": 0.0, "knots": tuple(zip(places, logits.tolist(), strict=True))}
