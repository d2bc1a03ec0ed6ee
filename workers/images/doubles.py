"""Slices that were sent twice under two UIDs: one of them is enough."""

import hashlib
from collections.abc import Iterator, Sequence

from workers.images.frames import Frame
from workers.images.stacks import by_place
from workers.images.volume import SliceReader

#: A scan that shows every place more often than so is repeated on purpose (perfusion): nobody looks for doubles in it.
MOST_REPEATS = 3


def without_doubles(frames: Sequence[Frame]) -> list[Frame]:
    """Leave out every slice that repeats, pixel by pixel, another one at the same place and of the same acquisition.

    Raises
    ------
    NotScoredError
        If a slice that shares its place cannot be decoded.
    """
    places = by_place(frames)
    if len(frames) > MOST_REPEATS * len(places):
        return list(frames)
    reader = SliceReader()
    return [frame for place in places for frame in (_distinct(place, reader) if len(place) > 1 else place)]


def _distinct(frames: Sequence[Frame], reader: SliceReader) -> Iterator[Frame]:
    seen = set()
    for frame in frames:
        content = frame.acquisition, hashlib.sha256(reader.hu(frame).tobytes()).digest()
        if content not in seen:
            seen.add(content)
            yield frame
