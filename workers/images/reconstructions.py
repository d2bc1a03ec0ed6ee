"""A study's slices -> reconstructions: by plane and raster, and by kernel and agent as far as these tell any apart.

A series may hold several reconstructions or phases of the same head, and one reconstruction may name its kernel or its
agent otherwise in some of its slices. Taking a part for the whole hides brain; mixing shows none that there is.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import combinations

import numpy as np

from triage.errors import NotScoredError
from workers.images.frames import Frame
from workers.images.stacks import MAX_COVERAGE_MM, MAX_SLICES, Stack, by_place, group, stacked
from workers.images.volume import SliceReader

#: A scan that shows every place more often than so is repeated on purpose (perfusion): nobody looks for doubles in it.
MOST_REPEATS = 3
#: Makers' names of sharp kernels. Siemens: H60s, Hr59, J70h, B70f, U90u; Canon FC30 to FC35, FC50s, FC80s; GE BONE,
#: BONEPLUS, EDGE, LUNG, ULTRA; Philips D, E, L, YA to YD, EB, EC.
SHARP = re.compile(
    r"BONE|EDGE|LUNG|ULTRA|SHARP|\b[A-Z]{1,2}[5-9]\dT?[A-Z]?\b(?<!FC6\d)|\bFC(3[0-5]|5\d|8\d)\b|^(D|E|L|Y[A-D]|E[BC])$"
)

Way = tuple[object, ...]


def reconstructions(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Yield the slices that may each be a stack: of one series, one plane, one raster and one way of reconstruction.

    Where no part of a plane and raster is a stack, all of them are one. Kernels and agents that lie side by side along
    the head are parts of several reconstructions; those that follow one another are one, unless one of them is sharp
    or one has an agent.
    """
    for alike in group(frames):
        yield from _reconstructions(alike)


def _reconstructions(frames: Sequence[Frame]) -> list[list[Frame]]:
    named = _parts(frames, lambda f: (f.kernel, f.contrast))
    if len(named) == 1:
        return named
    if not any(_are_side_by_side(a, b) for a, b in combinations(named, 2)):
        named = _parts(frames, lambda f: (bool(SHARP.search(f.kernel)), f.contrast))
    return named if any(_is_stack(part) for part in named) else [list(frames)]


def stack_of(frames: Sequence[Frame]) -> Stack:
    """Return the slices of one reconstruction as a stack; a slice that was sent twice under two UIDs counts once.

    Raises
    ------
    NotScoredError
        If they don't fill a volume.
    """
    try:
        return stacked(frames)
    except NotScoredError:
        once = list(_without_doubles(frames))
        if len(once) == len(frames):
            raise
        return stacked(once)


def _parts(frames: Sequence[Frame], way: Callable[[Frame], Way]) -> list[list[Frame]]:
    parts: dict[Way, list[Frame]] = defaultdict(list)
    for frame in frames:
        parts[way(frame)].append(frame)
    return list(parts.values())


def _are_side_by_side(one: Sequence[Frame], other: Sequence[Frame]) -> bool:
    """Tell whether two sets of slices reach past each other's end by more than one slice of either."""
    normal = one[0].normal
    a, b = (np.array([f.position @ normal for f in frames]) for frames in (one, other))
    within_a, within_b = (
        int(((inner >= outer.min()) & (inner <= outer.max())).sum()) for inner, outer in ((b, a), (a, b))
    )
    return min(within_a, within_b) > 1


def _is_stack(frames: Sequence[Frame]) -> bool:
    try:
        stack_of(frames)
    except NotScoredError:
        return False
    return True


def _without_doubles(frames: Sequence[Frame]) -> Iterator[Frame]:
    """Leave out every slice that repeats, pixel by pixel, another one of the same place and acquisition."""
    places = by_place(frames)
    span_mm = float((places[-1][0].position - places[0][0].position) @ frames[0].normal)
    if span_mm > MAX_COVERAGE_MM or len(places) > MAX_SLICES or len(frames) > MOST_REPEATS * len(places):
        yield from frames
        return
    counts = Counter((n, frame.acquisition) for n, place in enumerate(places) for frame in place)
    contents = _contents(f for n, place in enumerate(places) for f in place if counts[n, f.acquisition] > 1)
    for place in places:
        seen = set()
        for frame in place:
            content = contents.get(frame.key)
            if content is None or content not in seen:
                seen.add(content)
                yield frame


def _contents(frames: Iterable[Frame]) -> dict[tuple[str, int], tuple[str, bytes]]:
    """Return what slices show, by their keys; one that can't be read is not among them: it repeats nothing.

    Only sums are kept; and instances are read one after another, for several may show the same places.
    """
    found, reader = {}, SliceReader()
    for frame in sorted(frames, key=lambda f: f.key):
        with suppress(NotScoredError):
            found[frame.key] = frame.acquisition, hashlib.sha256(reader.hu(frame).tobytes()).digest()
    return found
