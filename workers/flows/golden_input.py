"""The golden input of a bundle as it lies there; `workers.lab.golden` makes it, `golden_check` tries machines on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from triage.bundles import GOLDEN, Bundle
from triage.errors import BundleError
from workers.flows.tensors import load
from workers.flows.transform import from_blocks


@dataclass(frozen=True)
class GoldenInput:
    """An image with its known score.

    Attributes
    ----------
    pixels : numpy.ndarray
        uint8, (…) on the bundle's grid.
    levels : numpy.ndarray
        float64, (2, L), nats: every level's part of the log densities, of the flow of normal images and of all.
    values : dict of str to float
        The values of the estimators beside the flows, by name.
    """

    pixels: npt.NDArray[np.uint8]
    levels: npt.NDArray[np.float64]
    values: Mapping[str, float]

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Read that of a verified bundle.

        Raises
        ------
        BundleError
            If the file doesn't hold one.
        """
        tensors = load(bundle, GOLDEN)
        try:
            pixels = from_blocks(tensors.pop("pixels").numpy(), bundle.preprocessing.size)
            levels = np.stack([tensors.pop(f"levels_{flow}").numpy() for flow in ("normal", "mixture")])
            levels = levels.reshape(2, bundle.architecture.levels)
            return cls(pixels, levels, {name: float(value) for name, value in tensors.items()})
        except (KeyError, ValueError, RuntimeError) as exc:
            raise BundleError(f"bundle {bundle.name}: {GOLDEN} holds no image with its score",
                              remedy="get the bundle again") from exc  # fmt: skip
