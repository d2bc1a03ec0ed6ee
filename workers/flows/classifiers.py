"""The estimators beside the flows, as one: a bundle may have a set classifier, a local classifier, both or neither."""

from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from triage.bundles import Bundle
from triage.calibration import LOCAL_CLASSIFIER, SET_CLASSIFIER
from triage.messages import Score
from workers.flows.local_classifier import LocalClassifier
from workers.flows.set_classifier import SetClassifier
from workers.flows.threads import one_thread_each


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
    def device(self) -> torch.device:
        """Where they are computed."""
        return next((one.device for one in (self.of_sets, self.local) if one is not None), torch.device("cpu"))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of those that are there."""
        both = ((SET_CLASSIFIER, self.of_sets), (LOCAL_CLASSIFIER, self.local))
        return tuple(name for name, one in both if one is not None)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> dict[str, float]:
        """Return the values of one image on the bundle's grid by name, higher for the more abnormal.

        Each is computed by one thread: the networks are small, and threads that wait for each other at every layer
        wait for the rest of the machine, too. On two cores beside another job of two threads a head took 3 s in the
        middle and 20 s at worst, and takes 1 s (measured).
        """
        tasks = [partial(one, pixels) for one in (self.of_sets, self.local) if one is not None]
        with one_thread_each(self.device) as workers:
            return dict(zip(self.names, workers.each(tasks), strict=True))


NONE = Classifiers()
"""For a bundle of flows alone."""


def classifier_values(score: Score) -> dict[str, float]:
    """Return the values that a score holds of them, by name."""
    both = {SET_CLASSIFIER: score.set_classifier, LOCAL_CLASSIFIER: score.local_classifier}
    return {name: value for name, value in both.items() if value is not None}
