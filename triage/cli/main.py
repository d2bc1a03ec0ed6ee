"""`triage-node`: assembles the commands; turns every error into one line and an exit code."""

import errno
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from triage import __version__
from triage.cli import config, conformance, demo, doctor, outbox, send, serve, studies
from triage.errors import EXIT_FAILED, TriageError, exit_code, place_of

#: What is wrong with a disk or a place on it, not with the program.
_OF_FILES = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG, errno.EIO,
})  # fmt: skip

app = typer.Typer(
    name="triage-node",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Receives chest X-rays and brain CTs, scores how abnormal they look, reports to the PACS and orders the "
    "worklist. [bold]Research use only: a prioritisation aid, not a diagnosis.[/bold]\n\n"
    "New here? Run [bold]triage-node demo[/bold].",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"triage-node {__version__}")
        raise typer.Exit


@app.callback()
def root(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Configuration file. Default: $TRIAGE_CONFIG, else ./triage.toml."
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that every command shares; they are read from the context."""


def _assemble() -> None:
    app.command("serve")(serve.serve)
    app.command("demo")(demo.demo)
    app.command("doctor")(doctor.doctor)
    app.add_typer(config.app, name="config")
    app.add_typer(studies.app, name="studies")
    app.add_typer(outbox.app, name="outbox")
    app.command("send")(send.send)
    app.command("conformance")(conformance.conformance)
    # The laboratory's commands (train, models) come from the workers' side, which this side must not import.
    for entry in entry_points(group="triage_node.commands"):
        entry.load()(app)


def main() -> None:
    """Run the command line; exit 0 ok, 1 failed, 2 usage or configuration error, bundles included."""
    debug = "--debug" in sys.argv
    _assemble()
    try:
        app()
    except TriageError as exc:
        if debug:
            raise
        _complain(exc.message, exc.remedy)
        sys.exit(exit_code(exc))
    except Exception as exc:  # The process edge; --debug shows all of it.
        if debug:
            raise
        _complain(*_unexpected(exc))
        sys.exit(EXIT_FAILED)


def _unexpected(exc: Exception) -> tuple[str, str]:
    """Return what to say and what to try."""
    if isinstance(exc, OSError) and exc.errno in _OF_FILES:
        named = f": {exc.filename}" if exc.filename else ""
        return f"{exc.strerror}{named}", "make room or allow access there, or name another place"
    # Its message may quote a data set; type and place never do.
    return f"unexpected {type(exc).__name__} at {place_of(exc)}", "run it again with --debug, and report what it shows"


def _complain(message: str, remedy: str) -> None:
    console = Console(stderr=True, soft_wrap=True)
    console.print(f"error: {message}", style="red", markup=False, highlight=False)
    if remedy:
        console.print(f"  try: {remedy}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
