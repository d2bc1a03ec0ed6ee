"""Folders of DICOM, PNG, JPEG or NIfTI files as training images."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import structlog
from scipy.cluster.hierarchy import DisjointSet

from triage.errors import NotScoredError
from triage.manifest import Preprocessing
from workers.images.dicom_file import read_dicom
from workers.images.prepare import prepare
from workers.images.sources import Source
from workers.lab.gridding import Pixels, read_nifti, read_picture
from workers.lab.image_set import ImageSet

log = structlog.get_logger(__name__)

PICTURES = (".png", ".jpg", ".jpeg")
NIFTI = (".nii", ".nii.gz")


def load_folder(folder: Path, grid: Preprocessing, modality: str) -> ImageSet:
    """Read every image below ``folder``; what can't be used is logged and left out.

    An image is known by what it is, not by where it lies: a DICOM study by its UID, any other file by its bytes. So a
    copy in another folder is the same image. The patient of a DICOM study is its Patient ID (only a hash of it is
    kept); of any other file it is the name of the sub-folder in which it lies, whatever the folder is called, or the
    file itself if it lies in no sub-folder. Whoever has the same image under two names is one patient.
    """
    found: dict[str, tuple[Pixels, str]] = {}
    reasons: dict[str, int] = {}
    names: DisjointSet[str] = DisjointSet()
    for key, patient, read in _images(folder, grid, modality):
        names.add(patient)
        if key in found:
            names.merge(found[key][1], patient)
            continue
        try:
            found[key] = (read(), patient)
        except NotScoredError as exc:
            reasons[exc.message] = reasons.get(exc.message, 0) + 1
    for reason, count in reasons.items():
        log.warning("images_left_out", count=count, reason=reason)
    stacked = np.stack([pixels for pixels, _ in found.values()]) if found else np.empty((0, *grid.size), np.uint8)
    return ImageSet(stacked, tuple(found), tuple(min(names.subset(patient)) for _, patient in found.values()))


class _File:
    """A picture or volume that is read when it's needed."""

    def __init__(self, path: Path, grid: Preprocessing, modality: str) -> None:
        self.path, self.grid, self.modality = path, grid, modality

    def __call__(self) -> Pixels:
        picture = self.path.name.lower().endswith(PICTURES)
        if picture != (self.modality == "CXR"):
            raise NotScoredError(f"the file is not a {self.modality}")
        return read_picture(self.path, self.grid) if picture else read_nifti(self.path, self.grid)


class _Study:
    """A DICOM study, prepared as the node would."""

    def __init__(self, grid: Preprocessing, modality: str) -> None:
        self.grid, self.modality = grid, modality
        self.sources: list[Source] = []

    def __call__(self) -> Pixels:
        return prepare(self.sources, {self.modality: self.grid}).model_input.pixels


def _images(folder: Path, grid: Preprocessing, modality: str) -> Iterator[tuple[str, str, _File | _Study]]:
    studies: dict[str, tuple[str, _Study]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        place = path.relative_to(folder)
        if path.name.lower().endswith((*PICTURES, *NIFTI)):
            key = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            yield key, place.parts[0] if len(place.parts) > 1 else key, _File(path, grid, modality)
            continue
        try:
            ds = read_dicom(path, only=("StudyInstanceUID", "PatientID", "SOPInstanceUID"))
        except NotScoredError:
            continue
        instance = str(ds.get("SOPInstanceUID", "") or place)
        uid, patient = str(ds.get("StudyInstanceUID", "") or instance), hashed(str(ds.get("PatientID", "") or place))
        study = studies.setdefault(uid, (patient, _Study(grid, modality)))[1]
        study.sources.append(Source(sop_instance_uid=instance, path=path))
    for uid, (patient, study) in studies.items():
        yield hashed(uid), patient, study


def hashed(text: str) -> str:
    """Return what stands for an identifier."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
