"""The acquisition probe: can the two training sets be told apart by machine, borders and noise alone?

If they can, so can the flows, and their ratio learns the machine instead of the disease: a ratio that told such sets
apart with an AUC of 0.98 found hardly any opacity (0.52 to 0.57) once both came from one machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction import DictVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from triage.errors import NotScoredError
from workers.lab.acquisition import Features, Raw
from workers.lab.evaluation.bootstrap import Bootstrap, auc_interval
from workers.lab.image_set import share

LIMIT = 0.6
MOST = 300
LEAST = 20
FOLDS = 5
GROUPS = ("header", "border", "noise")
MATCH = (
    "match the sets before training: draw normal and mixture from the same scanners, views, age bands and processing, "
    "in the same proportions (stratified), and let the mixture share its normals with the normal set"
)


@dataclass(frozen=True)
class Acquisition:
    """What the probe found.

    Attributes
    ----------
    auc : float or None
        Cross-validated by patient: mixture-only against normal-only images; None if there were too few.
    ci95 : tuple of float or None
        Its bootstrap interval.
    by_group : dict of str to float
        The same from header fields, from borders, and from noise alone.
    tells : tuple of str
        The features that tell most, each with the AUC of it alone.
    images_normal, images_mixture, shared : int
        Images compared, and images of both sets that were left out.
    note : str
        What limits the finding.
    """

    auc: float | None
    ci95: tuple[float, float] | None
    by_group: dict[str, float]
    tells: tuple[str, ...]
    images_normal: int
    images_mixture: int
    shared: int
    note: str = ""

    @property
    def suspicious(self) -> bool:
        """Whether training would learn the machine: an AUC above 0.6, chance or not."""
        return self.auc is not None and self.auc > LIMIT

    def __str__(self) -> str:
        if self.auc is None or self.ci95 is None:
            return f"acquisition probe: not possible ({self.note})"
        groups = ", ".join(f"{name} {value:.2f}" for name, value in self.by_group.items())
        found = (
            f"acquisition probe: header, borders and noise alone tell the sets apart with AUC {self.auc:.2f} "
            f"[{self.ci95[0]:.2f}, {self.ci95[1]:.2f}] ({groups}; {self.images_normal} normal and "
            f"{self.images_mixture} mixture images, {self.shared} shared ones left out"
            f"{'; ' + self.note if self.note else ''})"
        )
        if not self.suspicious:
            return f"{found}: the sets match"
        chance = " (that may be chance: more images would tell)" if self.ci95[0] <= 0.5 else ""
        return (
            f"{found}. The flows would learn the machine, not the disease{chance}. What tells: {', '.join(self.tells)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-able builtins."""
        return asdict(self) | {"limit": LIMIT, "suspicious": self.suspicious}


def probe(
    normal: Sequence[Raw], mixture: Sequence[Raw], *, seed: int = 0, advance: Callable[[], None] = lambda: None
) -> Acquisition:
    """Tell the two sets apart by features of acquisition; ``advance`` is called after each of `probed` images."""
    chosen, shared = _chosen(normal, mixture, seed)
    rows: list[Features] = []
    patients: list[str] = []
    truth: list[bool] = []
    for label, part in enumerate(chosen):
        for raw in part:
            advance()
            try:
                rows.append(raw.features())
            except NotScoredError:
                continue
            patients.append(raw.patient)
            truth.append(bool(label))
    abnormal = np.array(truth, dtype=bool)
    counts = int((~abnormal).sum()), int(abnormal.sum())
    note = "" if _apart(normal, mixture) else "all normal images are in the mixture, too: the whole set was compared"
    if min(counts) < LEAST:
        few = f"needs {LEAST} images of either set that the other hasn't"
        return Acquisition(None, None, {}, (), *counts, shared, few)
    groups, folds = _grouped(patients, abnormal)
    if groups != patients:
        note = "; ".join(filter(None, (note, "too few patients to go by: an image may be recognised by its patient")))
    scores = _told(rows, abnormal, groups, folds)
    auc, interval = auc_interval(scores, abnormal, groups, Bootstrap(draws=500))
    parts = {name: _only(rows, name) for name in GROUPS}
    by_group = {
        name: float(roc_auc_score(abnormal, _told(part, abnormal, groups, folds)))
        for name, part in parts.items()
        if any(part)
    }
    return Acquisition(auc, interval, by_group, _tells(rows, abnormal), *counts, shared, note)


