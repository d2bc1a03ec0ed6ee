"""Other implementations of Glow at an equal configuration, as `tests.bench.score` times them.

normflows (MIT) and FrEIA (MIT) come with the extra ``bench``; rosinality's glow-pytorch (MIT) isn't a package: give
``--rosinality`` the path of its ``model.py``. None of them has the edge channel; rosinality's nets have no actnorms,
FrEIA's neither. None is three-dimensional out of the box.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from triage.manifest import Architecture

Run = Callable[[Tensor], Tensor]


def normflows_glow(architecture: Architecture) -> Run:
    """Return log_prob of normflows' multi-scale Glow."""
    import normflows as nf

    levels, width, depth = architecture.levels, architecture.widths[0], architecture.depth
    height, _ = architecture.size
    bases, flows, merges = [], [], []
    for level in range(levels):  # normflows counts from the coarsest
        channels = 2 ** (levels + 1 - level)
        blocks = [nf.flows.GlowBlock(channels, width, split_mode="channel", scale=True) for _ in range(depth)]
        flows.append([*blocks, nf.flows.Squeeze()])
        side = height // 2 ** (levels - level)
        if level > 0:
            merges.append(nf.flows.Merge())
            bases.append(nf.distributions.DiagGaussian((channels // 2, side, side), trainable=False))
        else:
            bases.append(nf.distributions.DiagGaussian((channels, side, side), trainable=False))
    model = nf.MultiscaleFlow(bases, flows, merges, class_cond=False).eval()
    return lambda x: model.log_prob(x, None)


def freia_glow(architecture: Architecture) -> Run:
    """Return ln p of a Glow of FrEIA's AllInOneBlocks (actnorm, fixed 1x1 convolution, one-sided affine coupling)."""
    from FrEIA.framework import SequenceINN
    from FrEIA.modules import AllInOneBlock, IRevNetDownsampling

    width = architecture.widths[0]

    def net(channels_in: int, channels_out: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels_in, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(),
            nn.Conv2d(width, channels_out, 3, padding=1),
        )  # fmt: skip

    channels, side, levels = 1, architecture.size[0], []
    for _ in architecture.widths:
        inn = SequenceINN(channels, side, side)
        inn.append(IRevNetDownsampling)
        for _ in range(architecture.depth):
            inn.append(AllInOneBlock, subnet_constructor=net)
        levels.append(inn.eval())
        channels, side = channels * 2, side // 2

    def log_prob(x: Tensor) -> Tensor:
        found = torch.zeros(len(x), dtype=torch.float64)
        for number, inn in enumerate(levels):
            x, ladj = inn(x)
            latent = x
            if number < len(levels) - 1:
                x, latent = x.chunk(2, 1)
            found = found + ladj + (-0.5 * latent.square()).flatten(1).sum(1)
        return found

    return log_prob


def rosinality_glow(architecture: Architecture, model: Path) -> Run:
    """Return log p and log-determinant, summed, of rosinality's Glow read from its ``model.py``."""
    spec = importlib.util.spec_from_file_location("rosinality_glow", model)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(model)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    glow = module.Glow(1, architecture.depth, architecture.levels, affine=True, conv_lu=True).eval()
    width = architecture.widths[0]
    for block in glow.blocks:  # its width is fixed at 512
        for flow in block.flows:
            if flow.coupling.net[0].out_channels != width:
                raise ValueError(f"rosinality's Glow has width {flow.coupling.net[0].out_channels}, not {width}")
            flow.actnorm.initialized.fill_(1)

    def log_prob(x: Tensor) -> Tensor:
        log_p, ladj, _ = glow(x)
        return log_p + ladj

    return log_prob
