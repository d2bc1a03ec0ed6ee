"""Every estimator of a bundle on many images at once: what the laboratory evaluates and compares.

Each is higher for the more abnormal image:

- ``log_prob_normal``: -log p(x|normal), one flow alone, nats.
- ``plain_ratio``: log p(x) - log p(x|normal), all levels alike: minus the log posterior of the paper's equation 3.
- ``flows``: the bundle's weighted sum of the levels' ratios.
- ``set_classifier``: the logit of the normal set against the mixture, if the bundle has such a classifier.
- ``local_classifier``: how much looks planted into a normal image, if the bundle has such a classifier.
- ``combined``: what ranks.
"""

from typing import Self

import numpy as np
import numpy.typing as npt

from triage.bundles import Bundle
from triage.calibration import COMBINED, FLOWS
from triage.messages import Score
from workers.flows.classifiers import classifier_values
from workers.flows.engine import Engine
from workers.flows.posterior import estimates
from workers.flows.transform import views_on_flow_grid

Scores = dict[str, npt.NDArray[np.float64]]


def statistics(score: Score) -> dict[str, float]:
    """Return what a score holds of every estimator, by name."""
    return {
        "log_prob_normal": -score.log_prob_normal,
        "plain_ratio": -score.log_posterior,
        FLOWS: score.flows,
        **classifier_values(score),
        COMBINED: score.combined,
    }


class BundleEstimators:
    """A bundle, loaded, with all its estimators.

    Parameters
    ----------
    engine : Engine
        The bundle's.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.bundle = engine.bundle
        self.names = engine.bundle.manifest.estimators

    @classmethod
    def load(cls, bundle: Bundle, device: str = "auto") -> Self:
        """Load a verified bundle on a device.

        Raises
        ------
        BundleError
            If the weights don't fit the bundle or the device doesn't exist.
        """
        return cls(Engine(bundle, device))

    def __call__(self, pixels: npt.NDArray[np.uint8], *, batch: int = 32) -> Scores:
        """Score images.

        Parameters
        ----------
        pixels : numpy.ndarray
            uint8, (N, …) on the bundle's grid.
        batch : int
            Images at once through the flows.

        Returns
        -------
        dict of str to numpy.ndarray
            Every estimator's name and its values, float64, (N,).
        """
        bundle, engine = self.bundle, self.engine
        rows: list[dict[str, float]] = []
        for start in range(0, len(pixels), batch):
            some = pixels[start : start + batch]
            grey = [
                views_on_flow_grid(image, bundle.transform, bundle.architecture, bundle.preprocessing.grey_levels)
                for image in some
            ]
            levels = engine.parts(np.concatenate(grey))[0]
            normal, mixture = levels.reshape(2, len(some), bundle.transform.views, -1)
            for image, n, m in zip(some, normal, mixture, strict=True):
                values = engine.classifiers(image)
                rows.append(estimates(bundle.calibration, n, m, cell=engine.flows.cell, classifiers=values))
        return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in self.names}
