"""The coupling nets of folded levels, run over strips of sites by one or more threads: the engine's inner loop."""

import itertools
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import EllipsisType

import torch
from torch import Tensor

from triage.manifest import Scale
from workers.flows.bijections import scale_and_log
from workers.flows.fold import ENDS, Border, FoldedLevel, FoldedStep, border_states
from workers.flows.threads import Workers

HIDDEN_NUMBERS = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Hidden channels times sites of a chunk: on a CPU its hidden map fits in a core's cache, a GPU wants many."""
STRIP_CHUNKS = 4
"""Chunks of a strip."""
GAP = 16
"""Rows lie so many numbers further apart than they are long: powers of two would fall on the same cache lines."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Chunk:
    """A part of a strip that goes through the coupling net at once.

    Attributes
    ----------
    sites : tuple of int
        Where it begins and ends among the strip's sites.
    grid : tuple of int
        Its shape, (D, H, W).
    blocks : tuple
        Its parts at the map's lower and upper ends of z or y: kind, and place inside the chunk.
    """

    sites: Span
    grid: tuple[int, int, int]
    blocks: tuple[tuple[Border, tuple[slice, slice, slice]], ...]


@dataclass(frozen=True)
class Strip:
    """A part of a map: where it begins and ends along z and along y; along x it is whole."""

    z: Span
    y: Span
    chunks: tuple[Chunk, ...]


def chunk_sites(width: int, device: torch.device) -> int:
    """Return how many sites go through a coupling net of ``width`` hidden channels at once."""
    return max(1, HIDDEN_NUMBERS[device.type] // width)


@lru_cache(maxsize=64)
def cut(size: tuple[int, int, int], kernel: tuple[int, int, int], chunk: int) -> tuple[Strip, ...]:
    """Cut a map into strips of chunks of at most ``chunk`` sites, where its rows allow; nothing else decides."""
    strips = []
    for z, y in _boxes((0, size[0]), (0, size[1]), size[2], STRIP_CHUNKS * chunk):
        chunks, start = [], 0
        for own_z, own_y in _boxes(z, y, size[2], chunk):
            grid = (own_z[1] - own_z[0], own_y[1] - own_y[0], size[2])
            chunks.append(Chunk((start, start + math.prod(grid)), grid, tuple(_blocks(size, kernel, own_z, own_y))))
            start += math.prod(grid)
        strips.append(Strip(z, y, tuple(chunks)))
    return tuple(strips)


def _boxes(z: Span, y: Span, width: int, sites: int) -> Iterator[tuple[Span, Span]]:
    """Cut whole planes off, or, where one is too large, rows of each."""
    plane = (y[1] - y[0]) * width
    planes, lines = (sites // plane, y[1] - y[0]) if plane <= sites else (1, max(1, sites // width))
    return itertools.product(_cuts(*z, planes), _cuts(*y, lines))


def _cuts(start: int, end: int, length: int) -> list[Span]:
    return [(first, min(first + length, end)) for first in range(start, end, length)]


def _blocks(
    size: Sequence[int], kernel: Sequence[int], z: Span, y: Span
) -> Iterator[tuple[Border, tuple[slice, slice, slice]]]:
    box = (z, y, (0, size[2]))
    for kinds in itertools.product(*(border_states(n, k) for n, k in zip(size, kernel, strict=True))):
        spans = [(max(a, c) - a, min(b, d) - a) for (a, b), (_, (c, d)) in zip(box, kinds, strict=True)]
        if all(start < end for start, end in spans) and _has_block(tuple(kind for kind, _ in kinds)):
            yield tuple(kind for kind, _ in kinds), (slice(*spans[0]), slice(*spans[1]), slice(*spans[2]))


def _has_block(border: Border) -> bool:
    """Whether the first convolution's columns don't say all about a kind of site: see `FoldedStep.edge1`."""
    return any(low or high for low, high in border[:2]) or all(border[2])


class _Scratch(threading.local):
    """Buffers of this thread, kept from strip to strip so that they stay in its cache."""

    def __init__(self) -> None:
        self.flat: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, name: str, lanes: int, rows: int, sites: int, like: Tensor) -> Tensor:
        """Return an uninitialised (lanes, rows, sites) of ``like``'s dtype and device."""
        key, needed = (name, like.dtype, like.device), lanes * rows * (sites + GAP)
        held = self.flat.get(key)
        if held is None or held.numel() < needed:
            held = self.flat[key] = like.new_empty(needed)
        return held[:needed].view(lanes, rows, sites + GAP)[..., :sites]


