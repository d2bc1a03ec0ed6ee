"""The laboratory's commands, and `triage-node models`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from triage.bundles import Bundle, list_bundles, models_folder
from triage.config import load as load_configuration
from triage.config.schema import Models
from triage.errors import BundleError, TriageError
from workers.flows.engine import choose_device
from workers.lab.evaluate_cli import evaluate
from workers.lab.golden import check_golden
from workers.lab.sample_cli import sample
from workers.lab.train_cli import train

models_app = typer.Typer(no_args_is_help=True, help="Look at the model bundles.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line (entry point group ``triage_node.commands``)."""
    app.command("train")(train)
    app.command("evaluate")(evaluate)
    app.command("sample")(sample)
    app.add_typer(models_app, name="models")


@dataclass(frozen=True, kw_only=True)
class BundleRow:
    """One bundle in a listing; ``problem`` is empty if it may be used."""

    name: str
    version: str = ""
    modality: str = ""
    digest: str = ""
    active: bool = False
    images: int = 0
    problem: str = ""
    golden_error_nats: float | None = None


@models_app.command("list")
def list_models(ctx: typer.Context, as_json: Json = False) -> None:
    """List the bundles, and which of them score."""
    models = _models(ctx)
    rows = [_row(folder, models) for folder in list_bundles(models_folder(models))]
    _show(rows, as_json)


@models_app.command("verify")
def verify_models(
    ctx: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Bundles' names or folders. Default: all.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Recompute digests, load the weights, and score each bundle's golden input on this machine."""
    models = _models(ctx)
    choose_device(device)
    rows = [_verified(folder, models, device) for folder in _folders(models, names)]
    _show(rows, as_json)
    if not rows or any(row.problem for row in rows):
        raise typer.Exit(1)


def _models(ctx: typer.Context) -> Models:
    root = ctx.find_root()
    file = root.params.get("config") if root.params else None
    return load_configuration(Path(file) if file else None).configuration.models


def _folders(models: Models, names: list[str] | None) -> list[Path]:
    if not names:
        return list_bundles(models_folder(models))
    folders = [Path(name) if Path(name).is_dir() else models_folder(models) / name for name in names]
    for name, folder in zip(names, folders, strict=True):
        if not folder.is_dir():
            raise BundleError(f"there is no bundle {name}", remedy="run: triage-node models list")
    return folders


def _row(folder: Path, models: Models) -> BundleRow:
    try:
        bundle = Bundle.open(folder)
    except TriageError as exc:
        return BundleRow(name=folder.name, problem=exc.message)
    return BundleRow(
        name=folder.name,
        version=bundle.version,
        modality=bundle.modality,
        digest=bundle.digest,
        active=folder.name == (models.cxr if bundle.modality == "CXR" else models.bct),
        images=bundle.calibration.images,
    )


def _verified(folder: Path, models: Models, device: str) -> BundleRow:
    row = _row(folder, models)
    if row.problem:
        return row
    try:
        check = check_golden(Bundle.open(folder), device)
    except TriageError as exc:
        return BundleRow(**asdict(row) | {"problem": exc.message})
    problem = "" if check.passed else f"scores its golden input {check.error:.3g} nats off: don't score on this machine"
    return BundleRow(**asdict(row) | {"problem": problem, "golden_error_nats": check.error})


def _show(rows: list[BundleRow], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table()
    for heading in ("bundle", "version", "scores", "active", "calibrated on", "digest", "state"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        state = row.problem or (
            "ok" if row.golden_error_nats is None else f"ok, golden input within {row.golden_error_nats:.1g} nats"
        )
        table.add_row(
            row.name, row.version, row.modality, "active" if row.active else "", str(row.images or ""), row.digest[:16],
            state, style="red" if row.problem else None,
        )  # fmt: skip
    Console().print(table, markup=False)
