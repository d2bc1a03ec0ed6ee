"""`triage-node config`: writes and shows the configuration."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from triage.cli.context import ConfigOption, loaded_of
from triage.cli.output import output
from triage.config.template import rows, template
from triage.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, help="Write and show the configuration.")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("triage.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    to_stdout: Annotated[bool, typer.Option("--print", help="Print it instead of writing a file.")] = False,
) -> None:
    """Write a commented configuration with every key and its default."""
    if to_stdout:
        typer.echo(template(), nl=False)
        return
    if path.exists() and not force:
        raise ConfigurationError(f"{path} is there already", remedy="--force overwrites it, --print shows the template")
    try:
        path.write_text(template(), encoding="utf-8")
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written: {exc.strerror}") from exc
    typer.echo(f"wrote {path}: uncomment what you change, then run: triage-node doctor")


@app.command()
def show(
    ctx: typer.Context,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the effective configuration and where each value comes from."""
    loaded = loaded_of(ctx, config)
    listed = rows(loaded)
    if as_json:
        typer.echo(json.dumps({"file": str(loaded.file or ""), "values": [asdict(row) for row in listed]}, indent=2))
        return
    table = Table(title=f"configuration ({loaded.file or 'no file'})")
    for heading in ("key", "value", "source"):
        table.add_column(heading, overflow="fold")
    for row in listed:
        table.add_row(row.key, row.value, row.source, style=None if row.source == "default" else "bold")
    output().print(table, markup=False)
