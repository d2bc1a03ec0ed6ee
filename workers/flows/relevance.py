"""Where an image is unlike normal ones: coarse maps, standardised by the maps of normal images.

A map as the flows give it is mostly a prior of places: edges and the borders of organs are always hard to predict. So
none is shown raw: it is given in standard deviations above the mean of normal images at the same place.

The kinds of map, higher where there is more to look at; ``python -m tests.bench.localisation`` measures them:

- ``ratio``, ``ratio.levelN``: each position's part of log p(x) - log p(x|normal), of all levels or one;
- ``normal``, ``normal.levelN``: the same of -log p(x|normal) alone;
- ``gradient``, ``gradient_normal``: how these sums rise with the grey value at a place;
- ``classifier``: each position's part of the set classifier's logit;
- ``local``: the local classifier's logits by place;
- ``difference``: the image less what a linear Gaussian model of normals expects: no flow, but a strong baseline.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from triage.bundles import MAPS, Bundle
from triage.errors import BundleError
from triage.manifest import Manifest
from triage.messages import Relevance
from workers.flows.classifiers import NONE, Classifiers
from workers.flows.flow_maps import Expected, raw_maps
from workers.flows.posterior import Posterior
from workers.flows.set_classifier import SetClassifier
from workers.flows.threads import one_thread_each
from workers.flows.transform import FlowGrid

Maps = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]
Flows = Callable[[], Posterior]

#: By what a head's grid is pooled for the local classifier's map, be the flows' grid as coarse as it may.
LOCAL_POOL = (2, 4, 4)
#: Where normals hardly differ, nothing may be divided by their spread: at least this share of its median is taken.
MIN_SPREAD = 0.3

_TITLES = {
    "ratio": "part of log p(x) - log p(x|normal)",
    "normal": "part of -log p(x|normal)",
    "gradient": "gradient of log p(x) - log p(x|normal)",
    "gradient_normal": "gradient of -log p(x|normal)",
    "classifier": "part of the set classifier's logit",
    "local": "local classifier's logit",
    "difference": "difference from the expected normal image",
}


@dataclass(frozen=True)
class Method:
    """A kind of map and how far it is smoothed, in pixels of the maps' grid; in text ``KIND~SMOOTH``."""

    kind: str
    smooth: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}~{self.smooth:g}" if self.smooth else self.kind

    @property
    def title(self) -> str:
        """In words."""
        kind, _, level = self.kind.partition(".level")
        return _TITLES.get(kind, kind) + (f", level {level}" if level else "")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the method of its text; raises ``ValueError`` if the smoothing is no number."""
        kind, _, smooth = text.partition("~")
        return cls(kind, float(smooth or 0))


@torch.no_grad()
def activations(classifier: SetClassifier, pixels: Grey, size: Sequence[int]) -> Maps:
    """Return each position's part of the set classifier's logit; over an image (a slab) their sum is it but a constant.

    It is the logit of the image as it is, not of its views.

    A mean is a sum over positions, a standard deviation one of (a - mean)^2 / (N sd); a maximum stands where it is.

    Parameters
    ----------
    classifier : SetClassifier
        The bundle's second estimator.
    pixels : numpy.ndarray
        uint8, (N, …) on the bundle's grid.
    size : sequence of int
        The grid of the maps, coarser than the bundle's.

    Returns
    -------
    numpy.ndarray
        float64, (N, *size).
    """
    extract = classifier.extract
    weights = torch.from_numpy(classifier.weight / classifier.scale).to(extract.device)
    found = []
    for image in pixels:
        outputs = extract.outputs(image)
        whole = torch.zeros(len(outputs[0]), *size[-2:], dtype=torch.float64, device=extract.device)
        first = 0
        for output in outputs:
            a = output.flatten(2).double()  # (slabs, C, positions)
            part = torch.zeros(len(a), a.shape[2], dtype=torch.float64, device=a.device)
            for statistic in extract.spec.statistics:
                weight = weights[first : first + a.shape[1]]
                first += a.shape[1]
                part += torch.einsum("scp,c->sp", _shares(a, statistic), weight)
            fine = functional.interpolate(part.view(len(a), 1, *output.shape[2:]), tuple(size[-2:]), mode="bilinear")
            whole += fine[:, 0] * (output[0, 0].numel() / whole[0].numel())
        slabs = whole if len(size) == 3 else whole[0]
        if len(size) == 3 and len(slabs) != size[0]:
            slabs = functional.interpolate(slabs[None, None], tuple(size), mode="trilinear")[0, 0]
        found.append(slabs.cpu().numpy())
    return np.stack(found) if found else np.empty((0, *size))


def _shares(a: Tensor, statistic: str) -> Tensor:
    """Return each position's share of a statistic of activations, (slabs, C, positions): they sum to it."""
    if statistic == "max":
        highest = a.argmax(2, keepdim=True)
        return torch.zeros_like(a).scatter(2, highest, a.gather(2, highest))
    if statistic == "mean":
        return a / a.shape[2]
    spread, mean = torch.std_mean(a, dim=2, correction=0, keepdim=True)
    return (a - mean).square() / (a.shape[2] * spread.clamp_min(1e-12))


