"""What is to be trained, from what, and which images are for what."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from triage.errors import ConfigurationError
from triage.manifest import DataSource
from workers.flows.transform import FlowGrid
from workers.lab.claim import checkpoints_of
from workers.lab.image_set import ImageSet, share
from workers.lab.presets import Preset


@dataclass(frozen=True, kw_only=True)
class Run:
    """What to train, from what, and where to.

    Attributes
    ----------
    preset : Preset
        The recipe.
    normal, mixture : ImageSet
        Reported normals, and unlabelled images; they may share images, and images of one patient share a split.
    calibration : ImageSet or None
        Unlabelled images to calibrate on; None takes a share of the mixture's patients.
    excluded : frozenset of str
        Patients kept aside for evaluation: none of their images is used.
    out : Path
        The bundle's folder; its name is the bundle's. Checkpoints are kept beside it until it is complete.
    seed : int
        Of everything random.
    version, summary : str
        Of the bundle.
    data : tuple of DataSource
        Credits.
    acquisition_auc : float or None
        What the acquisition probe found; goes into the manifest.
    device : torch.device
        Where to train.
    """

    preset: Preset
    normal: ImageSet
    mixture: ImageSet
    out: Path
    calibration: ImageSet | None = None
    excluded: frozenset[str] = frozenset()
    seed: int = 0
    version: str = "1.0.0"
    summary: str = ""
    data: tuple[DataSource, ...] = ()
    acquisition_auc: float | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def checkpoints(self) -> Path:
        """Where the run can be taken up again."""
        return checkpoints_of(self.out)

    @property
    def record(self) -> Path:
        """Where learning curves and warnings are kept, beside the bundle."""
        return self.out.with_name(self.out.name + ".record")

    @property
    def grid(self) -> FlowGrid:
        """From the bundle's grid to the flows' integers."""
        return FlowGrid(self.preset.transform, self.preset.architecture, self.preset.preprocessing.grey_levels)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that determines the result."""
        digest = hashlib.sha256(self.preset.model_dump_json().encode())
        digest.update(f"{self.seed} {sorted(self.excluded)}".encode())
        for images in filter(None, (self.normal, self.mixture, self.calibration)):
            digest.update(repr((images.keys, images.patients)).encode())  # a patient's name decides its part
            digest.update(np.ascontiguousarray(images.pixels).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """Patients of one set for training, for early stopping, and for calibration."""

    train: ImageSet
    valid: ImageSet
    calibration: ImageSet

    @property
    def not_held_out(self) -> ImageSet:
        """All but those for calibration: the classifiers don't stop early, so they learn from more than the flows."""
        return ImageSet.union([self.train, self.valid])


def split(images: ImageSet, run: Run) -> Split:
    """Split by patient; a patient's part depends on the patient and the seed alone, so two sets agree on it.

    Raises
    ------
    ConfigurationError
        If a part gets no image.
    """
    own = run.calibration
    images = images.without_patients(run.excluded | frozenset(own.patients if own else ()))
    places = [share(patient, f"split {run.seed}") for patient in images.patients]
    valid = run.preset.validation_share
    held = valid + (0.0 if own else run.preset.calibration_share)
    parts = Split(
        images.select([place >= held for place in places]),
        images.select([place < valid for place in places]),
        own or images.select([valid <= place < held for place in places]),
    )
    if not (len(parts.train) and len(parts.valid) and len(parts.calibration)):
        people = len(set(images.patients))
        raise ConfigurationError(
            f"{len(images)} images of {people} patients are too few to train, validate and calibrate with",
            remedy="give more patients; files in one sub-folder are taken for one patient's",
        )
    return parts
