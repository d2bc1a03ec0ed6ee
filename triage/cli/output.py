"""Where commands print their tables."""

import os
import sys

from rich.console import Console

WIDEST = 10_000
"""More characters than a row has."""


def output() -> Console:
    """Return standard output; in a pipe or a file a row is one line, so that whole UIDs can be found and copied."""
    at_a_terminal = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return Console(width=None if at_a_terminal else WIDEST)
