"""`triage-node outbox`: the operator's look at results on their way, and hands on them."""

from typing import Annotated

import typer

from triage.cli.context import ConfigOption, configuration_of
from triage.cli.studies import AsJson, Limit, Yes, actor, local_time, print_json, print_table, shown_of
from triage.ledger import OutboxState, open_ledger
from triage.web.schemas import DeliveryItem

app = typer.Typer(no_args_is_help=True, help="List results on their way to destinations and act on them.")

Number = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="As `outbox list` shows it.")]


@app.command("list")
def list_outbox(
    ctx: typer.Context,
    *,
    state: Annotated[OutboxState | None, typer.Option("--state", help="Only items in this state.")] = None,
    destination: Annotated[str | None, typer.Option("--destination", help="Only items for this one.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also committed and discarded items.")] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
    config: ConfigOption = None,
) -> None:
    """List results on their way, dead ones first, then the oldest; committed and discarded ones only when asked for."""
    ledger = open_ledger(configuration_of(ctx, config))
    items = [DeliveryItem.of(item) for item in ledger.list_outbox(state, destination, limit, settled=everything)]
    if as_json:
        print_json(list(items))
        return
    number = shown_of(len(items), limit, lambda: ledger.count_outbox(state, destination, settled=everything))
    print_table(
        f"{number} results" + (f", {state}" if state else "" if everything else " on their way"),
        ["number", "destination", "state", "attempts", "next try", "last error", "proof"],
        [
            [
                item.outbox,
                item.destination,
                item.state,
                item.attempts,
                local_time(item.next_try_at) if item.state == OutboxState.PENDING else "",
                item.last_error,
                item.proof,
            ]
            for item in items
        ],
    )


@app.command()
def show(ctx: typer.Context, number: Number, as_json: AsJson = False, config: ConfigOption = None) -> None:
    """Show one result on its way."""
    item = DeliveryItem.of(open_ledger(configuration_of(ctx, config)).outbox_item(number))
    if as_json:
        print_json(item)
        return
    print_table("result", ["", ""], [[key, "" if value is None else value] for key, value in item.model_dump().items()])


@app.command()
def requeue(ctx: typer.Context, number: Number, config: ConfigOption = None) -> None:
    """Send a result again, now, with its attempts counted from zero."""
    ledger = open_ledger(configuration_of(ctx, config))
    ledger.outbox_requeue(number, actor())
    typer.echo(f"result {number} is {ledger.outbox_item(number).state}")


@app.command()
def discard(ctx: typer.Context, number: Number, yes: Yes = False, config: ConfigOption = None) -> None:
    """Give a result up for good: its destination will not get it."""
    ledger = open_ledger(configuration_of(ctx, config))
    item = ledger.outbox_item(number)
    if not yes:
        typer.confirm(f"Never send result {number} ({item.state}) to {item.destination}?", abort=True)
    ledger.outbox_discard(number, actor())
    typer.echo(f"result {number} is {ledger.outbox_item(number).state}")
