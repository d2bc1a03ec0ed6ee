"""Folders of DICOM, PNG, JPEG or NIfTI files as training images."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog

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


@dataclass(frozen=True)
class Found:
    """An image below a folder, before it is read.

    Attributes
    ----------
    key : str
        The same for the same image wherever it lies: of a DICOM study a hash of its UID, of a file one of its bytes.
    patient : str
        Whose it is.
    paths : tuple of Path
        A picture, a volume, or the files of a DICOM study.
    instances : tuple of str
        The files' SOP Instance UIDs; empty where it is no DICOM study.
    """

    key: str
    patient: str
    paths: tuple[Path, ...]
    instances: tuple[str, ...] = ()


def read_each(
    images: Iterable[Found], grid: Preprocessing, modality: str, advance: Callable[[], None] = lambda: None
) -> ImageSet:
    """Read images onto the grid; what can't be used is logged and left out. ``advance`` is called after each."""
    pixels: dict[str, Pixels] = {}
    patients: list[str] = []
    reasons = Counter[str]()
    for image in images:
        try:
            pixels[image.key] = _read(image, grid, modality)
            patients.append(image.patient)
        except NotScoredError as exc:
            reasons[exc.message] += 1
        advance()
    for reason, count in reasons.items():
        log.warning("images_left_out", count=count, reason=reason)
    stacked = np.stack(list(pixels.values())) if pixels else np.empty((0, *grid.size), np.uint8)
    return ImageSet(stacked, tuple(pixels), tuple(patients))


def _read(image: Found, grid: Preprocessing, modality: str) -> Pixels:
    if image.instances:
        sources = [Source(sop_instance_uid=uid, path=p) for uid, p in zip(image.instances, image.paths, strict=True)]
        return read_study(sources, grid, modality)
    [path] = image.paths
    return read_file(path, grid, modality)


def read_study(sources: Sequence[Source], grid: Preprocessing, modality: str, *, captures: bool = True) -> Pixels:
    """Return a DICOM study on the grid, prepared as the node would; but captures of radiographs may count.

    Raises
    ------
    NotScoredError
        If it can't be scored, or read.
    """
    try:
        return prepare(sources, {modality: grid}, captures=captures).model_input.pixels
    except OSError as exc:
        raise NotScoredError("the image file cannot be read") from exc


def read_file(path: Path, grid: Preprocessing, modality: str) -> Pixels:
    """Return a picture or a NIfTI file on the grid.

    Raises
    ------
    NotScoredError
        If it is of the other modality, or can't be scored.
    """
    picture = path.name.lower().endswith(PICTURES)
    if picture != (modality == "CXR"):
        raise NotScoredError(f"the file is not a {modality}")
    return read_picture(path, grid) if picture else read_nifti(path, grid)


def listed(folder: Path) -> Iterator[Found]:
    """Yield every picture and NIfTI file below ``folder``, then every DICOM study."""
    studies: dict[str, tuple[str, list[Path], list[str]]] = {}
    for path in files_below(folder):
        place = path.relative_to(folder)
        if path.name.lower().endswith((*PICTURES, *NIFTI)):
            key = _content(path) or hashed(str(place))
            yield Found(key, place.parts[0] if len(place.parts) > 1 else key, (path,))
            continue
        try:
            ds = read_dicom(path, only=("StudyInstanceUID", "PatientID", "SOPInstanceUID"))
        except (NotScoredError, OSError):
            continue
        instance = str(ds.get("SOPInstanceUID", "") or place)
        uid, patient = str(ds.get("StudyInstanceUID", "") or instance), hashed(str(ds.get("PatientID", "") or place))
        _, paths, instances = studies.setdefault(uid, (patient, [], []))
        paths.append(path)
        instances.append(instance)
    for uid, (patient, paths, instances) in studies.items():
        yield Found(hashed(uid), patient, tuple(paths), tuple(instances))


def files_below(folder: Path) -> list[Path]:
    """Return all files below ``folder``, in order of path; links to folders are followed, none is entered twice."""
    entered: set[tuple[int, int]] = set()
    found: list[Path] = []
    starts = [folder]
    for start in starts:  # links come last: a folder is known by its own name before any other
        for name, folders, files in os.walk(start):
            place = Path(name)
            status = place.stat()
            if (status.st_dev, status.st_ino) in entered:
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            starts += [place / one for one in sorted(folders) if (place / one).is_symlink()]
            found += [place / one for one in files]
    return sorted(path for path in found if path.is_file())


def printable(place: Path) -> str:
    """Return a path with ``/``, fit for any text: names on old shares are not always UTF-8."""
    return os.fsencode(place.as_posix()).decode(errors="backslashreplace")


def _content(path: Path) -> str:
    """Return a hash of a file's bytes; empty if they can't be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""


def hashed(text: str) -> str:
    """Return what stands for an identifier."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
