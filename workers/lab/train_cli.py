"""`triage-node train`: from images to a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from triage.logs import configure_logging
from workers.lab.presets import PRESETS


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
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change an option of the preset's flows or of their training, such as flow.epochs=2 or "
            "architecture.prior=learned. Once an option.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME; LICENCE; CREDIT'",
            help="Whose images these are and under which licence: told in the bundle and its card. Once a source.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**32 - 1,
            help="The same seed, with as many threads and processes, makes the same bundle on a CPU.",
        ),
    ] = 0,
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

    Sets are folders, searched through, or FILE.npz?KEY=VALUE. A DICOM study's patient is its Patient ID; of other
    files a sub-folder is one patient, and a file in no sub-folder is its own. The same image in two sets is the same
    patient's.

    Before training, the acquisition probe tells how well header fields, borders and noise alone tell the two sets
    apart: above 0.6 the flows would learn the machine. Learning curves and warnings go to BUNDLE.record.

    On several GPUs: torchrun --nproc-per-node N -m triage.cli.main train …
    """
    from workers.lab.order import Order  # other commands shall not wait for torch and scikit-learn
    from workers.lab.parallel import will_lead

    configure_logging(quiet=not will_lead())  # what one process of a group warns of, all would
    order = Order(
        preset=preset,
        modality=modality,
        normal=tuple(normal or ()),
        mixture=tuple(mixture or ()),
        rsna=rsna,
        calibration=tuple(calibration or ()),
        exclude=tuple(exclude or ()),
        data=tuple(data or ()),
        settings=tuple(settings or ()),
        out=out,
        seed=seed,
        device=device,
        threads=threads,
        resume=resume,
        probe=acquisition,
        strict=strict_acquisition,
    )
    order.carry_out()
