"""`triage-node sample`: fictional images, drawn from a bundle's flows (paper, figure 15)."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Which(StrEnum):
    """Whose images are drawn."""

    NORMAL = "normal"
    MIXTURE = "mixture"


def sample(  # noqa: PLR0917 - Typer's options
    ctx: typer.Context,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's name or folder.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many images.")] = 16,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to. Default: ./BUNDLE-samples.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed draws the same images.")] = 0,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="Scales the latents: below 1 tamer images, 1 the flow as it is.")
    ] = 1.0,
    flow: Annotated[Which, typer.Option(help="Draw normal images, or from the mixture of all.")] = Which.NORMAL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Draw fictional images from a bundle: what its flow takes for likely.

    Writes one PNG an image (of a head CT: a NIfTI volume in Hounsfield units and a PNG of three slices) and
    gallery.png. They show nobody, and must not be used as images of patients.
    """
    from workers.lab.evaluation.fictional import draw_all
    from workers.lab.find import open_bundle
    from workers.lab.progress import counting

    found = open_bundle(ctx, bundle)
    folder = out or Path(f"{found.name}-samples")
    with counting("drawing", count) as advance:
        draw_all(
            found, folder, count=count, seed=seed, temperature=temperature, mixture=flow is Which.MIXTURE,
            device=device, advance=advance,
        )  # fmt: skip
    typer.echo(f"drew {count} fictional images from the {flow} flow of {found.name} into {folder}")
