"""Every estimator's score of every labelled image, or the reason why there is none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from triage.bundles import Bundle
from triage.errors import NotScoredError, TriageError
from triage.messages import ModelInput
from workers.flows.engine import Engine
from workers.flows.golden_check import require_golden
from workers.flows.measure import statistics
from workers.lab.evaluation.labels import Labelled
from workers.lab.image_set import Pixels

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Refused:
    """An image without a score, and why."""

    image: Labelled
    reason: str


@dataclass(frozen=True)
class Scored:
    """What a bundle makes of labelled images.

    Attributes
    ----------
    images : list of Labelled
        Those that have a score; all arrays are in this order.
    pixels : numpy.ndarray
        uint8, (N, …), on the bundle's grid.
    estimates : dict of str to numpy.ndarray
        Estimator's name to its scores, (N,), higher = more abnormal.
    percentiles : numpy.ndarray
        (N,), 0 to 100, against the bundle's reference.
    ratios, likelihoods : numpy.ndarray
        (N, L), nats: every level's part of log p(x) - log p(x|normal), and of log p(x|normal).
    refused : list of Refused
        The rest.
    """

    images: list[Labelled]
    pixels: Pixels
    estimates: dict[str, Scores]
    percentiles: Scores
    ratios: Scores
    likelihoods: Scores
    refused: list[Refused]

    def __len__(self) -> int:
        return len(self.images)


def score_images(
    bundle: Bundle, images: Sequence[Labelled], device: str, advance: Callable[[], None] = lambda: None
) -> Scored:
    """Read and score ``images``; ``advance`` is called after each.

    An image is refused for the reasons for which the node refuses one: it can't be read, the gate doesn't take it for
    what it should be, or its numbers lie outside of what the bundle was calibrated on.

    Raises
    ------
    MachineError
        If this machine doesn't score as the bundle's maker did.
    TriageError
        If no image at all has a score.
    """
    engine = Engine(bundle, device)
    require_golden(engine)
    kept: list[Labelled] = []
    refused: list[Refused] = []
    pixels: list[Pixels] = []
    rows: list[tuple[Scores, Scores, float]] = []
    found: list[dict[str, float]] = []
    for image in images:
        try:
            grid = image.case.read()
        except NotScoredError as exc:
            refused.append(Refused(image, exc.message))
        else:
            score = engine.score(ModelInput(modality=bundle.modality, pixels=grid))
            if score.not_scored:
                refused.append(Refused(image, score.not_scored))
            else:
                kept.append(image)
                pixels.append(grid)
                rows.append((np.array(score.levels_normal), np.array(score.levels_mixture), score.percentile))
                found.append(statistics(score))
        advance()
    if not kept:
        reasons = "; ".join(dict.fromkeys(refusal.reason for refusal in refused))
        raise TriageError(f"none of the {len(refused)} labelled images could be scored: {reasons}")
    normal, mixture = (np.stack([row[part] for row in rows]) for part in (0, 1))
    estimates = {name: np.array([row[name] for row in found]) for name in bundle.manifest.estimators}
    percentiles = np.array([row[2] for row in rows])
    return Scored(kept, np.stack(pixels), estimates, percentiles, mixture - normal, normal, refused)
