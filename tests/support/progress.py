"""How far a long measurement is, on standard error."""

from collections.abc import Collection, Iterator
from typing import TypeVar

from workers.lab.progress import counting

T = TypeVar("T")


def tracked(things: Collection[T], what: str) -> Iterator[T]:
    """Yield ``things`` one after another; shows how many there were and how long the rest may take."""
    with counting(what, len(things)) as advance:
        for thing in things:
            yield thing
            advance()
