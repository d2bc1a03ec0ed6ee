"""Labelled images with made-up scores: evaluation without flows."""

from collections.abc import Sequence

import numpy as np

from workers.lab.evaluation.cases import Case
from workers.lab.evaluation.labels import NORMAL_LABEL, Labelled
from workers.lab.evaluation.scores import Refused, Scored


def labelled(label: str, number: int, patient: str = "", **facts: str) -> Labelled:
    """Return an image with one label."""
    key = f"{label}-{number}"
    case = Case(key, frozenset(), patient, {}, (), lambda: np.zeros((8, 8), np.uint8))
    return Labelled(case, frozenset({label}), patient or key, facts, patient_known=bool(patient))


def scored(
    scores: np.ndarray, labels: Sequence[str], patients: Sequence[str] = (), refused: Sequence[str] = ()
) -> Scored:
    """Return images of these labels with these scores under every estimator, and refused ones of the labels given."""
    rng = np.random.default_rng(0)
    names = patients or [""] * len(labels)
    images = [labelled(label, n, name) for n, (label, name) in enumerate(zip(labels, names, strict=True))]
    pixels = rng.integers(0, 3, (len(labels), 8, 8)).astype(np.uint8)
    return Scored(
        images=images,
        pixels=pixels,
        estimates={"log_prob_normal": -scores, "plain_ratio": scores, "flows": scores, "combined": scores},
        percentiles=np.clip(scores, 0, 100),
        ratios=np.column_stack([scores, -scores]),
        likelihoods=np.column_stack([scores, scores]),
        refused=[Refused(labelled(label, 1000 + n), "a reason") for n, label in enumerate(refused)],
    )


def two_groups(count: int, gap: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Return scores of ``count`` normal and ``count`` ill images whose means lie ``gap`` standard deviations apart."""
    rng = np.random.default_rng(seed)
    scores = np.r_[rng.normal(0, 1, count), rng.normal(gap, 1, count)]
    return scores, [NORMAL_LABEL] * count + ["ill"] * count
