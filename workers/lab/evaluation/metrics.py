"""What is said about an estimator: AUC by label, operating points, subgroups; and about the percentile."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, pearsonr, spearmanr
from sklearn.metrics import roc_auc_score, roc_curve

from workers.images.ages import years
from workers.lab.evaluation.bootstrap import Bootstrap, auc_interval
from workers.lab.evaluation.labels import FACTS, NORMAL_LABEL, Labelled
from workers.lab.evaluation.scores import Refused, Scored, Scores

Mask = npt.NDArray[np.bool_]

ALL = "all"
SENSITIVITIES = (0.95, 0.90)
FLAG_RATES = (0.05, 0.20)
PRIORITIES = {"HIGH": 95.0, "MEDIUM": 80.0}
AGE_ENDS = (2, 6, 18, 40, 60, 75)
SMALL = 10  # images of a class below which a subgroup's number is hardly one


def labels_of(images: Sequence[Labelled]) -> list[str]:
    """Return the abnormal labels, and "all" at the end."""
    return [*sorted({label for image in images for label in image.labels} - {NORMAL_LABEL}), ALL]


def masks(images: Sequence[Labelled], label: str) -> tuple[Mask, Mask]:
    """Return which images are normal, and which have ``label`` ("all": any but normal)."""
    normal = np.array([image.normal for image in images], dtype=bool)
    if label == ALL:
        return normal, ~normal
    return normal, np.array([label in image.labels for image in images], dtype=bool)


def estimator_metrics(
    scores: Scores, scored: Scored, labels: Sequence[str], settings: Bootstrap
) -> dict[str, dict[str, Any]]:
    """Return an estimator's part of ``metrics.json``: by label, by subgroup, and against the share of zero pixels."""
    found = {label: label_metrics(scores, scored, label, settings) for label in labels}
    return {
        "labels": found,
        "subgroups": subgroups(scores, scored.images, settings),
        "zero_pixels": zero_pixels(scores, scored),
    }


def label_metrics(scores: Scores, scored: Scored, label: str, settings: Bootstrap) -> dict[str, Any]:
    """Return counts, AUC, and operating points of one label against normal."""
    normal, abnormal = masks(scored.images, label)
    entry: dict[str, Any] = {"n_normal": int(normal.sum()), "n_abnormal": int(abnormal.sum())}
    entry["not_scored"] = _refused_counts(scored.refused, label)
    if not normal.any() or not abnormal.any():
        return entry | {"auc": None, "ci95": None}
    keep = normal | abnormal
    values, truth = scores[keep], abnormal[keep]
    patients = [image.patient for image, kept in zip(scored.images, keep, strict=True) if kept]
    area, interval = auc_interval(values, truth, patients, settings)
    entry |= {
        "auc": area,
        "ci95": interval and list(interval),
        "auc_if_not_scored_were_wrong": _worst(values, truth, entry),
    }
    entry["youden"] = youden(values, truth)
    entry["fixed_sensitivity"] = [fixed_sensitivity(values, truth, wanted) for wanted in SENSITIVITIES]
    entry["fixed_flag_rate"] = [fixed_flag_rate(values, truth, rate) for rate in FLAG_RATES]
    return entry


def _refused_counts(refused: Sequence[Refused], label: str) -> dict[str, int]:
    normal, abnormal = masks([refusal.image for refusal in refused], label)
    return {"normal": int(normal.sum()), "abnormal": int(abnormal.sum())}


def _worst(values: Scores, truth: Mask, entry: Mapping[str, Any]) -> float:
    """Return the AUC if every image without a score had been ranked on the wrong side of all others."""
    refused = entry["not_scored"]
    top, bottom = float(values.max()) + 1, float(values.min()) - 1
    scores = np.r_[values, np.full(refused["normal"], top), np.full(refused["abnormal"], bottom)]
    wrong = np.r_[truth, np.zeros(refused["normal"], bool), np.ones(refused["abnormal"], bool)]
    return float(roc_auc_score(wrong, scores))


