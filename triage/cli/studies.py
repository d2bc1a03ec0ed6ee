"""`triage-node studies`: the operator's look at studies, and hands on them."""

import getpass
import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from triage.cli.context import ConfigOption, configuration_of
from triage.cli.output import output
from triage.errors import InvalidUIDError
from triage.ledger import Ledger, State, Study, open_ledger
from triage.uids import checked_uid
from triage.web.readable import inherited, readable_name, readable_percentile, readable_wait
from triage.web.schemas import StudyDetail, WorklistItem, study_detail

app = typer.Typer(no_args_is_help=True, help="List studies and act on them.")

StudyUID = Annotated[str, typer.Argument(metavar="STUDY_INSTANCE_UID", help="As `studies list --json` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="Show at most so many.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def actor() -> str:
    """Return how the event log names whoever runs this command."""
    return f"cli:{getpass.getuser()}"


def plain(value: object) -> Text:
    """Return a table cell that shows a peer's text as text: no markup, no terminal control characters."""
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value)))


def print_table(title: str, headings: list[str], rows: list[list[object]]) -> None:
    """Print rows under headings."""
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    output().print(table)


def print_json(items: list[BaseModel] | BaseModel) -> None:
    """Print records as JSON."""
    tree: Any = [item.model_dump(mode="json") for item in items] if isinstance(items, list) else None
    typer.echo(json.dumps(tree if tree is not None else items.model_dump(mode="json"), indent=2))  # type: ignore[union-attr]


def shown_of(shown: int, limit: int, count: Callable[[], int]) -> str:
    """Return how many of all are shown, ``"50 of 169"``; they are counted only where the limit may have cut."""
    total = count() if shown == limit else shown
    return f"{shown} of {total}" if total > shown else f"{total}"


def local_time(moment: datetime | None) -> str:
    """Return a time as this machine's clock shows it; empty for none."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _uid(text: str) -> str:
    try:
        return checked_uid(text)
    except InvalidUIDError as exc:
        raise typer.BadParameter(exc.message) from exc


def _study(ledger: Ledger, text: str) -> Study:
    return ledger.study(_uid(text))


@app.command("list")
def list_studies(
    ctx: typer.Context,
    state: Annotated[State | None, typer.Option("--state", help="Only studies in this state.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
    config: ConfigOption = None,
) -> None:
    """List studies, newest first; those that are superseded only when --state asks for them."""
    configuration = configuration_of(ctx, config)
    ledger = open_ledger(configuration)
    studies = ledger.studies(state, limit)
    now = time.time()
    items = [WorklistItem.of(study, now=now, rank=configuration.rank) for study in studies]
    if as_json:
        print_json(list(items))
        return
    number = shown_of(len(items), limit, lambda: ledger.count_studies(state))
    print_table(
        f"{number} studies" + (f", {state}" if state else ""),
        ["study", "patient", "mod.", "state", "reason", "priority", "percentile", "arrived", "waited"],
        [
            [
                item.study_instance_uid,
                readable_name(item.patient_name) or item.patient_id,
                item.modality,
                item.state,
                item.reason,
                " ".join(
                    word
                    for word in ("STAT" if item.stat else "", item.priority, inherited(item) and "(earlier score)")
                    if word
                ),
                readable_percentile(item.percentile),
                local_time(item.arrived_at),
                readable_wait(item.waited_s),
            ]
            for item in items
        ],
    )


@app.command()
def show(ctx: typer.Context, study: StudyUID, as_json: AsJson = False, config: ConfigOption = None) -> None:
    """Show one study with its events, jobs and deliveries."""
    configuration = configuration_of(ctx, config)
    ledger = open_ledger(configuration)
    detail = study_detail(ledger, _study(ledger, study), now=time.time(), rank=configuration.rank)
    if as_json:
        print_json(detail)
        return
    _print_detail(detail)


def _print_detail(detail: StudyDetail) -> None:
    listed = {"events", "jobs", "outbox"}
    rows: list[list[object]] = [
        [key, "" if value is None else value] for key, value in detail.model_dump(exclude=listed).items()
    ]
    print_table("study", ["", ""], rows)
    print_table(
        "events",
        ["at", "who", "from", "to", "reason"],
        [[local_time(e.at), e.actor, e.from_state, e.to_state, e.reason] for e in detail.events],
    )
    print_table(
        "jobs",
        ["stage", "state", "attempts", "last error"],
        [[j.stage, j.state, j.attempts, j.last_error] for j in detail.jobs],
    )
    print_table(
        "outbox",
        ["number", "destination", "state", "attempts", "last error", "proof"],
        [[o.outbox, o.destination, o.state, o.attempts, o.last_error, o.proof] for o in detail.outbox],
    )


@app.command()
def requeue(ctx: typer.Context, study: StudyUID, config: ConfigOption = None) -> None:
    """Work on a failed or unsuitable study again, from the start, or bring a discarded one back."""
    after = open_ledger(configuration_of(ctx, config)).requeue(_uid(study), actor())
    typer.echo(f"study {after.id} is {after.state}")


@app.command()
def discard(
    ctx: typer.Context,
    study: StudyUID,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the study's events.")],
    yes: Yes = False,
    config: ConfigOption = None,
) -> None:
    """Take a study off the worklist; its objects stay in the store, and `studies requeue` brings it back."""
    ledger = open_ledger(configuration_of(ctx, config))
    found = _study(ledger, study)
    if not yes:
        typer.confirm(
            f"Take study {found.id} ({found.state}) off the worklist, so that nobody sees it there?", abort=True
        )
    after = ledger.discard(found.study_instance_uid, actor(), reason)
    typer.echo(f"study {after.id} is {after.state}")
