"""Test images before they are read: what each is called, whose it is, and what its header says about it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydicom import Dataset

from triage.errors import ConfigurationError, NotScoredError
from triage.manifest import Preprocessing
from workers.images.ages import age_of
from workers.images.dicom_file import read_dicom
from workers.images.sources import Source
from workers.lab.acquisition import Loaded
from workers.lab.folders import NIFTI, PICTURES, files_below, hashed, printable, read_file, read_study
from workers.lab.image_set import Pixels
from workers.lab.images import load_whole

HEADER = ("PatientID", "StudyInstanceUID", "SOPInstanceUID", "SOPClassUID", "PatientAge", "PatientSex",
          "PatientBirthDate", "StudyDate", "ViewPosition", "Manufacturer", "ManufacturerModelName")  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One image, or one study of it, that may be scored.

    Attributes
    ----------
    key : str
        Its path below the test folder (of its first file), or its row in an npz file.
    names : frozenset of str
        Further names by which a table may call it: other files of the study, UIDs.
    patient : str
        Whose it is; a hash where it comes from a DICOM header. Empty where that isn't known.
    facts : mapping of str to str
        ``age``, ``sex``, ``view`` and ``device`` as far as the header has them.
    files : tuple of Path
        Its files; empty for a row of an npz file.
    read : callable
        Returns its pixels on the bundle's grid; raises `NotScoredError` with the reason if it can't be scored.
    """

    key: str
    names: frozenset[str]
    patient: str
    facts: Mapping[str, str]
    files: tuple[Path, ...]
    read: Callable[[], Pixels] = field(repr=False)


def find_cases(sources: Sequence[str], grid: Preprocessing, modality: str, *, captures: bool = True) -> list[Case]:
    """Return everything in folders or npz files (see `workers.lab.images`) that might be scored.

    ``captures``: whether radiographs may be Secondary Captures, which the node scores none of. A DICOM head CT is one
    case a study; a DICOM chest radiograph is one case a file, so that a table can label the images of one patient
    differently.

    Raises
    ------
    ConfigurationError
        If a source doesn't exist or holds no image at all.
    """
    cases: list[Case] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            cases.extend(folder_cases(path, grid, modality, captures=captures))
        else:
            cases.extend(_npz_cases(load_whole([source], grid, modality, with_raw=False)))
    if not cases:
        raise ConfigurationError(
            f"no DICOM, PNG, JPEG or NIfTI file in {', '.join(sources)}", remedy="name the folder that holds the images"
        )
    return cases


def _npz_cases(loaded: Loaded) -> Iterator[Case]:
    images = loaded.images
    for row, (key, patient) in enumerate(zip(images.keys, images.patients, strict=True)):
        names, owner = frozenset({key.rpartition(":")[2]}), "" if key in loaded.unnamed else patient
        yield Case(key, names, owner, {}, (), partial(_row, images.pixels, row))


def _row(pixels: Pixels, row: int) -> Pixels:
    image: Pixels = pixels[row]
    return image


def folder_cases(folder: Path, grid: Preprocessing, modality: str, *, captures: bool) -> list[Case]:
    """Return the cases of one folder, in order of path."""
    cases: list[Case] = []
    studies: dict[str, list[tuple[Path, Dataset]]] = {}
    for path in files_below(folder):
        place = path.relative_to(folder)
        if path.name.lower().endswith((*PICTURES, *NIFTI)):
            # Test folders are often sorted by label: a sub-folder is no patient here, only the table can tell.
            key = printable(place)
            cases.append(Case(key, frozenset(), "", {}, (path,), partial(read_file, path, grid, modality)))
            continue
        ds = _header(path)
        if ds is None:
            continue
        # Without a UID, files of one folder are taken for one study.
        study = str(ds.get("StudyInstanceUID", "")) or printable(place.parent)
        studies.setdefault(study if modality == "BCT" else printable(place), []).append((path, ds))
    cases.extend(_study_case(folder, files, grid, modality, captures=captures) for files in studies.values())
    return sorted(cases, key=lambda case: case.key)


def dicom_cases(folder: Path, paths: Sequence[Path], grid: Preprocessing, modality: str) -> list[Case]:
    """Return a case for each of these DICOM files below ``folder``."""
    headers = ((path, _header(path)) for path in paths)
    return [_study_case(folder, [(path, ds)], grid, modality) for path, ds in headers if ds is not None]


def _header(path: Path) -> Dataset | None:
    try:
        return read_dicom(path, only=HEADER)
    except (NotScoredError, OSError):
        return None


def _study_case(
    folder: Path, files: Sequence[tuple[Path, Dataset]], grid: Preprocessing, modality: str, *, captures: bool = True
) -> Case:
    sources = [Source(sop_instance_uid=str(ds.get("SOPInstanceUID", "")), path=path) for path, ds in files]
    places = [printable(path.relative_to(folder)) for path, _ in files]
    first = files[0][1]
    names = {*places[1:], *(source.sop_instance_uid for source in sources), str(first.get("StudyInstanceUID", ""))}
    patient = str(first.get("PatientID", "") or "")

    paths = tuple(path for path, _ in files)
    owner = hashed(patient) if patient else ""
    read = partial(read_study, sources, grid, modality, captures=captures)
    return Case(places[0], frozenset(names - {""}), owner, _facts(first), paths, read)


def _facts(ds: Dataset) -> dict[str, str]:
    device = " ".join(str(ds.get(name, "") or "") for name in ("Manufacturer", "ManufacturerModelName")).strip()
    age = age_of(ds, bare=True)
    found = {
        "age": "" if age is None else f"{age:g}",
        "sex": str(ds.get("PatientSex", "") or ""),
        "view": str(ds.get("ViewPosition", "") or ""),
        "device": device,
    }
    return {name: value for name, value in found.items() if value}
