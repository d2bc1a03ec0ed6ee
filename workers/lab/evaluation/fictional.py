"""Fictional images, drawn from a bundle's flows (paper, figure 15)."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from triage.bundles import Bundle
from triage.errors import BundleError, ConfigurationError
from workers.flows.engine import choose_device
from workers.flows.glow import Glow, quantise
from workers.flows.weights import load_flows
from workers.lab.evaluation.gallery import flat, sheet
from workers.lab.image_set import Pixels

SHOWN = 48  # images on the gallery
SEEDS = 1_000_003  # a prime: (seed, number) pairs that anybody uses don't meet


def draw_all(
    bundle: Bundle,
    folder: Path,
    *,
    count: int,
    seed: int,
    temperature: float = 1.0,
    mixture: bool = False,
    device: str = "auto",
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Write ``count`` fictional images and a gallery of the first into ``folder``; ``advance`` is called after each.

    Raises
    ------
    ConfigurationError
        If ``folder`` is a file, or holds such images already.
    BundleError
        If the weights don't fit the bundle, or an image isn't finite.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file", remedy="choose another --out")
    if next(folder.glob("fictional-*"), None):
        raise ConfigurationError(f"{folder} already holds fictional images", remedy="choose another --out")
    flow = load_flows(bundle, choose_device(device))[int(mixture)]
    folder.mkdir(parents=True, exist_ok=True)
    shown: list[Pixels] = []
    for number in range(count):
        grey = draw(flow, seed=seed, number=number, temperature=temperature)
        picture = _write(bundle, grey, folder / f"fictional-{number + 1:04d}")
        if len(shown) < SHOWN:
            shown.append(picture)
        advance()
    (folder / "gallery.png").write_bytes(_gallery(shown))


def drawn(bundle: Bundle, count: int, *, device: str = "auto") -> bytes:
    """Return a gallery of ``count`` fictional normal images, PNG: what the bundle's normal flow takes for likely.

    Raises
    ------
    BundleError
        If the weights don't fit the bundle, or an image isn't finite.
    """
    flow = load_flows(bundle, choose_device(device))[0]
    greys = (draw(flow, seed=0, number=number, temperature=1.0) for number in range(count))
    return _gallery([_wide(grey, bundle) for grey in greys])


def _gallery(shown: Sequence[Pixels]) -> bytes:
    return sheet(shown, [f"fictional {number + 1}" for number in range(len(shown))])


def _wide(grey: Pixels, bundle: Bundle) -> Pixels:
    """Return the flow's grey values on a scale of 0 to 255."""
    wide: Pixels = np.rint(grey.astype(np.float64) * 255 / (bundle.architecture.grey_levels - 1)).astype(np.uint8)
    return wide


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
    wide = _wide(grey, bundle)
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
