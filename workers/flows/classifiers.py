"""The estimators beside the flows, as one: a bundle may have a set classifier, a local classifier, both or neither."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from triage.bundles import Bundle
from triage.calibration import LOCAL_CLASSIFIER, SET_CLASSIFIER
from triage.messages import Score
from workers.flows.local_classifier import LocalClassifier
from workers.flows.set_classifier import SetClassifier


@dataclass(frozen=True)
class Classifiers:
    """What a bundle has of them.

    Attributes
    ----------
    of_sets : SetClassifier or None
        The normal set against the mixture, by the whole image.
    local : LocalClassifier or None
        What looks planted into a normal image, by place.
    """

    of_sets: SetClassifier | None = None
    local: LocalClassifier | None = None

    @classmethod
    def load(cls, bundle: Bundle, device: torch.device) -> Self:
        """Load those of a verified bundle.

        Raises
        ------
        BundleError
            If tensors are not those that the manifest asks for, or not all finite.
        """
        return cls(SetClassifier.load(bundle, device), LocalClassifier.load(bundle, device))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of those that are there."""
        both = ((SET_CLASSIFIER, self.of_sets), (LOCAL_CLASSIFIER, self.local))
        return tuple(name for name, one in both if one is not None)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> dict[str, float]:
        """Return the values of one image on the bundle's grid by name, higher for the more abnormal."""
        found = {}
        if self.of_sets is not None:
            found[SET_CLASSIFIER] = self.of_sets(pixels)
        if self.local is not None:
            found[LOCAL_CLASSIFIER] = self.local(pixels)
        return found


NONE = Classifiers()
"""For a bundle of flows alone."""


def classifier_values(score: Score) -> dict[str, float]:
    """Return the values that a score holds of them, by name."""
    both = {SET_CLASSIFIER: score.set_classifier, LOCAL_CLASSIFIER: score.local_classifier}
    return {name: value for name, value in both.items() if value is not None}
