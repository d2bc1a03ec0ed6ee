"""`triage-node serve`: the node, until it is told to stop."""

import signal
import threading
import time
from types import FrameType
from typing import Annotated

import typer

from triage.bundles import MODALITIES, active_bundles
from triage.cli.context import ConfigOption, loaded_of
from triage.config import Configuration
from triage.errors import ConfigurationError
from triage.logs import configure_logging
from triage.probes import url_of
from triage.serve import ROLES, Supervisor
from triage.serve.ready import Watch
from triage.web.auth import TOKEN_FILE, ensure_token

_READY_EVERY_S = 0.5


def serve(
    ctx: typer.Context,
    config: ConfigOption = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role", metavar="ROLE", help=f"Run only this role here; may be repeated. Roles: {', '.join(ROLES)}."
        ),
    ] = None,
) -> None:
    """Run the node: DICOM port, workers, delivery, worklist. Stop it with Ctrl-C or SIGTERM.

    Prints the ports, models and destinations, how to log in, and the line [bold]ready[/bold] when every part works.
    """
    loaded = loaded_of(ctx, config)
    roles = _checked_roles(role)
    configure_logging()
    _say_what_runs(loaded.configuration, roles)
    supervisor = Supervisor(loaded.configuration, loaded.file, roles)
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    supervisor.start()
    threading.Thread(target=_announce, args=(loaded.configuration, roles, stop), daemon=True).start()
    try:
        code = supervisor.run(stop)
    finally:
        stop.set()
        supervisor.stop()
    raise typer.Exit(code)


def _checked_roles(asked: list[str] | None) -> tuple[str, ...]:
    unknown = set(asked or ()) - set(ROLES)
    if unknown:
        raise ConfigurationError(f"no role {', '.join(sorted(unknown))}", remedy=f"roles: {', '.join(ROLES)}")
    return tuple(r for r in ROLES if not asked or r in asked)


def _say_what_runs(config: Configuration, roles: tuple[str, ...]) -> None:
    def say(text: str) -> None:
        typer.echo(text)

    if "listener" in roles:
        say(f"DICOM     {config.listen.ae_title} on {config.listen.host}:{config.listen.port}")
        if not config.listen.peer:
            say("          warning: any AE title from any address may send; list the senders in [[listen.peer]]")
    bundles = active_bundles(config.models)
    for modality in MODALITIES:
        if bundle := bundles.get(modality):
            say(f"model     {modality}: {bundle.name} {bundle.version}, digest {bundle.digest[:16]}")
        else:
            say(f"model     {modality}: none, such studies are listed but not scored")
    if "dispatcher" in roles:
        for destination in config.destination:
            proof = "storage commitment or C-FIND" if destination.storage_commitment else "C-FIND"
            say(f"results   to {destination.name}: {destination.ae_title} at {destination.host}:{destination.port}, "
                f"proof by {proof} if it offers that")  # fmt: skip
        if not config.destination:
            say("results   stay here: no [[destination]] is configured")
    if "web" in roles:
        say(f"worklist  {url_of(config.web)}/")
        _say_how_to_log_in(config)


def _say_how_to_log_in(config: Configuration) -> None:
    file = config.data_dir / TOKEN_FILE
    first = not file.exists()
    token = ensure_token(config)
    if first:
        typer.echo(f"          log in with the token {token} (kept in {file}; API: Authorization: Bearer TOKEN)")
    else:
        typer.echo(f"          log in with the token in {file} (API: Authorization: Bearer TOKEN)")


def _announce(config: Configuration, roles: tuple[str, ...], stop: threading.Event) -> None:
    watch = Watch(config, roles)
    started = time.monotonic()
    complained = False
    while not stop.wait(_READY_EVERY_S):
        waiting = watch.waiting_for()
        if not waiting:
            typer.echo("ready")
            return
        if not complained and time.monotonic() - started > 30:
            complained = True
            typer.echo("not ready yet: " + "; ".join(f"{part}: {detail}" for part, detail in waiting.items()))
