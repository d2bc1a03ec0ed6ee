"""The area under the ROC curve."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from workers.lab.auc import auc


def test_it_is_scikit_learn_s_ties_included() -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 6, 80).astype(float), rng.random(80) < 0.4
    found = auc(scores, truth)
    assert found.value == pytest.approx(roc_auc_score(truth, scores))
    assert found.low < found.value < found.high
    assert (found.normal, found.abnormal) == (int((~truth).sum()), int(truth.sum()))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = np.arange(60) < 30
    hits = 0
    for _ in range(60):
        found = auc(rng.normal(size=60), truth, draws=300)
        hits += found.low <= 0.5 <= found.high
    assert hits >= 50


def test_one_class_has_no_auc() -> None:
    with pytest.raises(ValueError, match="normal and abnormal"):
        auc(np.zeros(3), np.zeros(3, bool))
