"""A Glow's parameters, folded for inference: a level becomes a few matrices a step and one constant.

Per step, in float64 and only then rounded: actnorm and 1x1 convolution become one C x C matrix and a shift; the
coupling net's actnorms and its e^{3 logs} go into its weights; its outputs are reordered from interleaved (t, a) to
all t, then all a; the channel that is 1 on the padding becomes one constant vector for each way in which a site can lie
at the border. All log-determinants that don't depend on the image are one float64 number a level (the algebra is that
of arXiv:1807.03039, table 1).

Everything is three-dimensional here: an image is a volume of one slice, and its kernels have one plane.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from workers.flows.bijections import LOG_SCALE_FACTOR, ActNorm, EdgeConvolution
from workers.flows.levels import Level, Step

Border = tuple[tuple[bool, bool], ...]
"""For each axis: is there no neighbour below, is there none above."""
ENDS = (0, -1)
"""Sites of a row whose share of the padding is a column of conv1; most border sites are of these two kinds."""
_INNER = ("conv1", "conv2", "conv3", "edge1")
_INSIDE = (False, False)
_LOW, _HIGH = (True, False), (False, True)


@dataclass(frozen=True)
class FoldedStep:
    """One step of G flows side by side; every tensor's first axis is the flow.

    Attributes
    ----------
    mix : Tensor
        (G, C, C), and ``shift`` (G, C, 1): x -> mix x + shift is actnorm and 1x1 convolution.
    conv1 : Tensor
        (G, W, C/2 taps + 1 + 2): then the bias, then what the padding adds at the first and at the last site of each
        row (`ENDS`); the last two are absent without an edge channel.
    conv2 : Tensor
        (G, W, W + 1); likewise.
    conv3 : Tensor
        (G, taps C', W): every tap's outputs, t then a, for all C' = 2 (C - C/2) of them.
    bias3 : Tensor
        (G, C', 1).
    edge1 : dict
        For the first and last rows and planes: border to the vector, (G, W), that the padding adds there beyond what
        conv1's last two columns say.
    edge3 : dict
        Border to the vector, (G, C'), that the padding adds there.
    """

    mix: Tensor
    shift: Tensor
    conv1: Tensor
    conv2: Tensor
    conv3: Tensor
    bias3: Tensor
    edge1: dict[Border, Tensor]
    edge3: dict[Border, Tensor]


@dataclass(frozen=True)
class FoldedLevel:
    """One level of G flows side by side.

    Attributes
    ----------
    steps : tuple of FoldedStep
        K of them.
    constant : Tensor
        (G,), float64, nats: the part of ln |det dz/dx| that is the same for every image.
    size : tuple of int
        The level's grid after its squeeze, (D, H, W).
    kernel : tuple of int
        (3, 3, 3), or (1, 3, 3) for images.
    """

    steps: tuple[FoldedStep, ...]
    constant: Tensor
    size: tuple[int, int, int]
    kernel: tuple[int, int, int]

    @property
    def width(self) -> int:
        """Hidden channels of the coupling nets."""
        return self.steps[0].conv2.shape[1]

    @property
    def taps(self) -> int:
        """Weights of a kernel per pair of channels: 9 or 27."""
        return math.prod(self.kernel)


def fold_level(levels: Sequence[Level], size: Sequence[int], dtype: torch.dtype, device: torch.device) -> FoldedLevel:
    """Fold the same level of one or more flows, side by side.

    Parameters
    ----------
    levels : sequence of Level
        One a flow, of equal shapes.
    size : sequence of int
        The level's grid after its squeeze, (H, W) or (D, H, W).
    dtype : torch.dtype
        Of the coupling nets' weights; the rest is float32, or float64 if ``dtype`` is.
    device : torch.device
        Where the folded tensors are kept.
    """
    planes = len(size) == 2
    grid = (1, *size) if planes else tuple(size)
    kernel = (1, 3, 3) if planes else (3, 3, 3)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    steps, constant = [], torch.zeros(len(levels), dtype=torch.float64)
    for group in zip(*(level.steps for level in levels), strict=True):
        folded, ladjs = zip(*(_fold_step(step, grid, kernel) for step in group if isinstance(step, Step)), strict=True)
        constant += math.prod(size) * torch.stack(ladjs)
        steps.append(_side_by_side(folded, dtype, exact, device))
    return FoldedLevel(tuple(steps), constant.to(device), (grid[0], grid[1], grid[2]), kernel)


def _side_by_side(
    group: Sequence[FoldedStep], dtype: torch.dtype, exact: torch.dtype, device: torch.device
) -> FoldedStep:
    """Join the same step of several flows; the coupling net's inner parts become ``dtype``, the rest ``exact``."""
    found: dict[str, Any] = {}
    for name in (field.name for field in fields(FoldedStep)):
        kind = dtype if name in _INNER else exact
        parts = [getattr(step, name) for step in group]
        if isinstance(parts[0], dict):
            found[name] = {key: torch.cat([part[key] for part in parts]).to(device, kind) for key in parts[0]}
        else:
            found[name] = torch.cat(parts).to(device, kind).contiguous()
    return FoldedStep(**found)


def _actnorm(norm: ActNorm) -> tuple[Tensor, Tensor]:
    """Return bias and scale of z = (x + bias) scale."""
    return norm.bias.detach().double().cpu(), torch.exp(LOG_SCALE_FACTOR * norm.logs.detach().double().cpu())


def _kernel(layer: EdgeConvolution, kernel: tuple[int, int, int]) -> tuple[Tensor, Tensor | None]:
    """Return the weights of the real channels, (C', C, *kernel), and those of the edge channel, (C', *kernel)."""
    weight = layer.weight.detach().double().cpu()
    weight = weight.view(*weight.shape[:2], *kernel)
    return (weight[:, :-1], weight[:, -1]) if layer.edge else (weight, None)


@torch.no_grad()
def _fold_step(step: Step, size: tuple[int, ...], kernel: tuple[int, int, int]) -> tuple[FoldedStep, Tensor]:
    """Return one flow's step in float64, and its constant log-determinant per site, nats."""
    bias, scale = _actnorm(step.actnorm)
    rotation = step.convolution.weight().double().cpu()
    net = step.coupling.net
    bias1, scale1 = _actnorm(net.norm1)
    inner1, edge1 = _kernel(net.conv1, kernel)
    bias2, scale2 = _actnorm(net.norm2)
    inner3, edge3 = _kernel(net.conv3, kernel)
    outputs = len(net.bias)
    order = [*range(0, outputs, 2), *range(1, outputs, 2)]
    scale3 = torch.exp(LOG_SCALE_FACTOR * net.logs.detach().double().cpu())[order]
    inner3 = inner3[order] * scale3.view(-1, 1, 1, 1, 1)
    taps_first = inner3.permute(2, 3, 4, 0, 1).reshape(-1, inner3.shape[1])  # (taps C', W)
    ladj = LOG_SCALE_FACTOR * step.actnorm.logs.detach().double().cpu().sum()
    conv1 = torch.cat([inner1.flatten(1), bias1.view(-1, 1)], 1)
    beyond: dict[Border, Tensor] = {}
    if edge1 is not None:
        ends = [_padding_share(edge1, (_INSIDE, _INSIDE, end)) for end in (_LOW, _HIGH)]
        conv1 = torch.cat([conv1, torch.stack(ends, 1)], 1)
        for border, vector in _border_vectors(edge1, size).items():
            along_x = sum((end for end, there in zip(ends, border[2], strict=True) if there), torch.zeros(()))
            if border[:2] != (_INSIDE, _INSIDE) or all(border[2]):
                beyond[border] = (vector - along_x) * scale1
    conv2 = torch.cat([net.conv2.detach().double().cpu().flatten(1), bias2.view(-1, 1)], 1) * scale2.view(-1, 1)
    behind = {} if edge3 is None else _border_vectors(edge3[order] * scale3.view(-1, 1, 1, 1), size)
    folded = FoldedStep(
        mix=(rotation * scale)[None],
        shift=(rotation @ (scale * bias)).view(1, -1, 1),
        conv1=(conv1 * scale1.view(-1, 1))[None],
        conv2=conv2[None],
        conv3=taps_first[None],
        bias3=(net.bias.detach().double().cpu()[order] * scale3).view(1, -1, 1),
        edge1={border: vector[None] for border, vector in beyond.items()},
        edge3={border: vector[None] for border, vector in behind.items()},
    )
    return folded, ladj + step.convolution.ladj_per_site().detach().cpu()


def _border_vectors(weight: Tensor, size: tuple[int, ...]) -> dict[Border, Tensor]:
    """Return what the padding adds at each kind of border site in a map of ``size``; weight is (C', kz, ky, kx)."""
    kinds = itertools.product(*(border_states(n, k) for n, k in zip(size, weight.shape[1:], strict=True)))
    borders = [tuple(kind for kind, _ in border) for border in kinds]
    return {border: _padding_share(weight, border) for border in borders if any(map(any, border))}


def _padding_share(weight: Tensor, border: Border) -> Tensor:
    """Return the sum of the taps that fall on the padding, (C',)."""
    inside = torch.ones(weight.shape[1:], dtype=torch.bool)
    for axis, (low, high) in enumerate(border):
        if low:
            inside.select(axis, 0)[:] = False
        if high:
            inside.select(axis, 2)[:] = False
    return (weight * ~inside).sum((1, 2, 3))


def border_states(size: int, kernel: int) -> list[tuple[tuple[bool, bool], tuple[int, int]]]:
    """Return an axis' kinds of site, each with where it begins and ends.

    A kind is (no neighbour below, none above); an axis on which the kernel has one plane has no border.
    """
    if kernel == 1:
        return [((False, False), (0, size))]
    if size == 1:
        return [((True, True), (0, 1))]
    states = [((True, False), (0, 1)), ((False, False), (1, size - 1)), ((False, True), (size - 1, size))]
    return [state for state in states if state[1][0] < state[1][1]]
