"""What a bundle's numbers mean: percentiles, p-values, probabilities, and the range outside of which there is no score.

Every estimator is higher for the more abnormal image.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

UNLIKE = "unlike anything the model was calibrated on"
COMBINED = "combined"
FLOWS = "flows"
SET_CLASSIFIER = "set_classifier"
LOCAL_CLASSIFIER = "local_classifier"

Share = Annotated[float, Field(gt=0, lt=1)]
Values = tuple[FiniteFloat, ...]
Numbers = npt.NDArray[np.float64]
Pooling = Literal["logarithmic", "linear"]

#: What a linear pool takes a spread for. With 1 nat the most certain estimator would nearly decide alone; with 0.5 head
#: CTs are ranked as well as by a logarithmic pool, and a bleed that only one estimator sees is still heard (measured).
NATS_PER_SPREAD = 0.5


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Term(_Part):
    """One estimator's part in the combined statistic: its standardised value and how much that counts; see `pooled`."""

    centre: FiniteFloat
    spread: Annotated[FiniteFloat, Field(gt=0)]
    weight: Annotated[FiniteFloat, Field(ge=0)]


def pooled(z: Numbers, weights: Numbers, pooling: Pooling) -> Numbers:
    """Return one statistic for the estimators' standardised values.

    Each estimates a log density ratio, up to its scale. A logarithmic pool multiplies the ratios: all have their say,
    and two that see nothing hold down one that is sure. A linear pool averages them: an abnormality shows to one
    estimator or another.

    Parameters
    ----------
    z : numpy.ndarray
        (..., K), in spreads above the reference's median.
    weights : numpy.ndarray
        (K,), none negative.
    pooling : str
        ``"logarithmic"``: ``sum_k w_k z_k``; ``"linear"``: ``W / c log sum_k (w_k / W) exp(c z_k)``, W the sum of
        weights and c `NATS_PER_SPREAD`.

    References
    ----------
    Genest and Zidek, "Combining probability distributions: a critique and an annotated bibliography", *Statistical
    Science* 1 (1986) 114.
    """
    found: Numbers
    with np.errstate(invalid="ignore"):  # of what isn't finite comes what isn't finite
        if pooling == "logarithmic":
            found = np.asarray(z @ weights)
        else:
            z, weights = z[..., weights > 0], weights[weights > 0]
            total, peak = weights.sum(), z.max(-1, keepdims=True)
            ratios = np.exp(NATS_PER_SPREAD * (z - peak)) @ (weights / total)
            found = total * (peak[..., 0] + np.log(ratios) / NATS_PER_SPREAD)
    return found


class Probability(_Part):
    """Calibration on labelled cases: P(abnormal) = sigmoid(logit of the combined statistic), prior corrected.

    The logit is ``slope * combined + intercept`` (Platt's method), or runs along ``knots`` (isotonic regression).

    Attributes
    ----------
    slope, intercept : float
        On the labelled cases as they came; the slope isn't negative.
    knots : tuple of (float, float)
        Combined statistic and logit, neither ever falling; constant beyond the ends. Empty for Platt's method.
    prevalence : float
        The share of abnormal ones among them.
    assumed : float
        The share of abnormal ones where the bundle is used.
    normal, abnormal : int
        Labelled cases; fewer than 50 of either are too few.
    """

    slope: Annotated[FiniteFloat, Field(ge=0)]
    intercept: FiniteFloat
    knots: tuple[tuple[FiniteFloat, FiniteFloat], ...] = ()
    prevalence: Share
    assumed: Share
    normal: int = Field(ge=50)
    abnormal: int = Field(ge=50)

    @model_validator(mode="after")
    def _never_falls(self) -> Self:
        if any(a[0] > b[0] or a[1] > b[1] for a, b in pairwise(self.knots)):
            raise ValueError("an isotonic calibration falls")
        return self

    @property
    def method(self) -> str:
        """``"platt"`` or ``"isotonic"``."""
        return "isotonic" if self.knots else "platt"

    def __call__(self, combined: float) -> float:
        """Return the probability of an abnormality at the assumed prevalence."""
        if self.knots:
            places, logits = zip(*self.knots, strict=True)
            logit = float(np.interp(combined, places, logits))
        else:
            logit = self.slope * combined + self.intercept
        logit += _logit(self.assumed) - _logit(self.prevalence)
        return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0


class OperatingPoint(_Part):
    """A threshold of the combined statistic: images at or above it are flagged.

    Attributes
    ----------
    kind : str
        ``"flag_rate"``: at most the share ``target`` of the unlabelled reference is flagged, but one image at least;
        ``"sensitivity"``: at least the share ``target`` of the labelled abnormal cases is.
    target : float
        That share.
    threshold, percentile : float
        The threshold, and its abnormality percentile.
    """

    kind: Literal["flag_rate", "sensitivity"]
    target: Share
    threshold: FiniteFloat
    percentile: float = Field(ge=0, le=100)


