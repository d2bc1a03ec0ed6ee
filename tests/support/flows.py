"""Tiny flows and bundles, made in a moment."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from triage.bundles import GOLDEN, MIXTURE, NORMAL, Bundle, write_bundle
from triage.calibration import Calibration
from triage.manifest import Architecture, InputTransform, Manifest, Preprocessing, Training
from workers.flows.glow import Glow
from workers.flows.posterior import Posterior
from workers.flows.transform import from_blocks
from workers.lab.golden import make_golden


def perturbed(flow: Glow, *, scale: float = 0.1, seed: int = 0) -> Glow:
    """Move every parameter away from its special starting value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in flow.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((scale * noise).to(parameter.dtype))
    return flow


def tiny_manifest(modality: str = "CXR", name: str = "tiny") -> Manifest:
    """Return the manifest of a bundle on an 8 x 8 (x 8) grid that flows see as 4 x 4 (x 4)."""
    axes = 2 if modality == "CXR" else 3
    return Manifest(
        name=name,
        version="0.1",
        modality=modality,
        summary='Quotes " and \\ and ümlauts survive.',
        preprocessing=Preprocessing(
            size=(8,) * axes, grey_levels=256 if axes == 2 else 128, spacing_mm=None if axes == 2 else (5.0, 4.0, 4.0)
        ),
        transform=InputTransform(pool=(2,) * axes, standardise=axes == 2),
        architecture=Architecture(size=(4,) * axes, grey_levels=16, depth=1, widths=(4, 4)),
        training=Training(
            preset="none",
            seed=0,
            images_normal=1,
            images_mixture=2,
            bits_per_dim_normal=3.5,
            bits_per_dim_mixture=3.25,
            made_with="a test",
        ),
    )


def tiny_calibration(**changes: object) -> Calibration:
    """Return a calibration that lets everything through."""
    plain = {
        "name": "test",
        "images": 3,
        "weights": (1.0, 1.0),
        "reference": (-10.0, 0.0, 10.0),
        "ranges": {},
        "template": (0.0,) * 64,
    }
    return Calibration.model_validate(plain | changes)


def golden_pixels(folder: Path) -> np.ndarray:
    """Return a tiny CXR bundle's golden input on its grid."""
    return from_blocks(load_file(folder / GOLDEN)["pixels"].numpy(), tiny_manifest().preprocessing.size)


def tiny_bundle(
    folder: Path, modality: str = "CXR", calibration: Calibration | None = None, *, views: int = 1
) -> Bundle:
    """Write a bundle of two untrained flows."""
    folder.mkdir(parents=True)
    manifest = tiny_manifest(modality, folder.name)
    manifest = manifest.model_copy(update={"transform": manifest.transform.model_copy(update={"views": views})})
    size = 8 ** len(manifest.architecture.size)
    flows = [perturbed(Glow(manifest.architecture, seed=seed), seed=seed) for seed in (1, 2)]
    for file, flow in zip((NORMAL, MIXTURE), flows, strict=True):
        save_file(flow.state_dict(), folder / file)
    save_file(make_golden(Posterior(*flows), manifest), folder / GOLDEN)
    return write_bundle(folder, manifest, calibration or tiny_calibration(template=(0.0,) * size), "# A card\n")


def resum(folder: Path) -> None:
    """List whatever is there, as somebody would who alters a bundle knowingly."""
    files = sorted(p for p in folder.iterdir() if p.name != "SHA256SUMS")
    lines = (f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files)
    (folder / "SHA256SUMS").write_text("".join(lines))


def pair(size: tuple[int, ...], *, widths: tuple[int, ...] = (7, 5), **options: object) -> list[Glow]:
    """Return two flows of one architecture."""
    widths = widths[: 1 if min(size) < 4 else 2]
    architecture = Architecture(size=size, grey_levels=16, depth=2, widths=widths, **options)
    return [perturbed(Glow(architecture, seed=s), scale=0.05, seed=s) for s in (1, 2)]


def images(size: tuple[int, ...], count: int = 3) -> torch.Tensor:
    """Return noise in float64, from -0.5 to 0.5."""
    return torch.rand(count, 1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5


def grey(shape: tuple[int, ...], below: int, seed: int = 0) -> np.ndarray:
    """Return uint8 noise."""
    return np.random.default_rng(seed).integers(0, below, shape, dtype=np.uint8)
