"""How far long work is, and the time left: bars on a terminal, a line a minute into a file or a service's log."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from workers.lab.fit import Progress

LINE_EVERY_S = 60.0
#: Rich forgets steps older than this when it estimates the time left; a step of the paper's flows takes minutes on CPU.
MEMORY_S = 3600.0
#: Of a terminal of 80 columns, as much as the bar leaves free.
LEVELS_A_LINE = 2


@contextmanager
def show_progress(console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """Yield what training reports to (standard error): every stage's steps, bits/dim by level, and the time left."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(console)
        yield lambda progress: lines(progress.stage, progress.step, progress.steps, _bits(progress, "  "))
        return
    bar = _bar(console, TextColumn("{task.fields[bits]}"))
    tasks: dict[str, TaskID] = {}

    def report(progress: Progress) -> None:
        if progress.stage not in tasks:
            tasks[progress.stage] = bar.add_task(progress.stage, total=progress.steps, bits="")
        bar.update(tasks[progress.stage], completed=progress.step, bits=_bits(progress, "\n"))

    with bar:
        yield report


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Yield what to call after each of ``total`` things (standard error)."""
    console = Console(stderr=True)
    if not console.is_terminal:
        lines, done = _Lines(console), 0

        def advance() -> None:
            nonlocal done
            done += 1
            lines(what, done, total, "")

        yield advance
        return
    bar = _bar(console)
    task = bar.add_task(what, total=total)
    with bar:
        yield lambda: bar.advance(task)


def _bar(console: Console, *more: TextColumn) -> Bar:
    return Bar(
        TextColumn("{task.description:>8}"), BarColumn(16), MofNCompleteColumn(), TimeRemainingColumn(), *more,
        console=console, speed_estimate_period=MEMORY_S,
    )  # fmt: skip


class _Lines:
    """Writes a line when a stage begins, every minute, and when it ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stage, self.first, self.began, self.told = "", 0, 0.0, -math.inf

    def __call__(self, stage: str, step: int, steps: int, text: str) -> None:
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.first, self.began, self.told = stage, step, now, -math.inf
        if now - self.told < LINE_EVERY_S and step < steps:
            return
        self.told = now
        passed = step - self.first
        left = f"  {_clock((now - self.began) / passed * (steps - step))} left" if passed else ""
        self.console.print(f"{stage} {step}/{steps}{left}{text and '  ' + text}", soft_wrap=True, highlight=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _bits(progress: Progress, newline: str) -> str:
    """Return bits/dim of training and validation, every level's bits per latent, and what was skipped."""
    if not progress.train_levels and math.isnan(progress.train_bpd):
        return ""
    parts = [f"bits/dim train {_number(progress.train_bpd)} valid {_number(progress.valid_bpd)}"]
    valid = progress.valid_levels or (math.nan,) * len(progress.train_levels)
    pairs = zip(progress.train_levels, valid, strict=True)
    levels = [f"L{number} {_number(t)}/{_number(v)}" for number, (t, v) in enumerate(pairs, start=1)]
    parts += ["  ".join(levels[n : n + LEVELS_A_LINE]) for n in range(0, len(levels), LEVELS_A_LINE)]
    if progress.skipped:
        parts.append(f"{progress.skipped} steps skipped")
    return newline.join(parts)


def _number(bits: float) -> str:
    return "–" if math.isnan(bits) else f"{bits:.3f}"
