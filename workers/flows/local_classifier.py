"""The local classifier: a small network that marks, at every place, what looks planted into a normal image.

It learned from normal and from unlabelled images, into half of which artificial abnormalities were planted (see
`workers.lab.fit_local` and `workers.lab.planted`), and from which of the two sets an image comes; no label of a disease
was needed. An image goes through it alone, mirrored beside itself, so that no batch changes its numbers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool3d, conv2d, grid_sample, interpolate, linear, pad, relu

from triage.bundles import LOCAL, Bundle
from triage.manifest import Local
from workers.flows.intracranial import Mask, inside_skull
from workers.flows.local_volume import NOTHING, Reading, SliceStandard
from workers.flows.slices import smoothed_slices
from workers.flows.tensors import read

Maps = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]
Layer = Callable[[str, Tensor], Tensor]
Shape = tuple[int, ...]

STRIDE = 2
"""A map is so much coarser than what the network sees."""
STATISTICS = 3
"""Of an image: of its map, "something was planted", "from the mixture"."""
_LIMIT = 3.0
_NEAR, _AROUND = 5.0, 7.0  # pixels: what is subtracted, and over what the rest's spread is taken
_LEAST_SPREAD = 0.1
_POSITIVE = frozenset({"statistic.scale", "expected.spread"})


def convolutions(spec: Local) -> dict[str, tuple[int, int, int, int]]:
    """Return (channels in, channels out, kernel, stride) of every convolution of a network by name."""
    stem, fine, middle, deep = spec.widths
    return {
        "stem": (input_channels(spec), stem, 5, 2),
        "fine.0": (stem, fine, 3, 1),
        "fine.1": (fine, fine, 3, 1),
        "middle.0": (fine, middle, 3, 2),
        "middle.1": (middle, middle, 3, 1),
        "deep.0": (middle, deep, 3, 2),
        "deep.1": (deep, deep, 3, 1),
        "deep.2": (deep, deep, 3, 1),
        "up.middle": (deep + middle, middle, 3, 1),
        "up.fine": (middle + fine, fine, 3, 1),
    }


def input_channels(spec: Local) -> int:
    """Return how many channels the network sees; see `channels`."""
    return 2 * spec.neighbours + 2 + bool(spec.components) + spec.symmetric


def shapes(spec: Local) -> dict[str, Shape]:
    """Return the name and shape of every tensor of ``local.safetensors``."""
    found: dict[str, Shape] = {"statistic.centre": (STATISTICS,), "statistic.scale": (STATISTICS,)}
    if spec.components:
        found |= {"expected.centre": spec.size, "expected.spread": spec.size}
        found["expected.basis"] = (spec.components, *spec.size)
    for member in range(spec.members):
        name = f"{member}."
        for layer, (entering, leaving, kernel, _) in convolutions(spec).items():
            found[f"{name}{layer}.weight"] = (leaving, entering, kernel, kernel)
            found[f"{name}{layer}.bias"] = (leaving,)
        found |= {f"{name}map.weight": (1, spec.widths[1], 1, 1), f"{name}map.bias": (1,)}
        found |= {f"{name}head.weight": (2, 2 * spec.widths[3]), f"{name}head.bias": (2,)}
    return found


def pyramid(x: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """Run a network: down to 1/8, up again to 1/2; ``layer`` applies a convolution and what follows it, by name.

    Returns
    -------
    maps, pooled : torch.Tensor
        (N, fine, h/2, w/2), and the mean and maximum of the coarsest map, (N, 2 deep).
    """
    fine = layer("fine.1", layer("fine.0", layer("stem", x)))
    middle = layer("middle.1", layer("middle.0", fine))
    deep = layer("deep.2", layer("deep.1", layer("deep.0", middle)))
    up = layer("up.middle", torch.cat([interpolate(deep, scale_factor=2.0), middle], 1))
    up = layer("up.fine", torch.cat([interpolate(up, scale_factor=2.0), fine], 1))
    return up, torch.cat([deep.mean((2, 3)), deep.amax((2, 3))], 1)


def planes(pixels: Grey | npt.NDArray[np.float32], spec: Local, device: torch.device) -> Tensor:
    """Return the slices of one image, (H, W) or (D, H, W), softened, at the network's size: float32, (D, 1, h, w)."""
    return interpolate(smoothed_slices(pixels, spec.soften, device).unsqueeze(1), spec.size, mode="area")


def with_neighbours(slices: Tensor, spec: Local) -> Tensor:
    """Return every slice of a volume, (D, 1, h, w), with its neighbours as channels; the outermost are repeated."""
    reach = spec.neighbours
    padded = torch.cat([slices[:1]] * reach + [slices] + [slices[-1:]] * reach)
    return torch.cat([padded[shift : shift + len(slices)] for shift in range(2 * reach + 1)], 1)