class Calibration(_Part):
    """``calibration.json``: a frozen reference of unlabelled images that no estimator was trained on, and more.

    The *flows' statistic* is the sum over levels of ``weights[l] * (log p(x) - log p(x|normal))[l]``, nats; with all
    weights 1 it is minus the log posterior of the paper's equation 3; it is averaged over the image's views, where the
    bundle has them. The *combined* statistic, which ranks, is
    made of the terms of ``combination`` by `pooled`, or the flows' statistic where there are none.

    Attributes
    ----------
    name : str
        Names the reference in every score.
    images : int
        Images in the reference.
    weights : tuple of float
        One weight a level, none negative.
    combination : dict of str to Term
        By estimator.
    pooling : str
        How they become one; see `pooled`.
    reference : tuple of float
        The combined statistic over the reference, ascending.
    references : dict of str to tuple of float
        The same for every other estimator, by name.
    normal_reference : tuple of float
        The combined statistic over held-out images that were reported normal and had no part in weighing the
        estimators, ascending; may be empty.
    probability : Probability or None
        Where labels allowed it.
    operating_points : tuple of OperatingPoint
        Thresholds at fixed rates.
    log_prior : (float, float) or None
        ln of the least and of the greatest share of normal images that the mixture may hold. Of exact densities
        log p(x) - log p(x|normal) is never below it, for p(x) holds p(x|normal) with that share.
    template : tuple of float
        The reference's mean image on a coarse grid, flattened; images are compared with it.
    ranges : dict of str to (float, float)
        Lowest and highest admissible value of each checked quantity: every level's part of log p(x|normal), of
        log p(x) and of their difference, their totals, every level's largest latent, the values of both classifiers,
        and plain statistics of the input image.
    """

    format: Literal[1] = 1
    name: str
    images: int = Field(ge=1)
    weights: tuple[Annotated[FiniteFloat, Field(ge=0)], ...] = Field(min_length=1)
    combination: dict[Literal["flows", "set_classifier", "local_classifier"], Term] = {}
    pooling: Pooling = "logarithmic"
    reference: Values = Field(min_length=2)
    references: dict[str, Annotated[Values, Field(min_length=2)]] = {}
    normal_reference: Values = ()
    probability: Probability | None = None
    operating_points: tuple[OperatingPoint, ...] = ()
    log_prior: tuple[FiniteFloat, FiniteFloat] | None = None
    template: Values
    ranges: dict[str, tuple[FiniteFloat, FiniteFloat]]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for values in (self.reference, self.normal_reference, *self.references.values()):
            if any(a > b for a, b in pairwise(values)):
                raise ValueError("a reference is not in ascending order")
        if self.combination and not any(term.weight for term in self.combination.values()):
            raise ValueError("all weights of the combination are 0")
        if any(low > high for low, high in self.ranges.values()):
            raise ValueError("a range ends before it starts")
        if self.log_prior is not None and not self.log_prior[0] <= self.log_prior[1] <= 0:
            raise ValueError("log_prior is not a range of logarithms of shares")
        return self

    def statistic(self, levels_normal: Sequence[float], levels_mixture: Sequence[float]) -> float:
        """Return the flows' statistic of one image, nats, from each level's parts of its two log densities."""
        pairs = zip(self.weights, levels_normal, levels_mixture, strict=True)
        return math.fsum(weight * (mixture - normal) for weight, normal, mixture in pairs)

    def combined(self, values: Mapping[str, float]) -> float:
        """Return the combined statistic of one image from its value by every estimator.

        Raises
        ------
        ValueError
            If the combination has a term for an estimator that has no value.
        """
        if not self.combination:
            return values[FLOWS]
        missing = self.combination.keys() - values.keys()
        if missing:
            raise ValueError(f"the combined statistic needs {', '.join(sorted(missing))}")
        terms = self.combination
        z = np.array([(values[name] - term.centre) / term.spread for name, term in terms.items()])
        return float(pooled(z, np.array([term.weight for term in terms.values()]), self.pooling))

    def percentile(self, statistic: float, estimator: str = COMBINED) -> float:
        """Return the abnormality percentile, 0 to 100: how much of the reference lies below ``statistic``.

        Raises
        ------
        KeyError
            If there is no reference of that estimator.
        """
        reference = self.reference if estimator == COMBINED else self.references[estimator]
        places = 100.0 * (np.arange(len(reference)) + 0.5) / len(reference)
        return float(np.interp(statistic, reference, places, left=0.0, right=100.0))

    def percentiles(self, statistics: Mapping[str, float]) -> dict[str, float]:
        """Return the abnormality percentile by each estimator that is finite and has a reference."""
        return {
            name: self.percentile(value, name)
            for name, value in statistics.items()
            if math.isfinite(value) and (name == COMBINED or name in self.references)
        }

    def p_value(self, combined: float) -> float | None:
        """Return the conformal p-value of "normal", (1 + #{reference >= combined}) / (n + 1); None without references.

        An image that is exchangeable with the reported-normal references gets p <= a with probability at most a.

        References
        ----------
        Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World*, 2005.
        """
        references = self.normal_reference
        if not references or not math.isfinite(combined):
            return None
        above = len(references) - bisect_left(references, combined)
        return (1 + above) / (len(references) + 1)

    def calibrated(self, combined: float) -> float | None:
        """Return the probability of an abnormality; None where no labels were calibrated on."""
        return self.probability(combined) if self.probability and math.isfinite(combined) else None

    def check(self, quantities: Mapping[str, float]) -> str:
        """Return "" if every calibrated quantity is finite and in its range, else why there is no score."""
        for name, (low, high) in self.ranges.items():
            value = quantities.get(name, math.nan)
            if not low <= value <= high:  # also true of NaN
                return UNLIKE
        if not all(math.isfinite(value) for value in quantities.values()):
            return UNLIKE
        return ""


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
