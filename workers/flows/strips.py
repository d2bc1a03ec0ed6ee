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
from workers.flows.fold import Border, FoldedLevel, FoldedStep, border_states

STRIP_SITES = {"cpu": 1024, "cuda": 1 << 17}
"""Sites of a strip: on a CPU its hidden channels fit in a core's share of the cache, a GPU wants many."""


@dataclass(frozen=True)
class Box:
    """A strip: where it begins and ends along z and along y; along x it is whole.

    ``blocks`` are its parts that lie at the map's border, each with its place inside the strip.
    """

    z: tuple[int, int]
    y: tuple[int, int]
    blocks: tuple[tuple[Border, tuple[slice, slice, slice]], ...]

    @property
    def rows(self) -> tuple[int, int]:
        """Its extent along z and y."""
        return self.z[1] - self.z[0], self.y[1] - self.y[0]


@lru_cache(maxsize=64)
def strips(size: tuple[int, int, int], kernel: tuple[int, int, int], sites: int) -> tuple[Box, ...]:
    """Cut a map of ``size`` into strips of at most ``sites`` sites where rows allow; nothing else decides."""
    depth, height, width = size
    planes = max(1, min(depth, sites // (height * width)))
    lines = height if planes * height * width <= sites else max(1, sites // width)
    return tuple(
        Box((z, end_z), (y, end_y), tuple(_blocks(size, kernel, ((z, end_z), (y, end_y), (0, width)))))
        for z, end_z in _cuts(depth, planes)
        for y, end_y in _cuts(height, lines)
    )


def _cuts(size: int, length: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + length, size)) for start in range(0, size, length))


def _blocks(
    size: Sequence[int], kernel: Sequence[int], box: Sequence[tuple[int, int]]
) -> Iterator[tuple[Border, tuple[slice, slice, slice]]]:
    states = [border_states(n, k) for n, k in zip(size, kernel, strict=True)]
    for kinds in itertools.product(*states):
        spans = [(max(a, c) - a, min(b, d) - a) for (a, b), (_, (c, d)) in zip(box, kinds, strict=True)]
        if all(start < end for start, end in spans) and any(low or high for (low, high), _ in kinds):
            z, y, x = (slice(*span) for span in spans)
            yield tuple(kind for kind, _ in kinds), (z, y, x)


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

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return an uninitialised tensor of ``like``'s dtype and device."""
        key, needed = (name, like.dtype, like.device), math.prod(shape)
        held = self.flat.get(key)
        if held is None or held.numel() < needed:
            held = self.flat[key] = like.new_empty(needed)
        return held[:needed].view(shape)


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
    boxes = strips(level.size, level.kernel, STRIP_SITES[padded.device.type])
    pads = [k // 2 for k in level.kernel]
    found.copy_(step.bias3[flows].unflatten(2, (1, 1, 1)).expand_as(found))
    tasks = [lambda box=box: _strip(level, step, flows, padded, box) for box in boxes]
    for box, part in zip(boxes, workers.each(tasks), strict=True):
        window = (slice(box.z[0], box.z[1] + 2 * pads[0]), slice(box.y[0], box.y[1] + 2 * pads[1]), slice(None))
        found[(..., *window)] += part


def _strip(level: FoldedLevel, step: FoldedStep, flows: slice, padded: Tensor, box: Box) -> Tensor:
    """Return what a strip's hidden sites give to its own outputs and its neighbours': the strip's box and a frame."""
    lanes, (depth, height), width = len(padded), box.rows, level.size[2]
    sites, grid, kernel = depth * height * width, (depth, height, width), level.kernel
    conv1, conv2, conv3 = (_per_lane(w[flows], lanes) for w in (step.conv1, step.conv2, step.conv3))
    hidden = conv2.shape[1]

    columns = _scratch.take("columns", (lanes, conv1.shape[2], sites), conv1)
    columns[:, -1].fill_(1)
    window = padded[:, :, box.z[0] : box.z[1] + kernel[0] - 1, box.y[0] : box.y[1] + kernel[1] - 1]
    taps = window.unfold(2, kernel[0], 1).unfold(3, kernel[1], 1).unfold(4, kernel[2], 1)
    columns[:, :-1].view(lanes, -1, *kernel, *grid).copy_(taps.permute(0, 1, 5, 6, 7, 2, 3, 4))

    first = _scratch.take("first", (lanes, hidden + 1, sites), conv1)
    first[:, -1].fill_(1)
    torch.bmm(conv1, columns, out=first[:, :-1])
    _add_border(first[:, :-1].unflatten(2, grid), step.edge1, flows, box)
    first[:, :-1].relu_()
    second = _scratch.take("second", (lanes, hidden, sites), conv1)
    torch.bmm(conv2, first, out=second)
    second.relu_()
    by_tap = torch.bmm(conv3, second, out=_scratch.take("taps", (lanes, conv3.shape[1], sites), conv1))

    outputs = conv3.shape[1] // level.taps
    spread = padded.new_zeros(lanes, outputs, *(n + k - 1 for n, k in zip(grid, kernel, strict=True)))
    shifted = by_tap.view(lanes, level.taps, outputs, *grid)
    for tap, offsets in enumerate(itertools.product(*(range(k) for k in kernel))):
        # A site's hidden channels reach the output that sees the site through this tap.
        place = (slice(k - 1 - o, k - 1 - o + n) for k, o, n in zip(kernel, offsets, grid, strict=True))
        spread[(..., *place)] += shifted[:, tap]
    centre = tuple(slice(k // 2, k // 2 + n) for k, n in zip(kernel, grid, strict=True))
    _add_border(spread[(..., *centre)], step.edge3, flows, box)
    return spread


def _add_border(values: Tensor, vectors: dict[Border, Tensor], flows: slice, box: Box) -> None:
    """Add what the edge channel contributes at border sites; ``values`` is (lanes, channels, *the strip's grid)."""
    if vectors:
        for border, block in box.blocks:
            values[(..., *block)] += vectors[border][flows].unflatten(1, (-1, 1, 1, 1))
