"""The set classifier: the normal set against the unlabelled mixture, by a linear head on frozen features.

At the optimum its logit is log p(x) - log p(x|normal) up to a constant, as of the flows (arXiv:2206.03955): no label of
any disease is needed. Disease is told from machine by how the head is fitted; see `workers.lab.fit_classifier`.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from triage.bundles import CLASSIFIER, Bundle
from triage.manifest import Classifier
from workers.flows.slices import smoothed_slices
from workers.flows.stages import Stages, channels, shapes
from workers.flows.tensors import read
from workers.flows.views import views

Features = npt.NDArray[np.float64]

HEAD = ("head.mean", "head.scale", "head.weight", "head.bias")
STANDARD_SPREAD = 0.5
LIMIT = 1.5


def feature_count(spec: Classifier) -> int:
    """Return how many features an image has."""
    return len(spec.statistics) * sum(channels(block) for block in spec.blocks)


class FeatureExtractor:
    """From an image on the bundle's grid to numbers that a linear head can weigh.

    Parameters
    ----------
    spec : Classifier
        The bundle's.
    weights : mapping of str to torch.Tensor
        The frozen blocks'; see `workers.flows.stages.shapes`.
    device : torch.device
        Where to compute.
    """

    def __init__(self, spec: Classifier, weights: Mapping[str, Tensor], device: torch.device) -> None:
        self.spec, self.device = spec, device
        self.stages = Stages(weights, spec.blocks, device)

    @torch.inference_mode()
    def __call__(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Return the features of one image, uint8 (H, W) or (D, H, W), as float64, (F,)."""
        pooled = [self._statistic(output, name) for output in self.outputs(pixels) for name in self.spec.statistics]
        features = torch.cat(pooled, 1)  # (slabs, F)
        top = features.topk(self.spec.top, dim=0).values.double().mean(0)
        found: Features = top.cpu().numpy()
        return found

    def outputs(self, pixels: npt.NDArray[np.uint8]) -> list[Tensor]:
        """Return what the blocks make of one image, (slabs, C, h, w) each."""
        return self.stages(self._network_input(pixels))

    def _network_input(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        spec = self.spec
        slices = smoothed_slices(pixels, spec.smooth, self.device)
        slabs = slices.reshape(-1, spec.slab, *slices.shape[1:]).mean(1)
        x = interpolate(slabs.unsqueeze(1), spec.size, mode="area")
        if spec.window is None:
            spread, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True, correction=0)
            x = (x - mean) / (spread + 1e-3) * STANDARD_SPREAD
        else:
            low, high = spec.window
            x = (x - low) / (high - low) * 2 - 1
        x = x.clamp(-LIMIT, LIMIT)
        mirrored = x.flip(-1)
        return torch.cat([x, mirrored, (x - mirrored).clamp(-LIMIT, LIMIT)] if spec.symmetric else [x, x, x], 1)

    @staticmethod
    def _statistic(output: Tensor, name: str) -> Tensor:
        if name == "max":
            return output.amax((2, 3))
        spread, mean = torch.std_mean(output, dim=(2, 3), correction=0)
        return mean if name == "mean" else spread


class SetClassifier:
    """A bundle's second estimator, ready to score.

    Parameters
    ----------
    spec : Classifier
        The bundle's.
    tensors : mapping of str to torch.Tensor
        Of ``classifier.safetensors``: the frozen blocks, and the head: ``head.mean``, ``head.scale``,
        ``head.weight``, (F,), and ``head.bias``, (1,), float64.
    device : torch.device
        Where to compute.
    """

    def __init__(self, spec: Classifier, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.device = device
        self.extract = FeatureExtractor(spec, tensors, device)
        self.mean, self.scale, self.weight, self.bias = (tensors[name].cpu().numpy() for name in HEAD)

    @classmethod
    def load(cls, bundle: Bundle, device: torch.device) -> Self | None:
        """Return the classifier of a verified bundle; None if it has none.

        Raises
        ------
        BundleError
            If its tensors are not those that the manifest asks for, or not all finite.
        """
        spec = bundle.manifest.classifier
        if spec is None:
            return None
        count = feature_count(spec)
        expected = shapes(spec.blocks[-1]) | dict.fromkeys(HEAD[:3], (count,)) | {"head.bias": (1,)}
        return cls(spec, read(bundle, CLASSIFIER, expected), device)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> float:
        """Return the logit of one image on the bundle's grid: higher for the more abnormal; a mean over its views."""
        return self.logit(np.mean([self.extract(view) for view in views(pixels, self.extract.spec.views)], axis=0))

    def logit(self, features: Features) -> float:
        """Return the logit of an image's features, (F,)."""
        return float((features - self.mean) / self.scale @ self.weight + self.bias[0])
