"""A small network that tells a head as it lies in a scanner from what is none, for `workers.images.gate_bct`.

It sees the upper part of a head on a coarse grid, its grey values once as they are and once spread over the densities
of brain, and gives one number: the logit of a head. `workers.lab.gates.head` trains it. Here it only looks, and
needs no more than NumPy: whoever prepares studies need not wait for torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

#: Channels, kernel and stride of the convolutions, padded by half a kernel; a ReLU follows each. The last weighs
#: channels at every place.
LAYERS = (
    (16, (1, 3, 3), (1, 2, 2)),
    (32, (3, 3, 3), (1, 2, 2)),
    (48, (3, 3, 3), (2, 2, 2)),
    (64, (3, 3, 3), (2, 1, 1)),
    (16, (1, 1, 1), (1, 1, 1)),
)
#: Grey value of brain (35 HU), and by how much others differ from it.
BRAIN, AROUND = 49.0, 15.0


@dataclass(frozen=True)
class HeadNetwork:
    """The network's numbers.

    Attributes
    ----------
    weights, biases : tuple of numpy.ndarray
        float32, (O, I, D, H, W) and (O,), of every layer of `LAYERS`.
    places : numpy.ndarray
        float32: what each channel counts at each place in the end.
    bias : float
    """

    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]
    places: Floats
    bias: float

    def logit(self, head: Floats) -> float:
        """Return the logit of one head, (D, H, W), 0 to 127."""
        x = channels(head)
        for (_, _, stride), weight, bias in zip(LAYERS, self.weights, self.biases, strict=True):
            x = np.maximum(_convolved(x, weight, stride) + bias[:, None, None, None], 0)
        return float(x.ravel() @ self.places) + self.bias

    @classmethod
    def of(cls, numbers: Mapping[str, npt.NDArray[np.floating]]) -> Self:
        """Rebuild a network from what `numbers` gave."""
        found = {name: value.astype(np.float32) for name, value in numbers.items()}
        layers = range(len(LAYERS))
        return cls(
            weights=tuple(found[f"weight{k}"] for k in layers),
            biases=tuple(found[f"bias{k}"] for k in layers),
            places=found["places"],
            bias=float(found["bias"]),
        )

    def numbers(self) -> dict[str, npt.NDArray[np.float16]]:
        """Return the numbers by name, float16: to be kept."""
        named = {f"weight{k}": value for k, value in enumerate(self.weights)}
        named |= {f"bias{k}": value for k, value in enumerate(self.biases)}
        named |= {"places": self.places, "bias": np.array(self.bias)}
        return {name: value.astype(np.float16) for name, value in named.items()}


def channels(heads: Floats) -> Floats:
    """Return the two ways in which heads, (…, D, H, W), are seen: (2, …, D, H, W)."""
    return np.stack([heads / 64 - 1, np.clip((heads - BRAIN) / AROUND, -2, 2)]).astype(np.float32)


def _convolved(x: Floats, weight: Floats, stride: tuple[int, ...]) -> Floats:
    """Return the correlation of a volume, (I, D, H, W), with kernels, (O, I, d, h, w)."""
    kernel = weight.shape[2:]
    padded = np.pad(x, ((0, 0), *((n // 2, n // 2) for n in kernel)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2, 3))
    steps = windows[:, :: stride[0], :: stride[1], :: stride[2]]
    found: Floats = np.tensordot(weight, steps, axes=((1, 2, 3, 4), (0, 4, 5, 6)))
    return found
