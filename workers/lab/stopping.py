"""A training that is told to end says what is kept of it, and how it goes on."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer

from triage.bundles import SUMS
from workers.lab.claim import checkpoints_of, kept


@contextmanager
def stoppable(out: Path, *, tells: bool) -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C, but with exit code 143: nothing is left half written, and what is kept is told.

    Parameters
    ----------
    out : Path
        The bundle that is trained.
    tells : bool
        Whether this process is the one of its group that talks (standard error).
    """
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        # Until the process has ended: torchrun passes on what a batch system has told all processes already.
        before = signal.SIG_IGN
        signal.signal(signal.SIGTERM, before)
        if tells:
            typer.echo(f"interrupted; {_what_is_kept(out)}", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _what_is_kept(out: Path) -> str:
    checkpoints = checkpoints_of(out)
    if (out / SUMS).exists():
        return f"{out} is complete"
    if stages := kept(checkpoints):
        return f"kept in {checkpoints}: {', '.join(stages)}; the same command with --resume goes on from there"
    return "nothing was kept, for no epoch was complete; the same command begins anew"
