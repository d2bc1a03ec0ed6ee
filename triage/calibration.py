"""What a bundle's numbers mean: abnormality percentiles, and the range outside of which there is no score."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

UNLIKE = "unlike anything the model was calibrated on"


class Calibration(BaseModel):
    """``calibration.json``: a frozen reference of unlabelled images that neither flow was trained on.

    The *abnormality statistic* is the sum over levels of ``weights[l] * (log p(x) - log p(x|normal))[l]``, nats;
    with all weights 1 it is minus the log posterior of the paper's equation 3.

    Attributes
    ----------
    name : str
        Names the reference in every score.
    images : int
        Images in the reference.
    weights : tuple of float
        One weight a level, none negative.
    reference : tuple of float
        The statistic's values over the reference, ascending, nats.
    template : tuple of float
        The reference's mean image on a coarse grid, flattened; images are compared with it.
    ranges : dict of str to (float, float)
        Lowest and highest admissible value of each checked quantity: every level's part of log p(x|normal), of
        log p(x) and of their difference, their totals, and plain statistics of the input image.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    name: str
    images: int = Field(ge=1)
    weights: tuple[Annotated[FiniteFloat, Field(ge=0)], ...] = Field(min_length=1)
    reference: tuple[FiniteFloat, ...] = Field(min_length=2)
    template: tuple[FiniteFloat, ...]
    ranges: dict[str, tuple[FiniteFloat, FiniteFloat]]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if any(a > b for a, b in pairwise(self.reference)):
            raise ValueError("reference is not in ascending order")
        if any(low > high for low, high in self.ranges.values()):
            raise ValueError("a range ends before it starts")
        return self

    def statistic(self, levels_normal: Sequence[float], levels_mixture: Sequence[float]) -> float:
        """Return the abnormality statistic of one image, nats, from each level's parts of its two log densities."""
        pairs = zip(self.weights, levels_normal, levels_mixture, strict=True)
        return math.fsum(weight * (mixture - normal) for weight, normal, mixture in pairs)

    def percentile(self, statistic: float) -> float:
        """Return the abnormality percentile, 0 to 100: how much of the reference lies below ``statistic``."""
        places = 100.0 * (np.arange(len(self.reference)) + 0.5) / len(self.reference)
        return float(np.interp(statistic, self.reference, places, left=0.0, right=100.0))

    def check(self, quantities: Mapping[str, float]) -> str:
        """Return "" if every calibrated quantity is finite and in its range, else why there is no score."""
        for name, (low, high) in self.ranges.items():
            value = quantities.get(name, math.nan)
            if not low <= value <= high:  # also true of NaN
                return UNLIKE
        if not all(math.isfinite(value) for value in quantities.values()):
            return UNLIKE
        return ""
