"""A bundle's files of tensors: read as what the manifest says or refused, written for everybody to read."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from triage.bundles import Bundle
from triage.errors import BundleError

Shapes = Mapping[str, tuple[int, ...]]


def load(bundle: Bundle, file: str) -> dict[str, Tensor]:
    """Return whatever tensors a verified bundle's file holds.

    Raises
    ------
    BundleError
        If it is no file of tensors.
    """
    try:
        return load_file(bundle.folder / file)
    except (OSError, SafetensorError) as exc:
        raise BundleError(f"bundle {bundle.name}: {file} cannot be read", remedy="get the bundle again") from exc


def read(bundle: Bundle, file: str, expected: Shapes, *, positive: Collection[str] = ()) -> dict[str, Tensor]:
    """Return the tensors of a verified bundle's file.

    Parameters
    ----------
    bundle : Bundle
        The bundle.
    file : str
        The file's name.
    expected : mapping of str to tuple of int
        Names and shapes of all its tensors.
    positive : collection of str
        Names of those that must be above 0 throughout.

    Raises
    ------
    BundleError
        If they are others, or not all finite numbers.
    """
    tensors = load(bundle, file)
    if (
        {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected
        or not all(t.is_floating_point() and bool(torch.isfinite(t).all()) for t in tensors.values())
        or not all(bool((tensors[name] > 0).all()) for name in positive)
    ):
        problem = f"bundle {bundle.name}: {file} doesn't hold what the manifest says"
        raise BundleError(problem, remedy="get the bundle again")
    return tensors


def write(tensors: Mapping[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write a file of a bundle that is being made."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    path.chmod(0o644)  # safetensors writes for the owner alone; the score workers may be another user
