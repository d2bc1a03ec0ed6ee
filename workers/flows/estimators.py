"""Every estimator of a bundle on many images at once: what the laboratory evaluates and compares.

Each is higher for the more abnormal image:

- ``log_prob_normal``: -log p(x|normal), one flow alone, nats.
- ``plain_ratio``: log p(x) - log p(x|normal), all levels alike: minus the log posterior of the paper's equation 3.
- ``flows``: the bundle's weighted sum of the levels' ratios.
- ``combined``: what ranks.
"""

from typing import Self

import numpy as np
import numpy.typing as npt

from triage.bundles import Bundle
from workers.flows.engine import Engine
from workers.flows.transform import to_flow_grid

Scores = dict[str, npt.NDArray[np.float64]]


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
        self.names: tuple[str, ...] = ("log_prob_normal", "plain_ratio", "flows", "combined")

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
            Images at once.

        Returns
        -------
        dict of str to numpy.ndarray
            Every estimator's name and its values, float64, (N,).
        """
        bundle = self.bundle
        grid = [
            to_flow_grid(image, bundle.transform, bundle.architecture, bundle.preprocessing.grey_levels)
            for image in pixels
        ]
        grey = np.stack(grid) if grid else np.empty((0, *bundle.architecture.size), np.uint8)
        normal, mixture = self.engine.posterior.level_parts(grey, batch=batch)
        flows = (mixture - normal) @ np.asarray(bundle.calibration.weights)
        return {
            "log_prob_normal": -normal.sum(1) - self.engine.posterior.normal.cell,
            "plain_ratio": (mixture - normal).sum(1),
            "flows": flows,
            "combined": flows,
        }
