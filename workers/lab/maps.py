"""What a bundle's relevance maps are standardised by: the maps of normal images that no flow was trained on."""

from pathlib import Path

import numpy as np
import structlog
import torch

from triage.bundles import MAPS
from triage.manifest import Manifest
from workers.flows.classifiers import NONE, Classifiers
from workers.flows.flow_maps import Expected
from workers.flows.posterior import Posterior
from workers.flows.relevance import Mapper, Method, Standard, map_size, maps_of, smoothed
from workers.flows.tensors import write
from workers.flows.transform import FlowGrid
from workers.lab.fit import shifted
from workers.lab.image_set import ImageSet

log = structlog.get_logger(__name__)

#: By modality, what measured best (``python -m tests.bench.localisation``), with a local classifier and without.
LOCAL_METHODS = {"CXR": Method("local"), "BCT": Method("local")}
METHODS = {"CXR": Method("difference", 1.0), "BCT": Method("gradient")}
#: Fewer normals have no spread to speak of: then there are no maps.
MIN_NORMALS = 8
#: With fewer normals than this, copies join them, shifted by up to so many pixels of the bundle's grid.
FEW_NORMALS = 60
SHIFT = 2
_COMPONENTS = 40


def make_mapper(
    manifest: Manifest,
    posterior: Posterior,
    normals: ImageSet,
    method: Method | None = None,
    *,
    classifiers: Classifiers = NONE,
) -> Mapper | None:
    """Return a bundle's mapper, standardised by ``normals``; None if they are too few.

    Parameters
    ----------
    manifest : Manifest
        What the bundle is.
    posterior : Posterior
        Its flows.
    normals : ImageSet
        Reported normals on the bundle's grid, of patients that no flow was trained on.
    method : Method, optional
        The kind of map; if absent, what measured best.
    classifiers : Classifiers
        Its other estimators, for the methods that need them.
    """
    if len(normals) < MIN_NORMALS:
        log.warning("no_relevance_maps", bundle=manifest.name, normals=len(normals))
        return None
    method = method or (LOCAL_METHODS if classifiers.local else METHODS)[manifest.modality]
    size, pixels, expected = map_size(manifest, method.kind), normals.pixels, None
    if method.kind == "local" and len(size) == 3:
        # Standardised already, slice by slice, by heads that the networks didn't see: few would be left for places.
        standard = Standard(np.zeros(size), np.ones(size))
        return Mapper(manifest, lambda: posterior, method, standard, classifiers=classifiers)
    if method.kind == "difference":
        # What is expected and how far normals are from it must come from different images.
        half = len(pixels) // 2
        grid = FlowGrid.of(manifest)
        expected = Expected.of(grid(pixels[:half]), min(_COMPONENTS, half // 2))
        pixels = pixels[half:]
    elif len(pixels) < FEW_NORMALS:
        rng = np.random.default_rng(0)
        copies = -(-FEW_NORMALS // len(pixels)) - 1
        pixels = np.concatenate([pixels, *(shifted(normals.pixels, SHIFT, rng) for _ in range(copies))])
    maps = smoothed(
        maps_of(method.kind, pixels, manifest, posterior=lambda: posterior, classifiers=classifiers, expected=expected),
        method,
    )
    return Mapper(manifest, lambda: posterior, method, Standard.of(maps), expected=expected, classifiers=classifiers)


def write_maps(folder: Path, mapper: Mapper) -> None:
    """Write a mapper's file into a bundle's folder (before its sums are written)."""
    tensors = {"mean": mapper.standard.mean, "spread": mapper.standard.spread}
    if mapper.expected is not None:
        tensors |= {"centre": mapper.expected.centre, "basis": mapper.expected.basis}
    single = {name: torch.from_numpy(tensor).float() for name, tensor in tensors.items()}
    write(single, folder / MAPS, metadata={"method": str(mapper.method)})
