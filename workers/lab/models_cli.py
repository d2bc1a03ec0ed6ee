"""`triage-node models`: what bundles there are, what they are, and whether this machine computes them right."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from triage.bundles import Bundle, list_bundles, models_folder
from triage.cli.output import output
from triage.config.schema import Models
from triage.errors import ConfigurationError, TriageError
from triage.manifest import Architecture
from workers.flows.counts import count_levels, pair_operations
from workers.lab.find import bundle_folder, configured_models
from workers.lab.presets import PRESETS, Preset

if TYPE_CHECKING:
    # At run time each command imports them when it needs them: torch takes longer to load than most commands to run.
    import torch

    from workers.flows.precision import Precision

models_app = typer.Typer(no_args_is_help=True, help="Look at the model bundles.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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


@dataclass(frozen=True, kw_only=True)
class VerifiedRow(BundleRow):
    """A bundle whose arithmetic was checked on this machine; errors in nats, None if not measured.

    Attributes
    ----------
    device, precision : str
        What was checked.
    golden_error_nats : float or None
        Of a level's part of the golden input's score, against the score recorded when the bundle was made.
    ratio_error_nats : float or None
        Of the log ratio, against float64 on the CPU.
    device_error_nats : float or None
        Of the log ratio on the device, against the CPU in the same precision; None on the CPU itself.
    """

    device: str = ""
    precision: str = ""
    golden_error_nats: float | None = None
    golden_error_classifiers: float | None = None
    ratio_error_nats: float | None = None
    device_error_nats: float | None = None


@models_app.command("list")
def list_models(ctx: typer.Context, as_json: Json = False) -> None:
    """List the bundles, and which of them score."""
    models = configured_models(ctx)
    rows = [_row(folder, models) for folder in list_bundles(models_folder(models))]
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    _print_table(rows, {row.name: row.problem or "ok" for row in rows})


@models_app.command("show")
def show_model(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME|PRESET", help=f"A bundle's name or folder, or a preset ({', '.join(PRESETS)})."),
    ],
    as_json: Json = False,
) -> None:
    """Show all there is to know about a bundle, or a preset's options and how large its flows are.

    Parameters are counted for one flow, operations (two for each multiply-add of the convolutions) for one image.
    """
    models = configured_models(ctx)
    if name in PRESETS and not Path(name).is_dir() and not (models_folder(models) / name).is_dir():
        shown = _preset(PRESETS[name])
        card = ""
    else:
        bundle = Bundle.open(bundle_folder(models, name))
        shown, card = _bundle(bundle, _row_of(bundle, models).active), bundle.card
    if as_json:
        typer.echo(json.dumps(shown | ({"card": card} if card else {}), indent=2))
        return
    _print_shown(shown, card)


@models_app.command("verify")
def verify_models(
    ctx: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Bundles' names or folders. Default: all.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "cpu",
    precision: Annotated[str, typer.Option(help="float32, or bfloat16: may this bundle be scored so?")] = "float32",
    as_json: Json = False,
) -> None:
    """Recompute digests, load the weights, and check this machine's arithmetic with every bundle.

    The golden input has to score what it scored when the bundle was made; the log ratio has to agree with float64 on
    the CPU within 0.2 nats, and on another device with the CPU within 0.2 nats.
    """
    models = configured_models(ctx)
    from workers.flows.engine import choose_device

    chosen = choose_device(device)
    if precision not in {"float32", "bfloat16"}:
        raise ConfigurationError(f"there is no precision {precision}", remedy="choose float32 or bfloat16")
    kind: Precision = "bfloat16" if precision == "bfloat16" else "float32"
    folders = [bundle_folder(models, name) for name in names] if names else list_bundles(models_folder(models))
    with Console(stderr=True).status("") as status:
        rows = []
        for folder in folders:
            status.update(f"checking {folder.name} in {kind} on {chosen}")
            rows.append(_verified(folder, models, chosen, kind))
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
    elif rows:
        _print_table(rows, {row.name: row.problem or _passed(row) for row in rows})
    else:
        typer.echo(f"there is no bundle in {models_folder(models)}", err=True)
    if not rows or any(row.problem for row in rows):
        raise typer.Exit(1)


def _row(folder: Path, models: Models) -> BundleRow:
    try:
        return _row_of(Bundle.open(folder), models)
    except TriageError as exc:
        return BundleRow(name=folder.name, problem=exc.message)


def _row_of(bundle: Bundle, models: Models) -> BundleRow:
    name = bundle.folder.name
    return BundleRow(
        name=name,
        version=bundle.version,
        modality=bundle.modality,
        digest=bundle.digest,
        active=name == (models.cxr if bundle.modality == "CXR" else models.bct),
        images=bundle.calibration.images,
    )


def _verified(folder: Path, models: Models, device: "torch.device", precision: "Precision") -> VerifiedRow:
    try:
        bundle = Bundle.open(folder)
    except TriageError as exc:
        return VerifiedRow(name=folder.name, problem=exc.message, device=str(device), precision=precision)
    row = VerifiedRow(**asdict(_row_of(bundle, models)), device=str(device), precision=precision)
    from workers.flows.engine import Engine
    from workers.flows.golden_check import check_golden
    from workers.flows.precision import GATE_NATS, check_precision

    try:
        engine = Engine(bundle, str(device))
        golden = check_golden(engine)
        engine.mapper  # noqa: B018 - loads its maps
        ratio = check_precision(bundle, device, precision, against_cpu=device.type != "cpu")
    except TriageError as exc:
        return VerifiedRow(**asdict(row) | {"problem": exc.message})
    except Exception as exc:  # noqa: BLE001 - an odd bundle is one of the rows; it must not hide the others
        return VerifiedRow(**asdict(row) | {"problem": f"its weights cannot be used: {type(exc).__name__}"})
    problem, apart = "", ratio.device_error_nats
    if not golden.passed:
        problem = f"{golden.problem}: don't score on this machine"
    elif not ratio.passed:
        problem = f"{precision} moves the log ratio by {ratio.error_nats:.3g} nats, {GATE_NATS} are allowed"
    elif apart is not None and not apart <= GATE_NATS:
        problem = f"{device} and cpu differ by {apart:.3g} nats in the log ratio, {GATE_NATS} are allowed"
    found = {
        "problem": problem,
        "golden_error_nats": golden.error,
        "golden_error_classifiers": golden.logit_error,
        "ratio_error_nats": ratio.error_nats,
        "device_error_nats": apart,
    }
    return VerifiedRow(**asdict(row) | found)


def _passed(row: VerifiedRow) -> str:
    apart = "" if row.device_error_nats is None else f", {row.device_error_nats:.1g} from the CPU's"
    return (
        f"ok, golden input within {row.golden_error_nats:.1g} nats, "
        f"log ratio within {row.ratio_error_nats:.1g} of float64's{apart}"
    )


def _print_table(rows: list[BundleRow] | list[VerifiedRow], states: dict[str, str]) -> None:
    table = Table()
    for heading in ("bundle", "version", "scores", "active", "calibrated on", "digest", "state"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(
            row.name, row.version, row.modality, "active" if row.active else "", str(row.images or ""), row.digest[:16],
            states[row.name], style="red" if row.problem else None,
        )  # fmt: skip
    output().print(table, markup=False)


def _counts(architecture: Architecture) -> dict[str, Any]:
    levels = count_levels(architecture)
    return {
        "levels": [asdict(level) for level in levels],
        "parameters": sum(level.parameters for level in levels),
        "operations": sum(level.operations for level in levels),
        "operations_pair": pair_operations(architecture),
        "bytes_float32": 4 * sum(level.stored for level in levels),
    }


def _preset(preset: Preset) -> dict[str, Any]:
    return preset.model_dump(mode="json") | {"kind": "preset", "counts": _counts(preset.architecture)}


def _bundle(bundle: Bundle, active: bool) -> dict[str, Any]:
    return {
        "name": bundle.name,
        "kind": "bundle",
        "version": bundle.version,
        "modality": bundle.modality,
        "digest": bundle.digest,
        "folder": str(bundle.folder),
        "active": active,
        **bundle.manifest.model_dump(
            mode="json", include={"summary", "preprocessing", "transform", "architecture", "training"}
        ),
        "calibration": {
            "name": bundle.calibration.name,
            "images": bundle.calibration.images,
            "weights": list(bundle.calibration.weights),
        },
        "estimators": list(bundle.manifest.estimators),
        "counts": _counts(bundle.architecture),
    }


def _print_shown(shown: dict[str, Any], card: str) -> None:
    console = Console()
    facts = Table(show_header=False, box=None)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for key, value in shown.items():
        if key != "counts":
            facts.add_row(key.replace("_", " "), _plain(value))
    console.print(facts, markup=False)
    counts = shown["counts"]
    table = Table(title="one flow")
    for heading in ("level", "grid", "channels", "width", "parameters", "GFLOP/image"):
        table.add_column(heading, justify="right")
    for level in counts["levels"]:
        table.add_row(
            str(level["level"]), " x ".join(map(str, level["size"])), str(level["channels"]), str(level["width"]),
            f"{level['parameters']:,}", f"{level['operations'] / 1e9:,.3f}",
        )  # fmt: skip
    table.add_section()
    table.add_row("all", "", "", "", f"{counts['parameters']:,}", f"{counts['operations'] / 1e9:,.3f}")
    console.print(table, markup=False)
    console.print(
        f"both flows: {counts['operations_pair'] / 1e9:,.3f} GFLOP/image; "
        f"weights {counts['bytes_float32'] / 1e6:,.1f} MB a flow",
        markup=False,
    )
    if card:
        console.print(Markdown("".join(c for c in card if c.isprintable() or c == "\n")))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return "; ".join(map(_plain, value)) if any(isinstance(v, dict) for v in value) else " ".join(map(str, value))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
