"""The laboratory's commands."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from triage.errors import ConfigurationError
from workers.flows.engine import choose_device
from workers.lab.image_set import ImageSet
from workers.lab.images import load
from workers.lab.models_cli import models_app
from workers.lab.presets import PRESETS, Preset, find_preset
from workers.lab.progress import show_progress
from workers.lab.train import Run
from workers.lab.train import train as train_bundle


def register(app: typer.Typer) -> None:
    """Add these commands to the command line (entry point group ``triage_node.commands``)."""
    app.command("train")(train)
    app.add_typer(models_app, name="models")


def train(  # noqa: PLR0917 - Typer's options
    modality: Annotated[str, typer.Option(help="cxr or bct.")],
    normal: Annotated[
        list[str],
        typer.Option(
            metavar="DIR", help="Normal images: a folder of DICOM, PNG, JPEG or NIfTI, or FILE.npz?KEY=VALUE."
        ),
    ],
    mixture: Annotated[list[str], typer.Option(metavar="DIR", help="Unlabelled images, normal and abnormal.")],
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="The new bundle's folder; its name is the bundle's.")],
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", help="Unlabelled images to calibrate on. Default: a share of the mixture's patients."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Images whose patients are kept out, for a later evaluation."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same bundle.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 = as many as torch chooses.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run left off.")] = False,
) -> None:
    """Train a bundle: a flow of normal images, a flow of all images, and their calibration."""
    recipe = _recipe(preset, modality)
    if threads:
        torch.set_num_threads(threads)

    def images(sources: list[str] | None) -> ImageSet | None:
        return load(sources, recipe.preprocessing, recipe.modality) if sources else None

    kept_out = images(exclude)
    run = Run(
        preset=recipe,
        normal=load(normal, recipe.preprocessing, recipe.modality),
        mixture=load(mixture, recipe.preprocessing, recipe.modality),
        calibration=images(calibration),
        excluded=frozenset(kept_out.patients if kept_out else ()),
        out=out,
        seed=seed,
        device=choose_device(device),
    )
    with show_progress() as report:
        bundle = train_bundle(run, report, resume=resume)
    typer.echo(f"made {bundle.name} {bundle.version} in {out}, digest {bundle.digest}")


def _recipe(preset: str, modality: str) -> Preset:
    recipe = find_preset(preset)
    if recipe.modality != modality.upper():
        raise ConfigurationError(f"preset {preset} is for {recipe.modality.lower()}, not {modality}")
    return recipe
