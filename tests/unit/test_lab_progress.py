"""What is shown of long work where nobody looks at a terminal, and on a narrow one."""

import io

import pytest
from rich.console import Console

from workers.lab import progress
from workers.lab.fit import Progress
from workers.lab.progress import show_progress

LEVELS = tuple(2.0 + 0.1 * n for n in range(7))


def told(step: int) -> Progress:
    return Progress("normal", step, 100, 2.345, 2.456, LEVELS, LEVELS, skipped=1)


def test_a_file_gets_a_line_a_minute_with_bits_of_every_level_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    with show_progress(Console(file=stream)) as report:
        for step in range(1, 6):
            report(told(step))
        report(told(100))
    lines = stream.getvalue().splitlines()
    # A step takes 30 s: the first, then every second one, and the last.
    assert [line.split("  ")[0] for line in lines] == ["normal 1/100", "normal 3/100", "normal 5/100", "normal 100/100"]
    assert "0:48:30 left" in lines[1]
    assert all("train 2.345 valid 2.456" in line and "L7 2.600/2.600" in line for line in lines)


def test_eighty_columns_hold_seven_levels_and_the_time_left() -> None:
    stream = io.StringIO()
    with show_progress(Console(file=stream, force_terminal=True, width=80, color_system=None)) as report:
        report(told(1))
    shown = stream.getvalue()
    for part in ("1/100", "-:--:--", "train 2.345 valid 2.456", "L1 2.000/2.000", "L7 2.600/2.600", "1 steps skipped"):
        assert part in shown
