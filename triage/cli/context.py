"""What every command needs of the command line: the configuration, asked for once."""

from pathlib import Path
from typing import Annotated

import typer

from triage.config import Configuration, Loaded, load

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="Configuration file. Default: $TRIAGE_CONFIG, else ./triage.toml."
    ),
]


def loaded_of(ctx: typer.Context, config: Path | None = None) -> Loaded:
    """Return the configuration that the command line names, read at first use.

    `--config` may stand before or after the command's name.
    """
    root = ctx.find_root()
    file = config or (root.params.get("config") if root.params else None)
    return load(Path(file) if file else None)


def configuration_of(ctx: typer.Context, config: Path | None = None) -> Configuration:
    """Return the effective configuration."""
    return loaded_of(ctx, config).configuration