def at_threshold(scores: Scores, abnormal: Mask, threshold: float) -> dict[str, Any]:
    """Return what flagging every score of at least ``threshold`` does, shares with 95 % Wilson intervals."""
    flagged = scores >= threshold
    hits, cleared = int((flagged & abnormal).sum()), int((~flagged & ~abnormal).sum())
    n_abnormal, n_normal = int(abnormal.sum()), int((~abnormal).sum())
    return {
        "threshold": float(threshold),
        "sensitivity": hits / n_abnormal,
        "sensitivity_ci95": wilson(hits, n_abnormal),
        "specificity": cleared / n_normal,
        "specificity_ci95": wilson(cleared, n_normal),
        "flag_rate": float(flagged.mean()),
    }


def wilson(hits: int, trials: int) -> list[float]:
    """Return the 95 % Wilson interval of a share."""
    interval = binomtest(hits, trials).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def youden(scores: Scores, abnormal: Mask) -> dict[str, Any]:
    """Return the point of the ROC curve with the largest sensitivity + specificity - 1 (Youden 1950)."""
    false_rate, true_rate, thresholds = roc_curve(abnormal, scores, drop_intermediate=False)
    # The curve begins at an infinite threshold, where nothing is flagged.
    best = 1 + int(np.argmax(true_rate[1:] - false_rate[1:]))
    return at_threshold(scores, abnormal, float(thresholds[best]))


def fixed_sensitivity(scores: Scores, abnormal: Mask, wanted: float) -> dict[str, Any]:
    """Return the highest threshold whose sensitivity is at least ``wanted``."""
    _, true_rate, thresholds = roc_curve(abnormal, scores, drop_intermediate=False)
    first = int(np.argmax(true_rate >= wanted - 1e-12))
    return {"wanted": wanted} | at_threshold(scores, abnormal, float(thresholds[first]))


def fixed_flag_rate(scores: Scores, abnormal: Mask, rate: float) -> dict[str, Any]:
    """Return what flagging at most a share ``rate`` of these images does; see `flag_threshold`."""
    return {"wanted": rate} | at_threshold(scores, abnormal, flag_threshold(scores, rate))


def flag_threshold(scores: Scores, rate: float) -> float:
    """Return the lowest threshold that flags at most a share ``rate`` of these images (at least one image)."""
    ordered = np.sort(scores)[::-1]
    room = max(1, int(np.floor(rate * len(ordered) + 1e-9)))
    threshold = ordered[room - 1]
    if room < len(ordered) and ordered[room] == threshold and (ordered > threshold).any():
        threshold = ordered[ordered > threshold][-1]  # ties that would not all fit stay unflagged
    return float(threshold)


def age_band(age: str) -> str:
    """Return the band of an age in years; "" if it is no number."""
    number = years(age)
    if number is None or number >= 150:  # NIH's lists hold a few ages of 400 and more
        return ""
    low = max((end for end in AGE_ENDS if number >= end), default=0)
    high = min((end for end in AGE_ENDS if number < end), default=None)
    return f"{low} to {high - 1}" if high else f"{low} and over"


def group_of(image: Labelled, fact: str) -> str:
    """Return the subgroup of an image by one of `FACTS`; "" if it isn't known."""
    value = image.facts.get(fact, "")
    return age_band(value) if fact == "age" else value.upper() if fact in ("sex", "view") else value


def subgroups(scores: Scores, images: Sequence[Labelled], settings: Bootstrap) -> dict[str, dict[str, Any]]:
    """Return, by fact and subgroup, counts and AUC of all abnormal images, and the rates at one common threshold.

    The threshold is Youden's of the whole test set, so that a subgroup whose normals are flagged more often shows.
    """
    normal, abnormal = masks(images, ALL)
    if not normal.any() or not abnormal.any():
        return {}
    threshold = float(youden(scores, abnormal)["threshold"])
    tables: dict[str, dict[str, Any]] = {}
    for fact in FACTS:
        groups = np.array([group_of(image, fact) for image in images])
        names = sorted(set(groups) - {""}, key=lambda name: (_leading_number(name), name))
        if names:
            tables[fact] = {
                name: _subgroup(scores, images, groups == name, threshold=threshold, settings=settings)
                for name in names
            }
    return tables


def _leading_number(name: str) -> float:
    head = name.split(maxsplit=1)[0] if name else ""
    return float(head) if head.isdigit() else 0.0