_scratch = _Scratch()


def scratch_buffers() -> tuple[Tensor, ...]:
    """Return this thread's buffers, for whoever must keep them where they are."""
    return tuple(_scratch.flat.values())


def _at(maps: Tensor, place: Iterable[slice]) -> Tensor:
    """Return a view of part of (…, D, H, W)."""
    index: tuple[EllipsisType | slice, ...] = (..., *place)
    return maps[index]


@dataclass(frozen=True)
class _Net:
    """The coupling net of one step, for as many lanes as a map has: its weights, and the map it reads."""

    level: FoldedLevel
    step: FoldedStep
    flows: slice
    padded: Tensor

    def per_lane(self, weight: Tensor) -> Tensor:
        """Return the weights of every lane: one flow's for all of them, or each its own."""
        own, lanes = weight[self.flows], len(self.padded)
        return own if len(own) == lanes else own.expand(lanes, *own.shape[1:])

    def vector(self, constant: Tensor) -> Tensor:
        """Return a vector per channel, so that it adds to (lanes, channels, D, H, W)."""
        return constant[self.flows].view(-1, constant.shape[1], 1, 1, 1)


def run_steps(level: FoldedLevel, flows: slice, x: Tensor, scale: Scale, workers: Workers) -> tuple[Tensor, Tensor]:
    """Run a level's steps.

    Parameters
    ----------
    level : FoldedLevel
        Of G flows.
    flows : slice
        Which of them: one, for all lanes; or as many as there are lanes, one each.
    x : torch.Tensor
        (lanes, C, D, H, W), squeezed.
    scale : str
        The architecture's.
    workers : Workers
        Who computes.

    Returns
    -------
    z : torch.Tensor
        Of x's shape.
    ladj : torch.Tensor
        (lanes,), float64, nats, without the level's constant.
    """
    lanes, channels = x.shape[:2]
    first = channels // 2
    pads = [k // 2 for k in level.kernel]
    inner = tuple(slice(pad, pad + n) for pad, n in zip(pads, level.size, strict=True))
    framed = [n + 2 * pad for n, pad in zip(level.size, pads, strict=True)]
    padded = x.new_zeros(lanes, first, *framed)
    found = x.new_empty(lanes, 2 * (channels - first), *framed)
    ladj = torch.zeros(lanes, dtype=torch.float64, device=x.device)
    z, mixed = x.flatten(2).clone(), torch.empty_like(x.flatten(2))
    for step in level.steps:
        net = _Net(level, step, flows, padded)
        torch.bmm(net.per_lane(step.mix), z, out=mixed)
        z, mixed = mixed.add_(step.shift[flows]), z
        _at(padded, inner).copy_(z[:, :first].view(lanes, first, *level.size))
        _run_net(net, found, workers)
        shift, a = _at(found, inner).flatten(2).chunk(2, dim=1)
        factor, log_factor = scale_and_log(a, scale)
        z[:, first:].add_(shift).mul_(factor)
        ladj += log_factor.flatten(1).sum(1, dtype=torch.float64)
    return z.view_as(x), ladj


def _run_net(net: _Net, found: Tensor, workers: Workers) -> None:
    """Write the coupling net's outputs of the whole map into ``found``; its frame collects what falls outside."""
    level, width = net.level, net.step.conv2.shape[1]
    pads = [k // 2 for k in level.kernel]
    found.copy_(net.vector(net.step.bias3).expand_as(found))
    for border, vector in net.step.edge3.items():
        _at(found, _place(border, level)).add_(net.vector(vector))
    strips = cut(level.size, level.kernel, chunk_sites(width, net.padded.device))
    tasks = [lambda strip=strip: _spread(net, strip) for strip in strips]
    for strip, part in zip(strips, workers.each(tasks), strict=True):
        window = (slice(strip.z[0], strip.z[1] + 2 * pads[0]), slice(strip.y[0], strip.y[1] + 2 * pads[1]))
        _at(found, (*window, slice(None))).add_(part)


def _place(border: Border, level: FoldedLevel) -> tuple[slice, ...]:
    """Return where sites of one kind lie in a framed map."""
    place = []
    for kind, n, k in zip(border, level.size, level.kernel, strict=True):
        start, end = dict(border_states(n, k))[kind]
        place.append(slice(start + k // 2, end + k // 2))
    return tuple(place)


def _spread(net: _Net, strip: Strip) -> Tensor:
    """Return what a strip's hidden sites give to its own outputs and to its neighbours': its box with a frame."""
    kernel, taps, lanes = net.level.kernel, net.level.taps, len(net.padded)
    grid = (strip.z[1] - strip.z[0], strip.y[1] - strip.y[0], net.level.size[2])
    outputs = net.step.conv3.shape[1] // taps
    by_tap = _by_tap(net, strip, grid).view(lanes, taps, outputs, *grid)
    spread = net.padded.new_zeros(lanes, outputs, *(n + k - 1 for n, k in zip(grid, kernel, strict=True)))
    for tap, offsets in enumerate(itertools.product(*(range(k) for k in kernel))):
        # A site's hidden channels reach the output that sees the site through this tap.
        place = (slice(k - 1 - o, k - 1 - o + n) for k, o, n in zip(kernel, offsets, grid, strict=True))
        _at(spread, place).add_(by_tap[:, tap])
    return spread


def _by_tap(net: _Net, strip: Strip, grid: tuple[int, int, int]) -> Tensor:
    """Return every tap's outputs from a strip's hidden channels, (lanes, taps C', sites)."""
    lanes, sites = len(net.padded), math.prod(grid)
    conv1, conv2, conv3 = (net.per_lane(weight) for weight in (net.step.conv1, net.step.conv2, net.step.conv3))
    hidden = conv2.shape[1]
    columns = _columns(net, strip, grid, conv1)
    by_tap = _scratch.take("taps", lanes, conv3.shape[1], sites, conv1)
    for chunk in strip.chunks:
        own, width = slice(*chunk.sites), math.prod(chunk.grid)
        first = _scratch.take("first", lanes, hidden + 1, width, conv1)
        second = _scratch.take("second", lanes, hidden, width, conv1)
        first[:, -1].fill_(1)  # carries the second convolution's bias
        inner = first[:, :-1]
        torch.bmm(conv1, columns[..., own], out=inner)
        for border, block in chunk.blocks if net.step.edge1 else ():
            _at(inner.view(lanes, hidden, *chunk.grid), block).add_(net.vector(net.step.edge1[border]))
        inner.relu_()
        torch.bmm(conv2, first, out=second)
        torch.bmm(conv3, second.relu_(), out=by_tap[..., own])
    return by_tap


def _columns(net: _Net, strip: Strip, grid: tuple[int, int, int], like: Tensor) -> Tensor:
    """Return what the first convolution multiplies: every site's neighbourhood, 1, and marks at the ends of rows."""
    padded, kernel, lanes = net.padded, net.level.kernel, len(net.padded)
    inputs = padded.shape[1] * net.level.taps
    columns = _scratch.take("columns", lanes, like.shape[2], math.prod(grid), like)
    window = padded[:, :, strip.z[0] : strip.z[1] + kernel[0] - 1, strip.y[0] : strip.y[1] + kernel[1] - 1]
    taps = window.unfold(2, kernel[0], 1).unfold(3, kernel[1], 1).unfold(4, kernel[2], 1)
    columns[:, :inputs].view(lanes, -1, *kernel, *grid).copy_(taps.permute(0, 1, 5, 6, 7, 2, 3, 4))
    columns[:, inputs].fill_(1)
    ends = columns[:, inputs + 1 :].zero_().view(lanes, like.shape[2] - inputs - 1, grid[0] * grid[1], grid[2])
    for row in range(ends.shape[1]):
        ends[:, row, :, ENDS[row]] = 1
    return columns
