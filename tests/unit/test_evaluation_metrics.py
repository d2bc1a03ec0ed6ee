"""Metrics: against scikit-learn, against theory by simulation, and against counting by hand."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from tests.support.evaluation import labelled, scored, two_groups
from workers.lab.evaluation.bootstrap import Bootstrap, _areas, auc_interval
from workers.lab.evaluation.figures import histogram, legend_text, percentiles, roc
from workers.lab.evaluation.metrics import (
    age_band,
    estimator_metrics,
    fixed_flag_rate,
    fixed_sensitivity,
    label_metrics,
    labels_of,
    percentile_metrics,
    subgroups,
    youden,
    zero_pixels,
)

FEW = Bootstrap(draws=400)


def test_weighted_areas_are_scikit_learn_s_with_ties() -> None:
    rng = np.random.default_rng(1)
    scores = np.sort(rng.integers(0, 6, 60)).astype(float)
    truth = rng.random(60) < 0.4
    first = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    weights = rng.integers(0, 4, (5, 60)).astype(float)
    found = _areas(np.where(truth, 0, weights), np.where(truth, weights, 0), first)
    expected = [roc_auc_score(truth, scores, sample_weight=row) for row in weights]
    assert np.allclose(found, expected)


def test_interval_covers_the_true_auc_about_as_often_as_it_says() -> None:
    truth = float(norm.cdf(1.0 / np.sqrt(2)))
    covered = 0
    for seed in range(200):
        scores, labels = two_groups(60, 1.0, seed)
        ill = np.array([label == "ill" for label in labels])
        _, (low, high) = auc_interval(scores, ill, [str(n) for n in range(120)], FEW)
        covered += low <= truth <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_images_of_one_patient_widen_the_interval() -> None:
    scores, labels = two_groups(40, 1.0)
    ill = np.tile([label == "ill" for label in labels], 5)
    repeated = np.tile(scores, 5)
    owners = [str(n) for n in range(80)] * 5
    _, alone = auc_interval(repeated, ill, [str(n) for n in range(400)], FEW)
    _, together = auc_interval(repeated, ill, owners, FEW)
    _, once = auc_interval(scores, ill[:80], owners[:80], FEW)
    assert together[1] - together[0] > 1.8 * (alone[1] - alone[0])
    assert np.allclose(together, once, atol=0.01)


def test_operating_points_by_hand() -> None:
    scores = np.array([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    ill = np.array([0, 0, 0, 1, 0, 0, 1, 1, 1, 1], dtype=bool)
    best = youden(scores, ill)
    assert (best["threshold"], best["sensitivity"], best["specificity"]) == (6.0, 0.8, 1.0)
    assert best["sensitivity_ci95"][0] < 0.8 < best["sensitivity_ci95"][1]
    wanted = fixed_sensitivity(scores, ill, 0.95)
    assert (wanted["threshold"], wanted["sensitivity"], wanted["specificity"]) == (3.0, 1.0, 0.6)
    rate = fixed_flag_rate(scores, ill, 0.2)
    assert (rate["threshold"], rate["flag_rate"], rate["sensitivity"]) == (8.0, 0.2, 0.4)


def test_a_flag_rate_is_not_exceeded_by_ties() -> None:
    scores = np.array([0.0, 1, 1, 1, 1, 2, 2, 3, 3, 4])
    ill = np.arange(10) >= 5
    assert fixed_flag_rate(scores, ill, 0.2)["flag_rate"] == 0.1


def test_label_metrics_and_what_refused_images_could_hide() -> None:
    scores, labels = two_groups(50, 2.0)
    images = scored(scores, labels, refused=["ill", "ill", "normal"])
    assert labels_of(images.images) == ["ill", "all"]
    entry = label_metrics(scores, images, "ill", FEW)
    assert (entry["n_normal"], entry["n_abnormal"]) == (50, 50)
    assert entry["not_scored"] == {"normal": 1, "abnormal": 2}
    assert entry["auc"] == pytest.approx(roc_auc_score([label == "ill" for label in labels], scores))
    assert entry["ci95"][0] < entry["auc"] < entry["ci95"][1]
    assert entry["auc_if_not_scored_were_wrong"] == pytest.approx(entry["auc"] * 50 * 50 / (51 * 52))
    assert entry == label_metrics(scores, images, "all", FEW)


def test_a_label_whose_images_were_all_refused_has_no_auc() -> None:
    scores, labels = two_groups(20, 1.0)
    images = scored(scores, labels, refused=["rare"])
    assert label_metrics(scores, images, "rare", FEW)["auc"] is None


def test_subgroups_show_where_normals_are_flagged_more_often() -> None:
    scores, labels = two_groups(60, 3.0)
    worse = np.arange(120) % 2 == 0
    scores = scores + 2.0 * worse
    images = [
        labelled(label, n, sex="f" if worse[n] else "M", age="004Y" if worse[n] else "61")
        for n, label in enumerate(labels)
    ]
    tables = subgroups(scores, images, FEW)
    assert set(tables) == {"sex", "age"}
    assert set(tables["sex"]) == {"F", "M"}
    assert list(tables["age"]) == ["2 to 5", "60 to 74"]
    assert tables["sex"]["F"]["specificity"] < tables["sex"]["M"]["specificity"] - 0.2
    assert tables["sex"]["F"]["n_normal"] == tables["sex"]["M"]["n_normal"] == 30
    assert tables["sex"]["F"]["auc"] > 0.95


def test_ages() -> None:
    assert [age_band(age) for age in ("0", "18M", "17", "18", "075Y", "90.5", "414", "x", "")] == [
        "0 to 1", "0 to 1", "6 to 17", "18 to 39", "75 and over", "75 and over", "", "", "",
    ]  # fmt: skip


def test_zero_pixels_correlate_with_a_score_made_of_them() -> None:
    scores, labels = two_groups(40, 1.0)
    images = scored(scores, labels)
    share = (images.pixels == 0).reshape(80, -1).mean(1)
    assert zero_pixels(-share, images)["all"]["spearman"] == pytest.approx(-1)
    assert abs(zero_pixels(scores, images)["normal"]["pearson"]) < 0.5


def test_percentiles_by_label_and_priority() -> None:
    scores = np.array([10.0, 85, 90, 96, 97, 50])
    images = scored(scores, ["normal", "normal", "ill", "ill", "ill", "normal"])
    found = percentile_metrics(images, ["ill", "all"])
    assert found["flagged"]["HIGH"]["ill"] == pytest.approx(2 / 3)
    assert found["flagged"]["MEDIUM"]["normal"] == pytest.approx(1 / 3)
    assert found["quartiles"]["ill"][1] == 96


def test_metrics_are_the_same_again() -> None:
    scores, labels = two_groups(30, 1.0)
    images = scored(scores, labels)
    first, second = (estimator_metrics(scores, images, ["ill", "all"], FEW) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("label", ["costs $5_$ x", "_hidden", "肺炎"])
def test_any_label_can_be_drawn(label: str, recwarn: pytest.WarningsRecorder) -> None:
    values, _ = two_groups(20, 1.0)
    images = scored(values, ["normal"] * 20 + [label] * 20)
    labels = labels_of(images.images)
    metrics = estimator_metrics(values, images, labels, Bootstrap(draws=20))["labels"]
    pictures = (
        roc("combined", values, images, metrics),
        histogram("combined", values, images, labels),
        percentiles(images, labels),
    )
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert not recwarn.list
    assert legend_text("_hidden") == " _hidden"
