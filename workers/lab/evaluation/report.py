"""An evaluation from end to end: read, score, measure, draw, and write the folder of the report."""

import csv
import hashlib
import json
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from triage import __version__
from triage.bundles import Bundle
from triage.errors import BundleError, ConfigurationError
from workers.lab.evaluation import fictional, figures, gallery
from workers.lab.evaluation.bootstrap import DRAWS, Bootstrap
from workers.lab.evaluation.html import page
from workers.lab.evaluation.labels import Matched
from workers.lab.evaluation.metrics import (
    bound_metrics,
    estimator_metrics,
    labels_of,
    level_metrics,
    percentile_metrics,
)
from workers.lab.evaluation.scores import Scored, score_images

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "SimpleITK", "pydicom", "matplotlib")
WITH_GALLERIES = ("combined", "plain_ratio", "log_prob_normal")
RANKS = "combined"
FICTIONAL = 12


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to evaluate and where to write it.

    Attributes
    ----------
    bundle : Bundle
        What scores.
    matched : Matched
        The labelled images.
    test : str
        Names the test set in the report.
    labels_digest : str
        SHA-256 of the table.
    report : Path
        The folder to write.
    draws : int
        Of the bootstrap.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    """

    bundle: Bundle
    matched: Matched
    test: str
    labels_digest: str
    report: Path
    draws: int = DRAWS
    device: str = "auto"


def evaluate(evaluation: Evaluation, advance: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Evaluate, write ``metrics.json``, ``scores.csv``, the figures and ``report.html``; return the metrics.

    Raises
    ------
    ConfigurationError
        If the table names no normal or no abnormal image.
    TriageError
        If no image can be scored.
    """
    images = evaluation.matched.images
    labels = labels_of(images)
    if len(labels) == 1 or not any(image.normal for image in images):
        raise ConfigurationError(
            "the table needs images labelled normal and images with another label",
            remedy='write "normal" for the negatives into the column label',
        )
    evaluation.report.mkdir(parents=True, exist_ok=True)  # where that can't be, it is known before the long work
    scored = score_images(evaluation.bundle, images, evaluation.device, advance)
    metrics = measure(evaluation, scored, labels)
    text = json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False)
    (evaluation.report / "metrics.json").write_text(text + "\n", encoding="utf-8")
    _write_scores(evaluation.report / "scores.csv", scored)
    pictures = draw(scored, metrics, labels)
    with suppress(BundleError):  # a flow that cannot draw may still rank
        pictures["fictional.png"] = fictional.drawn(evaluation.bundle, FICTIONAL, device=evaluation.device)
    for name, data in pictures.items():
        (evaluation.report / name).write_bytes(data)
    (evaluation.report / "report.html").write_text(page(evaluation.bundle, metrics, pictures), encoding="utf-8")
    return metrics


def measure(evaluation: Evaluation, scored: Scored, labels: list[str]) -> dict[str, Any]:
    """Return ``metrics.json``."""
    bundle, matched = evaluation.bundle, evaluation.matched
    people = {image.patient for image in scored.images}
    unnamed = sum(not image.patient_known for image in scored.images)
    resampled = f"patients, and {unnamed} images of which nothing says whose they are" if unnamed else "patients"
    settings = Bootstrap(draws=evaluation.draws, resampled=resampled)
    estimators = {
        name: estimator_metrics(values, scored, labels, settings) for name, values in scored.estimates.items()
    }
    counts: dict[str, int] = {}
    for refusal in scored.refused:
        counts[refusal.reason] = counts.get(refusal.reason, 0) + 1
    return {
        "bundle": {
            "name": bundle.name,
            "version": bundle.version,
            "digest": bundle.digest,
            "modality": bundle.modality,
            "calibration": bundle.calibration.name,
        },
        "test": {
            "folder": evaluation.test,
            "labels_sha256": evaluation.labels_digest,
            "images_labelled": len(matched.images),
            "images_scored": len(scored),
            "patients_scored": len(people),
            "images_of_unnamed_patients": unnamed,
            "rows_without_image": matched.rows,
            "images_without_row": matched.cases,
        },
        "not_scored": {
            "handling": "left out of auc, ci95 and operating points; auc_if_not_scored_were_wrong counts each as wrong",
            "total": len(scored.refused),
            "reasons": counts,
            "images": [
                {"file": refusal.image.case.key, "labels": sorted(refusal.image.labels), "reason": refusal.reason}
                for refusal in scored.refused
            ],
        },
        "bootstrap": settings.as_dict(),
        "ranks_by": RANKS,
        "labels": estimators[RANKS]["labels"],
        **estimators,
        "levels": level_metrics(scored, settings),
        "ratio_bound": bound_metrics(scored, bundle.calibration.log_prior),
        "percentile": percentile_metrics(scored, labels),
        "software": {"triage-node": __version__, "python": platform.python_version()}
        | {library: version(library) for library in LIBRARIES},
    }


def draw(scored: Scored, metrics: dict[str, Any], labels: list[str]) -> dict[str, bytes]:
    """Return every figure's PNG by its file name."""
    pictures: dict[str, bytes] = {}
    for name, values in scored.estimates.items():
        pictures[f"roc_{name}.png"] = figures.roc(name, values, scored, metrics[name]["labels"])
        pictures[f"histogram_{name}.png"] = figures.histogram(name, values, scored, labels)
        if name in WITH_GALLERIES:
            pictures[f"most_abnormal_{name}.png"] = gallery.most_abnormal(values, scored)
            pictures[f"least_abnormal_{name}.png"] = gallery.most_abnormal(values, scored, least=True)
    panels = {name: scored.estimates[name] for name in ("log_prob_normal", "plain_ratio", RANKS)}
    tables = {name: metrics[name]["zero_pixels"] for name in panels}
    pictures["zero_pixels.png"] = figures.zero_pixels(panels, scored, tables)
    pictures["percentiles.png"] = figures.percentiles(scored, labels)
    return pictures


def _write_scores(path: Path, scored: Scored) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["file", "label", *scored.estimates, "percentile", "not_scored"])
        for number, image in enumerate(scored.images):
            values = [repr(float(column[number])) for column in scored.estimates.values()]
            label = "|".join(sorted(image.labels))
            table.writerow([image.case.key, label, *values, f"{scored.percentiles[number]:.2f}", ""])
        blanks = [""] * (len(scored.estimates) + 1)
        for refusal in scored.refused:
            table.writerow([refusal.image.case.key, "|".join(sorted(refusal.image.labels)), *blanks, refusal.reason])


def digest_of(path: Path) -> str:
    """Return a file's SHA-256, hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
