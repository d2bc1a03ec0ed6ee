"""How far a long measurement is, on standard error."""

from collections.abc import Collection, Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def tracked(things: Collection[T], what: str) -> Iterable[T]:
    """Return ``things`` one after another, with a bar that says how many there were and how long the rest may take."""
    return track(things, what, console=Console(stderr=True))