def turned(slices: Tensor, degrees: float) -> Tensor:
    """Return slices, (N, 1, h, w), turned about their middle, edges repeated."""
    height, width = slices.shape[-2:]
    y, x = (torch.arange(n, device=slices.device) - (n - 1) / 2 for n in (height, width))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across, down = cos * x[None, :] - sin * y[:, None], sin * x[None, :] + cos * y[:, None]
    # Sums, not a matrix product: the same bits for any number of threads.
    where = torch.stack([2 * across / width, 2 * down / height], -1).expand(len(slices), -1, -1, -1)
    return grid_sample(slices, where, padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class ExpectedSlices:
    """A linear model of normal slices as the network sees them: their mean and first principal components.

    Attributes
    ----------
    centre, spread : torch.Tensor
        float32, (h, w): the mean, and how far normals are from what is expected of them.
    basis : torch.Tensor
        float32, (K, h, w): orthonormal components.
    """

    centre: Tensor
    basis: Tensor
    spread: Tensor

    def surprise(self, slices: Tensor) -> Tensor:
        """Return what is left of slices, (N, 1, h, w), beyond what is expected, in spreads of normals at the place."""
        found = []
        for one in slices[:, 0] - self.centre:
            # Sums, not a matrix product: the same bits for any number of threads.
            parts = (one * self.basis).sum((1, 2))
            found.append((one - (parts.view(-1, 1, 1) * self.basis).sum(0)) / self.spread)
        return torch.stack(found).unsqueeze(1)


def standardised(stack: Tensor, spec: Local) -> Tensor:
    """Return slices with their neighbours, (N, 2 k + 1, h, w), all of one mean and spread, or within the window."""
    if spec.window is None:
        spread, mean = torch.std_mean(stack, dim=(1, 2, 3), keepdim=True, correction=0)
        x = (stack - mean) / (spread + 1e-3)
    else:
        low, high = spec.window
        x = (stack - low) / (high - low) * 2 - 1
    return x.clamp(-_LIMIT, _LIMIT)


def channels(stack: Tensor, spec: Local, expected: ExpectedSlices | None) -> Tensor:
    """Return what the network sees of slices with their neighbours, (N, 2 k + 1, h, w): (N, C, h, w).

    The slices; the middle one's local contrast, which tells nothing of brightness and little of the machine; its mirror
    image, where the manifest says so; and, where there is a model of normals, what it doesn't expect of it.
    """
    x = standardised(stack, spec)
    middle = x[:, spec.neighbours : spec.neighbours + 1]
    rest = middle - blurred(middle, _NEAR)
    seen = [x, rest / (blurred(rest.square(), _AROUND).sqrt() + _LEAST_SPREAD)]
    if spec.symmetric:
        seen.append(middle.flip(-1))
    if expected is not None:
        seen.append(expected.surprise(middle).clamp(-2 * _LIMIT, 2 * _LIMIT))
    return torch.cat(seen, 1)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Return (N, 1, h, w) smoothed by a Gaussian of ``sigma`` pixels, edges repeated."""
    reach = max(1, int(3 * sigma))
    steps = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-steps.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = conv2d(pad(x, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    return conv2d(pad(x, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))


class LocalClassifier:
    """A bundle's third estimator, ready to score.

    Parameters
    ----------
    spec : Local
        The bundle's.
    tensors : mapping of str to torch.Tensor
        Of ``local.safetensors``, as `shapes` says: batch norms are folded into the convolutions.
    device : torch.device
        Where to compute.
    """

    def __init__(self, spec: Local, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.spec, self.device = spec, device
        self.centre, self.scale = (
            tensors[f"statistic.{name}"].cpu().numpy().astype(np.float64) for name in ("centre", "scale")
        )
        self.slices = SliceStandard.from_tensors(tensors)  # None: a radiograph's
        self.weights = {
            name: tensors[name].to(device, torch.float32).contiguous()
            for name in shapes(spec)
            if not name.startswith("statistic")
        }
        parts = (self.weights[f"expected.{name}"] for name in ("centre", "basis", "spread")) if spec.components else ()
        self.expected = ExpectedSlices(*parts) if spec.components else None
        self.strides = {name: stride for name, (_, _, _, stride) in convolutions(spec).items()}

    @classmethod
    def load(cls, bundle: Bundle, device: torch.device) -> Self | None:
        """Return the local classifier of a verified bundle; None if it has none.

        Raises
        ------
        BundleError
            If its tensors are not those that the manifest asks for, or not all finite.
        """
        spec = bundle.manifest.local
        if spec is None:
            return None
        size, expected = bundle.preprocessing.size, shapes(spec)
        expected |= SliceStandard.shapes(spec, size[0]) if len(size) == 3 else {}
        return cls(spec, read(bundle, LOCAL, expected, positive=_POSITIVE & expected.keys()), device)

    def __call__(self, pixels: Grey) -> float:
        """Return the value of one image on the bundle's grid, (H, W) or (D, H, W): higher for the more abnormal."""
        return float((self.statistics(pixels) - self.centre) / self.scale @ np.asarray(self.spec.weights))

    def statistics(self, pixels: Grey) -> Maps:
        """Return the three statistics of one image, not standardised, float64, (3,).

        Of a head in which hardly a slice shows brain there are none, NaN: what wasn't looked at isn't normal.
        """
        spec = self.spec
        if self.slices is None:
            found = [_of_radiograph(*self.members(pixels, turn), spec.top) for turn in spec.turns]
            averaged: Maps = np.stack(found).mean(0)
            return averaged
        reading, heads = self.reading(pixels)
        if reading.inside.any((1, 2)).sum() < spec.slices:
            return np.full(3, np.nan)
        by_slice = reading.slices(self.slices, spec)
        slices = np.sort(heads.mean(0), 0)[-spec.slices :].mean(0)
        return np.concatenate([[np.sort(by_slice)[-spec.slices :].mean()], slices])

    def reading(self, pixels: Grey) -> tuple[Reading, Maps]:
        """Return what the networks make of a head, (D, H, W): by place, and of whole slices, (M, D, 2)."""
        inside = inside_skull(pixels)
        logits, heads = self.members(pixels, inside=inside)
        return Reading.of(logits, inside, self.spec), heads

    @torch.inference_mode()
    def members(self, pixels: Grey, turn: float = 0.0, inside: Mask | None = None) -> tuple[Maps, Maps]:
        """Return the outputs of every network on one image, averaged with those on its mirror image.

        Parameters
        ----------
        pixels : numpy.ndarray
            uint8, (H, W) or (D, H, W), on the bundle's grid.
        turn : float
            By so many degrees it is turned first.
        inside : numpy.ndarray or None
            bool, (D, H, W), of a head: the inside of its skull. Slices that show none of it are not looked at.

        Returns
        -------
        logits, heads : numpy.ndarray
            float64, (M, D, h, w) and (M, D, 2), D = 1 for a CXR: by place, and of whole slices; `NOTHING` of slices
            that are not looked at.
        """
        slices = planes(pixels, self.spec, self.device)
        stack = with_neighbours(turned(slices, turn) if turn else slices, self.spec)
        seen = range(len(stack)) if inside is None else np.flatnonzero(inside.any((1, 2)))
        size = [n // STRIDE for n in self.spec.size]
        logits = torch.full((self.spec.members, len(stack), *size), NOTHING, dtype=torch.float64)
        heads = torch.full((self.spec.members, len(stack), 2), NOTHING, dtype=torch.float64)
        for number in seen:  # one slice at a time: no other changes its bits
            x = channels(stack[number : number + 1], self.spec, self.expected)
            both = torch.cat([x, x.flip(-1)])
            for member in range(self.spec.members):
                here, head = self._network(both, f"{member}.")
                logits[member, number] = (here[0] + here[1].flip(-1)).double().cpu() / 2
                heads[member, number] = head.double().cpu().mean(0)
        return logits.numpy(), heads.numpy()

    def maps(self, pixels: Grey, size: Sequence[int]) -> Maps:
        """Return the logits by place of images, (N, …) on the bundle's grid, on a grid of ``size``: float64.

        Those of a head CT are standardised slice by slice, and the highest of what a coarser place covers.
        """
        found = []
        for image in pixels:
            if self.slices is not None:
                fine = self.reading(image)[0].standardised(self.slices, self.spec.extent)
                whole = adaptive_max_pool3d(torch.from_numpy(fine).unsqueeze(0), tuple(size))
            else:
                logits = self.members(image)[0]
                whole = interpolate(torch.from_numpy(logits.mean(0)).unsqueeze(0), tuple(size), mode="area")
            found.append(whole.reshape(tuple(size)).numpy())
        return np.stack(found) if found else np.empty((0, *size))

    def _network(self, x: Tensor, member: str) -> tuple[Tensor, Tensor]:
        def layer(name: str, x: Tensor) -> Tensor:
            weight, bias = self.weights[f"{member}{name}.weight"], self.weights[f"{member}{name}.bias"]
            return relu(conv2d(x, weight, bias, self.strides[name], weight.shape[-1] // 2))

        maps, pooled = pyramid(x, layer)
        weights = self.weights
        # A sum, not a convolution: oneDNN's of 1 x 1 gives other bits for another number of threads.
        logits = (maps * weights[f"{member}map.weight"]).sum(1, keepdim=True) + weights[f"{member}map.bias"]
        return logits, linear(pooled, weights[f"{member}head.weight"], weights[f"{member}head.bias"])


def _of_radiograph(logits: Maps, heads: Maps, top: float) -> Maps:
    """Return the statistics of an image by the outputs of `LocalClassifier.members`."""
    flat = np.sort(logits.mean(0).ravel())
    return np.concatenate([[flat[-max(1, round(top * flat.size)) :].mean()], heads.mean((0, 1))])