def smoothed(maps: Maps, method: Method) -> Maps:
    """Return maps, (N, …), smoothed as the method says; through slices half as far, for they are thick."""
    axes = maps.ndim - 1
    sigmas = (0.0, *((method.smooth / 2,) if axes == 3 else ()), method.smooth, method.smooth)
    found: Maps = ndimage.gaussian_filter(maps, sigmas) if method.smooth else maps
    return found


@dataclass(frozen=True)
class Standard:
    """The mean and spread of normal images' maps at every place, float64, on the maps' grid; see `map_size`."""

    mean: Maps
    spread: Maps

    @classmethod
    def of(cls, maps: Maps) -> Self:
        """Take them from the maps of normals, (N, …)."""
        spread = maps.std(0)
        usual = float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
        return cls(maps.mean(0), np.maximum(spread, MIN_SPREAD * usual))

    def __call__(self, maps: Maps) -> Maps:
        """Return maps in standard deviations above the mean of normals."""
        found: Maps = (maps - self.mean) / self.spread
        return found


class Mapper:
    """Makes the relevance maps of a bundle.

    Parameters
    ----------
    manifest : Manifest
        What the bundle is.
    posterior : callable
        Returns its flows; called only for methods that need them.
    method : Method
        Of its maps.
    standard : Standard
        Of its normals.
    expected : Expected or None
    classifiers : Classifiers
        For the methods that need them.
    """

    def __init__(
        self,
        manifest: Manifest,
        posterior: Flows,
        method: Method,
        standard: Standard,
        *,
        expected: Expected | None = None,
        classifiers: Classifiers = NONE,
    ) -> None:
        self.manifest, self.posterior = manifest, posterior
        self.method, self.standard, self.expected, self.classifiers = method, standard, expected, classifiers

    @classmethod
    def load(cls, bundle: Bundle, posterior: Flows, classifiers: Classifiers = NONE) -> Self | None:
        """Return the mapper of a bundle; None if the bundle says nothing of maps: there is no standard to show one by.

        Raises
        ------
        BundleError
            If its file of maps doesn't fit it.
        """
        path = Path(bundle.folder) / MAPS
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="np") as file:
                method = Method.parse((file.metadata() or {})["method"])
                tensors = {name: file.get_tensor(name).astype(np.float64) for name in file.keys()}  # noqa: SIM118
            standard = Standard(tensors["mean"], tensors["spread"])
            expected = Expected(tensors["centre"], tensors["basis"]) if "basis" in tensors else None
        except (OSError, SafetensorError, KeyError, ValueError) as exc:
            raise BundleError(f"bundle {bundle.name}: {MAPS} cannot be used", remedy="get the bundle again") from exc
        if not standard.mean.shape == standard.spread.shape == map_size(bundle.manifest, method.kind):
            raise BundleError(f"bundle {bundle.name}: {MAPS} is not of its maps' grid", remedy="get the bundle again")
        return cls(bundle.manifest, posterior, method, standard, expected=expected, classifiers=classifiers)

    def __call__(self, pixels: Grey) -> Relevance:
        """Return the map of one image on the bundle's grid."""
        return Relevance.of(self.method.title, self.standard(self.raw(pixels[None]))[0])

    def raw(self, pixels: Grey) -> Maps:
        """Return the maps of images on the bundle's grid, (N, …), smoothed but not standardised."""
        return smoothed(
            maps_of(
                self.method.kind,
                pixels,
                self.manifest,
                posterior=self.posterior,
                classifiers=self.classifiers,
                expected=self.expected,
            ),
            self.method,
        )


def map_size(manifest: Manifest, kind: str) -> tuple[int, ...]:
    """Return the grid of a bundle's maps of a kind: the flows', but where the local classifier marks a head."""
    size = manifest.preprocessing.size
    if kind == "local" and len(size) == len(LOCAL_POOL):
        return tuple(n // pooled for n, pooled in zip(size, LOCAL_POOL, strict=True))
    return tuple(manifest.architecture.size)


def maps_of(
    kind: str,
    pixels: Grey,
    manifest: Manifest,
    *,
    posterior: Flows,
    classifiers: Classifiers,
    expected: Expected | None,
) -> Maps:
    """Return the raw maps of images on the bundle's grid, (N, …), of any kind.

    Raises
    ------
    ValueError
        If there is no such kind, or what it needs is missing.
    """
    size = map_size(manifest, kind)
    if kind == "classifier":
        if classifiers.of_sets is None:
            raise ValueError("the bundle has no set classifier")
        return activations(classifiers.of_sets, pixels, size)
    if kind == "local":
        if classifiers.local is None:
            raise ValueError("the bundle has no local classifier")
        # On a busy machine torch's own threads wait for one another much longer than one thread computes.
        with one_thread_each(classifiers.local.device):
            return classifiers.local.maps(pixels, size)
    grey = FlowGrid.of(manifest)(pixels)
    if kind == "difference":
        if expected is None:
            raise ValueError("a difference needs what is expected")
        return expected.difference(grey)
    return raw_maps(kind, posterior(), grey)
