"""A progress bar for training: bits/dim of training and validation, and the time left."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from workers.lab.fit import Progress


@contextmanager
def show_progress(console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """Yield what training reports to; every stage gets a bar on the terminal (standard error)."""
    bar = Bar(
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("bits/dim train {task.fields[train]} valid {task.fields[valid]}{task.fields[more]}"),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
    )
    tasks: dict[str, TaskID] = {}

    def report(progress: Progress) -> None:
        train, valid = _number(progress.train_bpd), _number(progress.valid_bpd)
        if progress.stage not in tasks:
            tasks[progress.stage] = bar.add_task(
                progress.stage, total=progress.steps, train=train, valid=valid, more=""
            )
        bar.update(tasks[progress.stage], completed=progress.step, train=train, valid=valid, more=_more(progress))

    with bar:
        yield report


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Yield what to call after each of ``total`` things; shows a bar on standard error."""
    bar = Bar(
        TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
    task = bar.add_task(what, total=total)
    with bar:
        yield lambda: bar.advance(task)


def _more(progress: Progress) -> str:
    """Return the second line: every level's bits per latent, training and validation, and what was skipped."""
    valid = progress.valid_levels or (math.nan,) * len(progress.train_levels)
    pairs = zip(progress.train_levels, valid, strict=True)
    levels = "  ".join(f"L{number} {_number(t)}/{_number(v)}" for number, (t, v) in enumerate(pairs, start=1))
    skipped = f"  {progress.skipped} steps skipped" if progress.skipped else ""
    return f"\n{levels}{skipped}" if levels or skipped else ""


def _number(bits: float) -> str:
    return "–" if math.isnan(bits) else f"{bits:.3f}"
