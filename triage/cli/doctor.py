"""`triage-node doctor`: checks everything for real and says what to do."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from triage.cli.context import ConfigOption, configuration_of
from triage.cli.output import output
from triage.doctor import Verdict, run_checks
from triage.logs import configure_logging

_STYLE = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


def doctor(
    ctx: typer.Context,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check configuration, folders, disk, clock, ports, ledger, broker, decoders, devices, models, destinations.

    Exit code 0 when nothing failed (warnings allowed), 1 when something did, 2 when the configuration is wrong.
    """
    configure_logging()
    configuration = configuration_of(ctx, config)
    with Console(stderr=True).status("looking …"):
        checks = list(run_checks(configuration))
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        table = Table(title="triage-node doctor")
        for heading in ("part", "", "seen", "what to do"):
            table.add_column(heading, overflow="fold")
        for check in checks:
            verdict = Text(str(check.verdict), style=_STYLE[check.verdict])
            # As text: [[listen.peer]] in a remedy is no markup.
            table.add_row(Text(check.part), verdict, Text(check.detail), Text(check.remedy))
        output().print(table)
    if any(check.verdict is Verdict.FAIL for check in checks):
        raise typer.Exit(1)
