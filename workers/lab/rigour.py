"""What is wrong with a pair of flows although both trained without a complaint.

The ratio is a difference of two large numbers: a flow that over-fits, or was trained longer than the other, shifts it
by more than disease does (measured: from an offset of about 100 nats in the coarsest level on).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from triage.durable import replacing
from workers.lab.curves import StageRecord, write_curves

log = structlog.get_logger(__name__)

RECORD = "training.json"

RISE_NATS = 5.0
OFFSET_NATS = 100.0
UNEQUAL = 1.5
LEAST_REFERENCES = 30


def overfitting(record: StageRecord) -> list[str]:
    """Return what the learning curve of one flow says about over-fitting, level by level."""
    if not record.epochs:
        return []
    kept = next((row for row in record.epochs if row.epoch == record.kept_epoch), record.epochs[-1])
    levels = len(record.level_dimensions)
    found: list[str] = []
    for level, dimensions in enumerate(record.level_dimensions):
        best = min(record.epochs, key=lambda row: row.valid_levels[level])
        nats = (kept.valid_levels[level] - best.valid_levels[level]) * dimensions * math.log(2)
        place = f"level {level + 1} of {levels}"
        if nats > RISE_NATS and best.epoch < kept.epoch:
            found.append(
                f"the {record.name} flow over-fits at {place}: its validation part has risen by {nats:.0f} nats "
                f"since epoch {best.epoch}: more images, fewer epochs, or a smaller width there"
            )
    gap = (kept.valid_levels[-1] - kept.train_levels[-1]) * record.level_dimensions[-1] * math.log(2)
    if gap > OFFSET_NATS:
        found.append(
            f"the {record.name} flow knows its training images by heart at its top level: {gap:.0f} nats better on "
            "them than on unseen ones"
        )
    return found


def schedules(normal: StageRecord, mixture: StageRecord) -> list[str]:
    """Return how the two flows' training differed: what one learned longer than the other shifts every ratio."""
    found: list[str] = []
    for what, pair in (
        ("epochs", (normal.kept_epoch, mixture.kept_epoch)),
        ("steps", (normal.kept_step, mixture.kept_step)),
    ):
        if max(pair) > UNEQUAL * max(1, min(pair)):
            found.append(
                f"the flows' schedules differ: the normal flow was kept after {pair[0]} {what}, the mixture flow after "
                f"{pair[1]}: the ratio is shifted, compare scores by percentile only"
            )
    if (normal.skipped or mixture.skipped) and max(normal.skipped, mixture.skipped) > 0.01 * normal.steps:
        found.append(
            f"many steps were skipped, for they would have derailed training ({normal.skipped} of the normal flow's, "
            f"{mixture.skipped} of the mixture flow's): lower the learning rate"
        )
    return found


def top_offset(normal_parts: npt.NDArray[np.float64], mixture_parts: npt.NDArray[np.float64]) -> list[str]:
    """Return whether the flows disagree about normal validation images at their top level.

    Parameters
    ----------
    normal_parts, mixture_parts : numpy.ndarray
        (N, L), nats: every level's part of log p(x|normal) and log p(x), of normal images that neither was trained on.
    """
    offset = float((mixture_parts[:, -1] - normal_parts[:, -1]).mean())
    if abs(offset) <= OFFSET_NATS:
        return []
    worse = "normal" if offset > 0 else "mixture"
    return [
        f"on normal images that neither was trained on the flows' top levels differ by {abs(offset):.0f} nats: the "
        f"{worse} flow over-fits there"
    ]


def few_references(references: int) -> list[str]:
    """Return whether a reference is too small to say what is usual."""
    if references >= LEAST_REFERENCES:
        return []
    return [
        f"percentiles, and what is refused as unlike, rest on {references} images: train with more, or give the bundle "
        "another reference by models calibrate before it ranks anything"
    ]


def write_record(
    folder: Path,
    records: Sequence[StageRecord],
    normal_parts: npt.NDArray[np.float64],
    mixture_parts: npt.NDArray[np.float64],
    *,
    references: int,
) -> list[str]:
    """Write the learning curves and ``training.json`` into ``folder``; return, and log, what is wrong.

    Parameters
    ----------
    folder : Path
        Beside the bundle.
    records : sequence of StageRecord
        Of all stages that ran; the last two are the normal and the mixture flow's.
    normal_parts, mixture_parts : numpy.ndarray
        See `top_offset`.
    references : int
        Held-out unlabelled images that percentiles will be against.
    """
    write_curves(folder, records)
    found = [
        *(text for record in records for text in overfitting(record)),
        *schedules(records[-2], records[-1]),
        *top_offset(normal_parts, mixture_parts),
        *few_references(references),
    ]
    for text in found:
        log.warning("training_suspicious", problem=text)
    stages = [{key: value for key, value in asdict(record).items() if key != "epochs"} for record in records]
    update_record(folder, {"stages": stages, "warnings": found})
    return found


def update_record(folder: Path, entries: dict[str, Any]) -> None:
    """Add entries to ``training.json``, keeping what is there."""
    text = json.dumps(read_record(folder) | entries, indent=1, ensure_ascii=False)
    with replacing(folder / RECORD) as draft:
        draft.write_text(text + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """Return ``training.json``; nothing if there is none, or none that can be read."""
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        log.warning("training_record_damaged", file=str(path))
        return {}
    return record if isinstance(record, dict) else {}