def probed(normal: Sequence[Raw], mixture: Sequence[Raw], *, seed: int = 0) -> int:
    """Return how many images `probe` looks at."""
    return sum(map(len, _chosen(normal, mixture, seed)[0]))


def _apart(normal: Sequence[Raw], mixture: Sequence[Raw]) -> bool:
    """Whether enough normal images are not in the mixture."""
    both = {raw.identity for raw in mixture}
    return sum(raw.identity not in both for raw in normal) >= LEAST


def _chosen(normal: Sequence[Raw], mixture: Sequence[Raw], seed: int) -> tuple[tuple[list[Raw], list[Raw]], int]:
    """Return at most `MOST` images of either set; shared ones teach both flows the same and are left out.

    Where the mixture holds (nearly) all normals, the whole normal set stands against the rest of the mixture.
    """
    here, there = {raw.identity for raw in normal}, {raw.identity for raw in mixture}
    own = [raw for raw in normal if raw.identity not in there] if _apart(normal, mixture) else list(normal)
    rest = [raw for raw in mixture if raw.identity not in here]
    one, other = (
        sorted(part, key=lambda raw: (share(raw.identity, f"probe {seed}"), raw.identity))[:MOST]
        for part in (own, rest)
    )
    return (one, other), len(here & there)


def _grouped(patients: Sequence[str], abnormal: npt.NDArray[np.bool_]) -> tuple[list[str], int]:
    """Return whose every image is and how many folds to make, two patients of either set in each.

    Where there are too few for that, every image stands for itself.
    """
    names = np.array(patients)
    folds = min(FOLDS, len(set(names[~abnormal])) // 2, len(set(names[abnormal])) // 2)
    return (list(patients), folds) if folds >= 2 else ([str(number) for number in range(len(patients))], FOLDS)


def _only(rows: Sequence[Features], group: str) -> list[Features]:
    return [{name: value for name, value in row.items() if name.startswith(f"{group}.")} for row in rows]


def _matrix(rows: Sequence[Features]) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Return the features as numbers, NaN where an image lacks one; words become one column a word."""
    vectoriser = DictVectorizer(sparse=False)
    known = vectoriser.fit_transform(rows)
    names = [str(name) for name in vectoriser.get_feature_names_out()]
    numeric = {name for row in rows for name, value in row.items() if not isinstance(value, str)}
    for column, name in enumerate(names):
        if name in numeric:
            known[[name not in row for row in rows], column] = np.nan
    return known, names


def _told(
    rows: Sequence[Features], abnormal: npt.NDArray[np.bool_], groups: Sequence[str], count: int
) -> npt.NDArray[np.float64]:
    """Return held-out probabilities of the mixture: the mean of a linear and of a small boosted model."""
    matrix, _ = _matrix(rows)
    found = np.zeros(len(rows))
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    for train, test in folds.split(matrix, abnormal, groups):
        models = (
            make_pipeline(
                SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
                StandardScaler(),
                LogisticRegression(C=0.1, max_iter=2000),
            ),
            HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, learning_rate=0.1, random_state=0),
        )
        for model in models:
            found[test] += model.fit(matrix[train], abnormal[train]).predict_proba(matrix[test])[:, 1] / len(models)
    return found


def _tells(rows: Sequence[Features], abnormal: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    """Return the five single features that tell most, with the AUC of each alone."""
    matrix, names = _matrix(rows)
    best: dict[str, tuple[float, str]] = {}
    for column, name in enumerate(names):
        values = np.nan_to_num(matrix[:, column], nan=-1e9)
        area = float(roc_auc_score(abnormal, values))
        area = max(area, 1 - area)
        feature = name.partition("=")[0]
        if area > best.get(feature, (0.0, ""))[0]:
            best[feature] = (area, name)
    strongest = sorted(best.values(), key=lambda pair: (-pair[0], pair[1]))[:5]
    return tuple(f"{name} (alone {area:.2f})" for area, name in strongest if area > 0.55)
