"""`triage-node sample`: fictional images, drawn from a bundle's flows (paper, figure 15)."""

from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Annotated

import numpy as np
import SimpleITK as sitk
import torch
import typer
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from triage.bundles import Bundle
from triage.errors import BundleError, ConfigurationError
from workers.flows.engine import choose_device
from workers.flows.glow import Glow, quantise
from workers.flows.weights import load_flows
from workers.lab.evaluation.gallery import flat, sheet
from workers.lab.find import open_bundle
from workers.lab.image_set import Pixels
from workers.lab.progress import counting

SHOWN = 48  # images on the gallery
SEEDS = 1_000_003  # a prime: (seed, number) pairs that anybody uses don't meet


class Which(StrEnum):
    """Whose images are drawn."""

    NORMAL = "normal"
    MIXTURE = "mixture"


def sample(  # noqa: PLR0917 - Typer's options
    ctx: typer.Context,
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's name or folder.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many images.")] = 16,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to. Default: ./BUNDLE-samples.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same images.")] = 0,
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
    found = open_bundle(ctx, bundle)
    folder = out or Path(f"{found.name}-samples")
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file", remedy="choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    normal, mixture = load_flows(found, choose_device(device))
    glow = normal if flow is Which.NORMAL else mixture
    shown: list[Pixels] = []
    with counting("drawing", count) as advance:
        for number in range(count):
            grey = draw(glow, seed=seed, number=number, temperature=temperature)
            picture = _write(found, grey, folder / f"fictional-{number + 1:04d}")
            if len(shown) < SHOWN:
                shown.append(picture)
            advance()
    captions = [f"fictional {number + 1}" for number in range(len(shown))]
    (folder / "gallery.png").write_bytes(sheet(shown, captions))
    typer.echo(f"drew {count} fictional images from the {flow} flow of {found.name} into {folder}")


def draw(flow: Glow, *, seed: int, number: int, temperature: float) -> Pixels:
    """Return one image on the flow's grid, uint8; it depends on the seed and its number, not on how many are drawn.

    Raises
    ------
    BundleError
        If the flow's inverse leaves the range of numbers.
    """
    generator = torch.Generator().manual_seed(seed * SEEDS + number)
    x = flow.sample(1, generator=generator, temperature=temperature)[0, 0]
    if not bool(torch.isfinite(x).all()):
        raise BundleError(f"image {number + 1} is not finite", remedy="draw at a lower --temperature")
    grey: Pixels = quantise(x, flow.architecture.grey_levels).cpu().numpy()
    return grey


def _write(bundle: Bundle, grey: Pixels, path: Path) -> Pixels:
    """Write an image; return it as it is shown, on a scale of 0 to 255."""
    levels = bundle.architecture.grey_levels
    wide = np.rint(grey.astype(np.float64) * 255 / (levels - 1)).astype(np.uint8)
    if wide.ndim == 3:
        _write_volume(bundle, grey, path.with_suffix(".nii.gz"))
    picture = Image.fromarray(flat(wide))
    factor = bundle.transform.pool[-1]
    if factor > 1:  # shown at the size of the images that the bundle takes
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
    note = PngInfo()
    note.add_text(
        "Comment", f"Fictional image drawn from {bundle.name} {bundle.version}; shows nobody. Research use only."
    )
    stream = BytesIO()
    picture.save(stream, "PNG", pnginfo=note)
    path.with_suffix(".png").write_bytes(stream.getvalue())
    return wide


def _write_volume(bundle: Bundle, grey: Pixels, path: Path) -> None:
    grid = bundle.preprocessing
    if grid.spacing_mm is None:
        raise BundleError(f"bundle {bundle.name} has volumes without a spacing")
    # The grid's grey values are HU + hu_offset (paper, equation 4).
    scale = (grid.grey_levels - 1) / (bundle.architecture.grey_levels - 1)
    hu = np.rint(grey.astype(np.float64) * scale - grid.hu_offset).astype(np.int16)
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing([step * pool for step, pool in zip(grid.spacing_mm, bundle.transform.pool, strict=True)][::-1])
    sitk.WriteImage(image, str(path))
