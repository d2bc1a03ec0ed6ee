"""The coupling nets of folded levels, run over strips of sites by one or more threads: the engine's inner loop."""

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from triage.manifest import Scale
from workers.flows.bijections import scale_and_log
from workers.flows.fold import ENDS, Border, FoldedLevel, FoldedStep, border_states

STRIP_SITES = {"cpu": 2048, "cuda": 1 << 17}
"""Sites of a strip, for which taps are gathered and spread at once."""
CHUNK_SITES = {"cpu": 512, "cuda": 1 << 17}
"""Sites of a part of it, whose hidden channels fit in a core's cache; a GPU wants many."""
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


@lru_cache(maxsize=64)
def cut(size: tuple[int, int, int], kernel: tuple[int, int, int], sites: int, chunk_sites: int) -> tuple[Strip, ...]:
    """Cut a map of ``size`` into strips of at most ``sites`` sites where its rows allow; nothing else decides."""
    strips = []
    for z, y in _boxes((0, size[0]), (0, size[1]), size[2], sites):
        chunks, start = [], 0
        for own_z, own_y in _boxes(z, y, size[2], chunk_sites):
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
        if all(start < end for start, end in spans) and any(low or high for (low, high), _ in kinds[:2]):
            yield tuple(kind for kind, _ in kinds), (slice(*spans[0]), slice(*spans[1]), slice(*spans[2]))


class Workers:
    """Threads that each compute with one thread, so that a strip's result can't depend on their number."""

    def __init__(self, pool: ThreadPoolExecutor | None) -> None:
        self._pool = pool

    def each(self, tasks: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        """Return every task's result, in order."""
        if self._pool is None or len(tasks) == 1:
            return [task() for task in tasks]
        return list(self._pool.map(_call, tasks))


@torch.inference_mode()
def _call(task: Callable[[], Tensor]) -> Tensor:
    return task()


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="flows", initializer=torch.set_num_threads, initargs=(1,))


@contextmanager
def one_thread_each(device: torch.device) -> Iterator[Workers]:
    """Give as many workers as torch has threads, and one thread to every operation until the end."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield Workers(None)
        return
    torch.set_num_threads(1)
    try:
        yield Workers(_pool(threads))
    finally:
        torch.set_num_threads(threads)


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


def _per_lane(weight: Tensor, lanes: int) -> Tensor:
    """Return the weights of every lane: one flow's for all of them, or each its own."""
    return weight if len(weight) == lanes else weight.expand(lanes, *weight.shape[1:])


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
        torch.bmm(_per_lane(step.mix[flows], lanes), z, out=mixed)
        z, mixed = mixed.add_(step.shift[flows]), z
        padded[(..., *inner)] = z[:, :first].unflatten(2, level.size)
        _run_net(level, step, flows, padded, found, workers)
        shift, a = found[(..., *inner)].flatten(2).chunk(2, dim=1)
        factor, log_factor = scale_and_log(a, scale)
        z[:, first:].add_(shift).mul_(factor)
        ladj += log_factor.flatten(1).sum(1, dtype=torch.float64)
    return z.view_as(x), ladj


