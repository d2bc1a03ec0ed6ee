"""A small network that tells what a gate is for from what is none, for `workers.images.gate_cxr` and `gate_bct`.

It gives one number: the logit of a chest, or of a head. `workers.lab.gates.learner` trains it. Here it only looks, and
needs no more than NumPy: whoever prepares studies need not wait for torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Size = tuple[int, int, int]
#: Channels, kernel and stride of convolutions, padded by half a kernel; a ReLU follows each. At last every channel
#: counts something at every place.
Layers = tuple[tuple[int, Size, Size], ...]


@dataclass(frozen=True)
class SmallNetwork:
    """A network's numbers.

    Attributes
    ----------
    layers : tuple
    weights, biases : tuple of numpy.ndarray
        float32, (O, I, D, H, W) and (O,), of every layer.
    places : numpy.ndarray
        float32: what each channel counts at each place in the end.
    bias : float
    """

    layers: Layers
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]
    places: Floats
    bias: float

    def logit(self, x: Floats) -> float:
        """Return the logit of one volume's channels, (I, D, H, W); a picture's have a depth of 1."""
        for (_, _, stride), weight, bias in zip(self.layers, self.weights, self.biases, strict=True):
            x = np.maximum(_convolved(x, weight, stride) + bias[:, None, None, None], 0)
        return float(x.ravel() @ self.places) + self.bias

    def even_logit(self, x: Floats) -> float:
        """Return the mean of the logits of one volume's channels and of their mirror image, left for right."""
        return (self.logit(x) + self.logit(x[..., ::-1])) / 2

    @classmethod
    def of(cls, layers: Layers, numbers: Mapping[str, npt.NDArray[np.floating]]) -> Self:
        """Rebuild a network from what `numbers` gave."""
        found = {name: value.astype(np.float32) for name, value in numbers.items()}
        return cls(
            layers=layers,
            weights=tuple(found[f"weight{k}"] for k in range(len(layers))),
            biases=tuple(found[f"bias{k}"] for k in range(len(layers))),
            places=found["places"],
            bias=float(found["bias"]),
        )

    def numbers(self) -> dict[str, npt.NDArray[np.float16]]:
        """Return the numbers by name, float16: to be kept."""
        named = {f"weight{k}": value for k, value in enumerate(self.weights)}
        named |= {f"bias{k}": value for k, value in enumerate(self.biases)}
        named |= {"places": self.places, "bias": np.array(self.bias)}
        return {name: value.astype(np.float16) for name, value in named.items()}


def shipped(name: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a gate's file that comes with the package."""
    with (
        (resources.files("workers.images") / name).open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return dict(arrays)


def _convolved(x: Floats, weight: Floats, stride: Size) -> Floats:
    """Return the correlation of a volume, (I, D, H, W), with kernels, (O, I, d, h, w)."""
    kernel = weight.shape[2:]
    padded = np.pad(x, ((0, 0), *((n // 2, n // 2) for n in kernel)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2, 3))
    steps = windows[:, :: stride[0], :: stride[1], :: stride[2]]
    found: Floats = np.tensordot(weight, steps, axes=((1, 2, 3, 4), (0, 4, 5, 6)))
    return found