def _subgroup(
    scores: Scores, images: Sequence[Labelled], here: Mask, *, threshold: float, settings: Bootstrap
) -> dict[str, Any]:
    truth, values = masks(images, ALL)[1][here], scores[here]
    entry: dict[str, Any] = {"n_normal": int((~truth).sum()), "n_abnormal": int(truth.sum())}
    entry["few"] = min(entry.values()) < SMALL
    flagged = values >= threshold
    entry["sensitivity"] = float(flagged[truth].mean()) if truth.any() else None
    entry["specificity"] = float((~flagged[~truth]).mean()) if not truth.all() else None
    entry |= {"auc": None, "ci95": None}
    if truth.any() and not truth.all():
        patients = [image.patient for image, inside in zip(images, here, strict=True) if inside]
        area, interval = auc_interval(values, truth, patients, settings)
        entry |= {"auc": area, "ci95": interval and list(interval)}
    return entry


def zero_share(scored: Scored) -> Scores:
    """Return every image's share of zero pixels on the bundle's grid."""
    share: Scores = (scored.pixels == 0).reshape(len(scored), -1).mean(axis=1)
    return share


def zero_pixels(scores: Scores, scored: Scored) -> dict[str, Any]:
    """Return how a score goes with the share of zero pixels (paper, figure A.20), over all and over normals alone.

    Over all images a correlation may come from disease; over normals alone it can't.
    """
    share = zero_share(scored)
    normal, _ = masks(scored.images, ALL)
    return {"all": _correlations(scores, share), "normal": _correlations(scores[normal], share[normal])}


def _correlations(scores: Scores, share: Scores) -> dict[str, float | int | None]:
    if len(scores) < 3 or np.ptp(share) == 0 or np.ptp(scores) == 0:
        return {"n": len(scores), "pearson": None, "spearman": None}
    return {
        "n": len(scores),
        "pearson": float(pearsonr(scores, share).statistic),
        "spearman": float(spearmanr(scores, share).statistic),
    }


def level_metrics(scored: Scored, settings: Bootstrap) -> list[dict[str, Any]]:
    """Return the AUC (all abnormal) of every level's part of the ratio, and of -log p(x|normal), finest level first."""
    normal, abnormal = masks(scored.images, ALL)
    if not normal.any() or not abnormal.any():
        return []
    patients = [image.patient for image in scored.images]
    rows: list[dict[str, Any]] = []
    for level in range(scored.ratios.shape[1]):
        row: dict[str, Any] = {"level": level + 1}
        for name, parts in (("ratio", scored.ratios), ("log_prob_normal", -scored.likelihoods)):
            values = parts[:, level]
            area, interval = auc_interval(values, abnormal, patients, settings)
            spread = float(values[normal].std())
            row[name] = {"auc": area, "ci95": interval and list(interval), "normal_mean": float(values[normal].mean()),
                         "normal_sd": spread}  # fmt: skip
        rows.append(row)
    return rows


def bound_metrics(scored: Scored, log_prior: tuple[float, float] | None) -> dict[str, Any] | None:
    """Return how often the plain ratio breaks its bound, None where the share of normals isn't known.

    Exact densities obey log p(x) - log p(x|normal) >= ln(share of normals in the mixture); flows don't: as many
    of their ratios as break it are no log posteriors.
    """
    if log_prior is None:
        return None
    below = scored.estimates["plain_ratio"] < log_prior[0]
    return {"bound_nats": log_prior[0], "below": int(below.sum()), "images": len(below)}


def percentile_metrics(scored: Scored, labels: Sequence[str]) -> dict[str, Any]:
    """Return what the bundle's percentile does here: its quartiles by label, and what each priority flags."""
    normal, _ = masks(scored.images, ALL)
    groups = {NORMAL_LABEL: normal} | {label: masks(scored.images, label)[1] for label in labels}
    return {
        "quartiles": {
            name: [float(q) for q in np.percentile(scored.percentiles[inside], [25, 50, 75])] if inside.any() else None
            for name, inside in groups.items()
        },
        "flagged": {
            priority: {"from_percentile": cut} | {
                name: float((scored.percentiles[inside] >= cut).mean()) if inside.any() else None
                for name, inside in groups.items()
            }
            for priority, cut in PRIORITIES.items()
        },
    }  # fmt: skip
