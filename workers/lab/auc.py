"""Area under the ROC curve with its bootstrap interval."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata


@dataclass(frozen=True)
class Auc:
    """An AUC, its 95 % interval, and how many images of either class it rests on."""

    value: float
    low: float
    high: float
    normal: int
    abnormal: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}] ({self.normal} normal, {self.abnormal} abnormal)"


def auc(scores: npt.NDArray[np.float64], abnormal: npt.NDArray[np.bool_], *, seed: int = 0, draws: int = 2000) -> Auc:
    """Return the AUC of ``scores`` (higher = more abnormal), resampling within either class.

    Raises
    ------
    ValueError
        If a class is empty.
    """
    negative, positive = scores[~abnormal], scores[abnormal]
    if not len(negative) or not len(positive):
        raise ValueError("an AUC needs normal and abnormal images")
    rng = np.random.default_rng(seed)
    drawn = [_area(rng.choice(negative, len(negative)), rng.choice(positive, len(positive))) for _ in range(draws)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Auc(_area(negative, positive), float(low), float(high), len(negative), len(positive))


def _area(negative: npt.NDArray[np.float64], positive: npt.NDArray[np.float64]) -> float:
    ranks = rankdata(np.concatenate([negative, positive]))[len(negative) :]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(negative) * len(positive)))