def _run_net(
    level: FoldedLevel, step: FoldedStep, flows: slice, padded: Tensor, found: Tensor, workers: Workers
) -> None:
    """Write the coupling net's outputs of the whole map into ``found``; its frame collects what falls outside."""
    device, pads = padded.device.type, [k // 2 for k in level.kernel]
    found.copy_(step.bias3[flows].unflatten(2, (1, 1, 1)).expand_as(found))
    for border, vector in step.edge3.items():
        states = (dict(border_states(n, k)) for n, k in zip(level.size, level.kernel, strict=True))
        spans = [known.get(kind) for known, kind in zip(states, border, strict=True)]
        if None not in spans:
            place = [slice(span[0] + pad, span[1] + pad) for span, pad in zip(spans, pads, strict=True) if span]
            found[(..., *place)] += vector[flows].unflatten(1, (-1, 1, 1, 1))
    strips = cut(level.size, level.kernel, STRIP_SITES[device], CHUNK_SITES[device])
    tasks = [lambda strip=strip: _spread(level, step, flows, padded, strip) for strip in strips]
    for strip, part in zip(strips, workers.each(tasks), strict=True):
        window = (slice(strip.z[0], strip.z[1] + 2 * pads[0]), slice(strip.y[0], strip.y[1] + 2 * pads[1]))
        found[(..., *window, slice(None))] += part


def _spread(level: FoldedLevel, step: FoldedStep, flows: slice, padded: Tensor, strip: Strip) -> Tensor:
    """Return what a strip's hidden sites give to its own outputs and to its neighbours': its box with a frame."""
    kernel, lanes = level.kernel, len(padded)
    grid = (strip.z[1] - strip.z[0], strip.y[1] - strip.y[0], level.size[2])
    outputs = step.conv3.shape[1] // level.taps
    by_tap = _by_tap(level, step, flows, padded, strip, grid).unflatten(2, grid).unflatten(1, (level.taps, outputs))
    spread = padded.new_zeros(lanes, outputs, *(n + k - 1 for n, k in zip(grid, kernel, strict=True)))
    for tap, offsets in enumerate(itertools.product(*(range(k) for k in kernel))):
        # A site's hidden channels reach the output that sees the site through this tap.
        place = (slice(k - 1 - o, k - 1 - o + n) for k, o, n in zip(kernel, offsets, grid, strict=True))
        spread[(..., *place)] += by_tap[:, tap]
    return spread


def _by_tap(
    level: FoldedLevel, step: FoldedStep, flows: slice, padded: Tensor, strip: Strip, grid: tuple[int, int, int]
) -> Tensor:
    """Return every tap's outputs from a strip's hidden channels, (lanes, taps C', sites)."""
    lanes, kernel, sites = len(padded), level.kernel, math.prod(grid)
    conv1, conv2, conv3 = (_per_lane(w[flows], lanes) for w in (step.conv1, step.conv2, step.conv3))
    hidden, inputs = conv2.shape[1], padded.shape[1] * level.taps

    columns = _scratch.take("columns", lanes, conv1.shape[2], sites, conv1)
    window = padded[:, :, strip.z[0] : strip.z[1] + kernel[0] - 1, strip.y[0] : strip.y[1] + kernel[1] - 1]
    taps = window.unfold(2, kernel[0], 1).unfold(3, kernel[1], 1).unfold(4, kernel[2], 1)
    columns[:, :inputs].unflatten(2, grid).unflatten(1, (padded.shape[1], *kernel)).copy_(
        taps.permute(0, 1, 5, 6, 7, 2, 3, 4)
    )
    columns[:, inputs].fill_(1)
    ends = columns[:, inputs + 1 :].unflatten(2, (-1, grid[2])).zero_()
    for row, place in enumerate(ENDS):
        if row < ends.shape[1]:
            ends[:, row, :, place] = 1

    by_tap = _scratch.take("taps", lanes, conv3.shape[1], sites, conv1)
    for chunk in strip.chunks:
        own = slice(*chunk.sites)
        first = _scratch.take("first", lanes, hidden + 1, math.prod(chunk.grid), conv1)
        second = _scratch.take("second", lanes, hidden, math.prod(chunk.grid), conv1)
        first[:, -1].fill_(1)
        inner = first[:, :-1]
        torch.bmm(conv1, columns[..., own], out=inner)
        for border, block in chunk.blocks if step.edge1 else ():
            inner.unflatten(2, chunk.grid)[(..., *block)] += step.edge1[border][flows].unflatten(1, (-1, 1, 1, 1))
        inner.relu_()
        torch.bmm(conv2, first, out=second)
        torch.bmm(conv3, second.relu_(), out=by_tap[..., own])
    return by_tap
