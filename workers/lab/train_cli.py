"""`triage-node train`: from images to a bundle."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from triage.errors import ConfigurationError
from triage.logs import configure_logging
from workers.lab import rsna as challenge
from workers.lab.acquisition import Raw, of_files
from workers.lab.fit import Progress
from workers.lab.image_set import ImageSet
from workers.lab.images import load
from workers.lab.parallel import Group, join, leave
from workers.lab.presets import PRESETS, Preset, find_preset
from workers.lab.probe import MATCH, Acquisition, probe, probed, raw_images
from workers.lab.progress import counting, show_progress
from workers.lab.rigour import read_record, update_record
from workers.lab.train import Run
from workers.lab.train import train as train_bundle


def train(  # noqa: PLR0917 - Typer's options
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="The new bundle's folder; its name is the bundle's.")],
    modality: Annotated[str, typer.Option(help="cxr or bct. Default: the preset's.")] = "",
    normal: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", help="Normal images: a folder of DICOM, PNG, JPEG or NIfTI, or FILE.npz?KEY=VALUE."
        ),
    ] = None,
    mixture: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="Unlabelled images, normal and abnormal.")
    ] = None,
    rsna: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Instead of --normal and --mixture: the RSNA Pneumonia Detection Challenge's folder "
            "(stage_2_train_images/ and stage_2_detailed_class_info.csv), divided as in the paper's table 1.",
        ),
    ] = None,
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
    acquisition: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Ask first whether machine and noise tell the sets apart.")
    ] = True,
    strict_acquisition: Annotated[
        bool, typer.Option("--strict-acquisition", help="Refuse sets that machine and noise tell apart.")
    ] = False,
) -> None:
    """Train a bundle: a flow of normal images, a flow of all images, and their calibration.

    Before training, the acquisition probe tells how well header fields, borders and noise alone tell the two sets
    apart: above 0.6 the flows would learn the machine. Learning curves and warnings go to BUNDLE.record.

    On several GPUs: torchrun --nproc-per-node N -m triage.cli.main train …
    """
    configure_logging()
    recipe = find_preset(preset)
    if modality and recipe.modality != modality.upper():
        raise ConfigurationError(f"preset {preset} is for {recipe.modality.lower()}, not {modality}")
    if strict_acquisition and not acquisition:
        raise ConfigurationError("--strict-acquisition needs the probe", remedy="leave out --no-probe")
    if threads:
        torch.set_num_threads(threads)
    group, place = join(device)
    try:
        sets = _rsna_sets(rsna, recipe, group) if rsna else _sets(normal, mixture, recipe)
        kept_out = _images(exclude, recipe)
        found = _probe(sets, seed, strict_acquisition, group) if acquisition else None
        run = Run(
            preset=recipe,
            normal=sets.normal,
            mixture=sets.mixture,
            calibration=_images(calibration, recipe),
            excluded=frozenset(kept_out.patients if kept_out else ()),
            out=out,
            seed=seed,
            device=place,
            acquisition_auc=round(found.auc, 4) if found and found.auc is not None else None,
        )
        with _shown(group) as report:
            bundle = train_bundle(run, report, resume=resume)
        if group.leads:
            if found:
                update_record(run.record, {"acquisition": found.as_dict()})
            for warning in read_record(run.record).get("warnings", []):
                typer.echo(f"warning: {warning}", err=True)
            typer.echo(f"made {bundle.name} {bundle.version} in {out}, digest {bundle.digest}")
            typer.echo(f"learning curves: {run.record}")
    finally:
        leave()


@dataclass(frozen=True)
class _Sets:
    """The two training sets, and their images as they came (for the probe)."""

    normal: ImageSet
    mixture: ImageSet
    raw: Callable[[], tuple[list[Raw], list[Raw]]]


def _images(sources: list[str] | None, recipe: Preset) -> ImageSet | None:
    return load(sources, recipe.preprocessing, recipe.modality) if sources else None


def _sets(normal: list[str] | None, mixture: list[str] | None, recipe: Preset) -> _Sets:
    one, other = _images(normal, recipe), _images(mixture, recipe)
    if normal is None or mixture is None or one is None or other is None:
        raise ConfigurationError(
            "training needs a normal set and a mixture", remedy="give --normal DIR and --mixture DIR, or --rsna DIR"
        )
    return _Sets(one, other, lambda: (raw_images(normal, one), raw_images(mixture, other)))


def _rsna_sets(folder: Path, recipe: Preset, group: Group) -> _Sets:
    if recipe.modality != "CXR":
        raise ConfigurationError(f"--rsna holds chest radiographs; preset {recipe.name} is for {recipe.modality}")
    sets = challenge.divide(challenge.read_rsna(folder))
    if group.leads:
        typer.echo(str(sets), err=True)
    with counting("reading", len({*sets.normal, *sets.mixture})) as advance:
        normal, mixture = challenge.training_sets(sets, recipe.preprocessing, advance)
    paths = [[image.path for image in part] for part in (sets.normal, sets.mixture)]
    return _Sets(normal, mixture, lambda: (of_files(paths[0]), of_files(paths[1])))


def _probe(sets: _Sets, seed: int, strict: bool, group: Group) -> Acquisition | None:
    """Look at the sets before training on them; only the process that leads does."""
    if not group.leads:
        return None
    normal, mixture = sets.raw()
    with counting("probing", probed(normal, mixture, seed=seed)) as advance:
        found = probe(normal, mixture, seed=seed, advance=advance)
    if found.suspicious and strict:
        raise ConfigurationError(str(found), remedy=MATCH)
    typer.echo(f"{'warning: ' if found.suspicious else ''}{found}", err=True)
    if found.suspicious:
        typer.echo(f"  try: {MATCH}", err=True)
    return found


@contextmanager
def _shown(group: Group) -> Iterator[Callable[[Progress], None]]:
    if group.leads:
        with show_progress() as report:
            yield report
    else:
        yield lambda progress: None
