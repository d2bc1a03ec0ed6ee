"""`triage-node evaluate`: how good is a bundle on labelled images?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from triage.cli.output import output
from triage.errors import ConfigurationError
from triage.logs import configure_logging

if TYPE_CHECKING:  # imported when the command runs: other commands shall not wait for torch and matplotlib
    from triage.bundles import Bundle
    from workers.lab.evaluation.labels import Matched


def evaluate(  # noqa: PLR0917 - Typer's options
    ctx: typer.Context,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's name or folder.")],
    report: Annotated[Path, typer.Option(metavar="DIR", help="Where to write the report; made if it isn't there.")],
    test: Annotated[
        str,
        typer.Option(metavar="DIR", help="Test images: a folder of DICOM, PNG, JPEG or NIfTI, or FILE.npz?KEY=VALUE."),
    ] = "",
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Columns file,label and optionally patient,age,sex,view,source,device. The label normal is the "
            "negative, every other label a target.",
        ),
    ] = None,
    rsna: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Instead of --test and --labels: the test set that train --rsna DIR left alone.",
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws of the intervals.")] = 2000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json.")] = False,
) -> None:
    """Evaluate a bundle on labelled images that it wasn't trained on.

    Writes metrics.json, scores.csv, the figures as PNG, and report.html, one page that holds everything: AUC by label
    with bootstrap intervals (patients are resampled where the table names them), ROC curves with Youden's point,
    operating points, subgroups, galleries of the most and least abnormal, and log p(x|normal) alone for comparison.

    Images that the gate refuses, or that are unlike anything the bundle was calibrated on, have no score: they are
    listed and left out of the AUC.
    """
    from workers.lab.evaluation.cases import find_cases
    from workers.lab.evaluation.labels import match, read_labels
    from workers.lab.evaluation.report import Evaluation, digest_of
    from workers.lab.evaluation.report import evaluate as make_report
    from workers.lab.find import open_bundle
    from workers.lab.progress import counting
    from workers.lab.rsna import CLASSES

    configure_logging()
    found = open_bundle(ctx, bundle)
    if report.exists() and not report.is_dir():
        raise ConfigurationError(f"{report} is a file", remedy="choose another --report")
    if rsna:
        matched, test, labels = _rsna(found, rsna), f"{rsna} (the paper's test set)", rsna / CLASSES
    elif not test or labels is None:
        raise ConfigurationError("evaluate needs images and their labels", remedy="give --test DIR and --labels CSV")
    else:
        cases = find_cases([test], found.preprocessing, found.modality)
        matched = match(read_labels(labels), [(Path(test.partition("?")[0]), cases)])
    _tell(matched)
    evaluation = Evaluation(
        bundle=found,
        matched=matched,
        test=test,
        labels_digest=digest_of(labels),
        report=report,
        draws=draws,
        device=device,
    )
    with counting("scoring", len(matched.images)) as advance:
        metrics = make_report(evaluation, advance)
    if as_json:
        typer.echo(json.dumps(metrics, indent=1, ensure_ascii=False))
        return
    _show(metrics)
    typer.echo(f"report: {report / 'report.html'}")


def _rsna(bundle: "Bundle", folder: Path) -> "Matched":
    from workers.lab import rsna as challenge
    from workers.lab.evaluation.cases import dicom_cases
    from workers.lab.evaluation.labels import match

    if bundle.modality != "CXR":
        raise ConfigurationError(f"--rsna holds chest radiographs; bundle {bundle.name} scores {bundle.modality}")
    sets = challenge.divide(challenge.read_rsna(folder)).there()
    typer.echo(str(sets), err=True)
    if not sets.test:
        raise ConfigurationError(f"no file of the test set is in {folder / challenge.IMAGES}", remedy="unpack them all")
    images = folder / challenge.IMAGES
    cases = dicom_cases(images, [image.path for image in sets.test], bundle.preprocessing, bundle.modality)
    return match(challenge.labelled_test_rows(sets), [(images, cases)])


def _tell(matched: "Matched") -> None:
    """Say on standard error what the table and the folder don't share."""
    for number, what, names in (
        (len(matched.rows), "rows of the table name no image", matched.rows),
        (len(matched.cases), "images have no row and are not used", matched.cases),
    ):
        if number:
            typer.echo(f"{number} {what}, e.g. {', '.join(names[:3])}", err=True)


def _show(metrics: dict[str, Any]) -> None:
    from workers.lab.evaluation.figures import TITLES
    from workers.lab.evaluation.html import interval

    table = Table(title="AUC [95 % interval]", title_justify="left")
    labels = metrics["labels"]
    table.add_column("estimator", overflow="fold")
    for label, entry in labels.items():
        table.add_column(f"{label}\n{entry['n_normal']} normal, {entry['n_abnormal']} abnormal", overflow="fold")
    for name in (name for name in TITLES if name in metrics):
        cells = (metrics[name]["labels"][label] for label in labels)
        table.add_row(name, *map(interval, cells), style="bold" if name == metrics["ranks_by"] else None)
    output().print(table, markup=False)
    unnamed = metrics["test"]["images_of_unnamed_patients"]
    if unnamed:
        typer.echo(
            f"warning: of {unnamed} images nothing says whose they are; if some are of one patient the intervals are "
            "too narrow: a column patient tells",
            err=True,
        )
    refused = metrics["not_scored"]
    if refused["total"]:
        typer.echo(f"not scored: {refused['total']} images, left out of the AUC")
        for reason, count in refused["reasons"].items():
            typer.echo(f"  {count} × {reason}")
