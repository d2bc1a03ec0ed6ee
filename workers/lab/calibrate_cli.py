"""`triage-node models calibrate`: a bundle's numbers against a site's own images."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from triage.logs import configure_logging


def calibrate(  # noqa: PLR0917 - Typer's options
    ctx: typer.Context,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's name or folder.")],
    reference: Annotated[
        list[str],
        typer.Option(
            metavar="DIR",
            help="Unlabelled images of this site, as they come (200 or more): a folder of DICOM, PNG, JPEG or NIfTI, "
            "or FILE.npz?KEY=VALUE.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="NEWBUNDLE", help="The new bundle's folder; its name is the bundle's.")],
    normal: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Images of this site that were reported normal: for conformal p-values."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Columns file,label for images of --reference or --normal, 50 normal and 50 others at least: for "
            "probabilities.",
        ),
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(
            min=0.0001, max=0.9999, help="Share of abnormal images where the bundle is used. Default: as in the labels."
        ),
    ] = None,
    probability: Annotated[
        Literal["platt", "isotonic"],
        typer.Option(
            help="How labels become probabilities: a logistic curve, or any curve that never falls (200 normal and "
            "200 others at least)."
        ),
    ] = "platt",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Make a bundle whose percentiles, p-values and probabilities are about this site.

    The weights stay as they are; the reference is replaced by this site's unlabelled images and frozen. Choose images
    that came in one after the other, none of them selected; the bundle must not have been trained on them. Where
    reported normals are given, every result also gets a conformal p-value: among normal images, p is below 5 % in at
    most 5 % of cases. Where labels are given, results also get a probability, corrected for the prevalence.
    """
    from workers.lab.find import open_bundle
    from workers.lab.progress import counting
    from workers.lab.recalibrate import Site, recalibrate

    configure_logging()
    site = Site.find(
        open_bundle(ctx, bundle), reference, normal or [], labels, prevalence=prevalence, method=probability
    )
    with counting("scoring", site.images) as advance:
        made, notes = recalibrate(site, out, device=device, advance=advance)
    for note in notes:
        typer.echo(note, err=True)
    typer.echo(f"made {made.name} {made.version} in {out}, digest {made.digest}")
    typer.echo(f"calibrated against {made.calibration.name}")
