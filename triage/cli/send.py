"""`triage-node send`: sends files by C-STORE, for trying things out."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from triage.config.schema import checked_ae_title
from triage.scu import CALLING_AE_TITLE, Sent, send_files


def parse_address(value: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``; raises ``typer.BadParameter``."""
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise typer.BadParameter("--to is HOST:PORT, for example 127.0.0.1:11112")
    return host.strip("[]"), int(port)


def send(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.", exists=True, readable=True)],
    to: Annotated[str, typer.Option("--to", metavar="HOST:PORT", help="Where the receiver listens.")],
    ae: Annotated[str, typer.Option("--ae", metavar="TITLE", help="The receiver's AE title.")],
    calling_ae: Annotated[str, typer.Option("--calling-ae", metavar="TITLE", help="Our AE title.")] = CALLING_AE_TITLE,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Send DICOM files by C-STORE, each in its own transfer syntax. Exits 1 if the receiver did not store some."""
    host, port = parse_address(to)
    try:
        ae, calling_ae = checked_ae_title(ae), checked_ae_title(calling_ae)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=as_json) as progress:
        task = progress.add_task("sending", total=None)
        sent = send_files(
            paths,
            host,
            port,
            ae,
            calling_ae_title=calling_ae,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    _report(sent, as_json)
    if not sent.stored and not sent.failed:
        raise typer.BadParameter("there is no DICOM file in what was named")
    raise typer.Exit(1 if sent.failed else 0)


def _report(sent: Sent, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**asdict(sent), "failed": sent.failed}, indent=2))
        return
    for file, reason in sent.skipped.items():
        typer.echo(f"skipped {file}: {reason}", err=True)
    for file, reason in sent.failures.items():
        typer.echo(f"failed {file}: {reason}", err=True)
    typer.echo(f"{sent.stored} stored, {sent.failed} failed, {len(sent.skipped)} skipped")
