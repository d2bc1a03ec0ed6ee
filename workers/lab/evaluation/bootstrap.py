"""Areas under ROC curves with bootstrap intervals that know which images belong to one patient."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

Scores = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

DRAWS = 2000
SEED = 0
CHUNK = 200  # draws at once: 200 × 15,000 images × 8 bytes is 24 MB


@dataclass(frozen=True)
class Bootstrap:
    """How intervals were made; goes into ``metrics.json``."""

    draws: int = DRAWS
    seed: int = SEED
    interval: str = "95 %, percentile method"
    resampled: str = "patients"
    strata: str = "with and without an abnormal image"

    def as_dict(self) -> dict[str, object]:
        """Return JSON-able builtins."""
        return asdict(self)


def auc_interval(
    scores: Scores, abnormal: Mask, patients: Sequence[str], settings: Bootstrap
) -> tuple[float, tuple[float, float] | None]:
    """Return an AUC and its interval; patients are drawn with all their images.

    One patient with normal or with abnormal images is the same in every draw: then there is no interval.

    Parameters
    ----------
    scores : numpy.ndarray
        float64, (N,), higher = more abnormal.
    abnormal : numpy.ndarray
        bool, (N,).
    patients : sequence of str
        (N,): whose image it is.
    settings : Bootstrap
        Number of draws and seed.

    Raises
    ------
    ValueError
        If a class is empty.
    """
    value = float(roc_auc_score(abnormal, scores))
    order = np.argsort(scores, kind="stable")
    ordered, positive = scores[order], abnormal[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # where each group of ties begins
    _, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    owner = owner.ravel()
    people = int(owner.max()) + 1
    if min(len(np.unique(owner[abnormal])), len(np.unique(owner[~abnormal]))) < 2:
        return value, None
    ill = np.zeros(people, dtype=bool)
    np.logical_or.at(ill, owner, abnormal)
    rng = np.random.default_rng(settings.seed)
    drawn: list[Scores] = []
    for start in range(0, settings.draws, CHUNK):
        counts = np.zeros((min(CHUNK, settings.draws - start), people))
        for stratum in (np.flatnonzero(~ill), np.flatnonzero(ill)):
            if len(stratum):
                even = np.full(len(stratum), 1 / len(stratum))
                counts[:, stratum] = rng.multinomial(len(stratum), even, size=len(counts))
        weights = counts[:, owner[order]]
        drawn.append(_areas(np.where(positive, 0.0, weights), np.where(positive, weights, 0.0), first))
    low, high = np.nanpercentile(np.concatenate(drawn), [2.5, 97.5])
    return value, (float(low), float(high))


def _areas(negative: Scores, positive: Scores, first: npt.NDArray[np.intp]) -> Scores:
    """Return the weighted AUC of every row, (draws, N) weights in order of score; NaN where a class has no weight."""
    below = np.add.reduceat(negative, first, axis=1)
    above = np.add.reduceat(positive, first, axis=1)
    before = np.cumsum(below, axis=1) - below
    area = (above * (before + below / 2)).sum(axis=1)
    total = below.sum(axis=1) * above.sum(axis=1)
    areas: Scores = np.divide(area, total, out=np.full_like(area, np.nan), where=total > 0)
    return areas
