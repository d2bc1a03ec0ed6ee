"""Sets of training images: where they come from, and how they are named on the command line.

A *source* is a folder (DICOM, PNG, JPEG or NIfTI files, searched through) or an ``.npz`` file whose array ``x`` holds
uint8 images. An npz source may select rows by its other arrays: ``FILE.npz?y_rsna=0&source=talo``. ``KEY=A,B`` keeps
rows whose value is A or B, ``KEY!=A`` drops them, ``sample=0.5`` keeps that share of what is left (chosen by name, so
always the same). Head CTs say by ``hu=-20..100`` of which Hounsfield units 0 to 255 are the window, and by
``spacing=5,1.8,1.8`` how far their voxels are apart, mm, in the order D, H, W (slices inferior to superior, rows front
to back, columns from the patient's right to left); ``0.5*COLUMN`` is a length that differs from row to row.
"""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import structlog
from scipy.cluster.hierarchy import DisjointSet

from triage.errors import ConfigurationError, NotScoredError
from triage.manifest import Preprocessing
from workers.lab.acquisition import Loaded, of_found, of_rows
from workers.lab.folders import Found, listed, read_each
from workers.lab.gridding import Columns, gridder
from workers.lab.image_set import ImageSet, Pixels, share

log = structlog.get_logger(__name__)


def check_names(sources: Sequence[str]) -> None:
    """Refuse two npz files of one name: a row is known by its file's name and its number.

    Raises
    ------
    ConfigurationError
        If there are two.
    """
    places: dict[str, Path] = {}
    for source in sources:
        path = Path(source.partition("?")[0]).resolve()
        if path.suffix == ".npz" and places.setdefault(path.stem, path) != path:
            raise ConfigurationError(f"two files are called {path.name}", remedy="rename one of them")


def load(sources: Sequence[str], grid: Preprocessing, modality: str) -> ImageSet:
    """Read every image of ``sources`` onto the grid.

    Parameters
    ----------
    sources : sequence of str
        Folders or npz files; see the module.
    grid : Preprocessing
        The bundle's grid.
    modality : str
        ``"CXR"`` or ``"BCT"``.

    Raises
    ------
    ConfigurationError
        If a source doesn't exist, selects by something that it hasn't, or holds no image.
    """
    return load_whole(sources, grid, modality, with_raw=False).images


def load_whole(sources: Sequence[str], grid: Preprocessing, modality: str, *, with_raw: bool) -> Loaded:
    """Read every image as `load` does, and tell of which rows of npz files nothing says whose they are.

    ``with_raw`` keeps them as they came, too, for the acquisition probe. Rows of npz files then stay in memory, many
    times what they are on the grid: nothing else should ask.

    Raises
    ------
    ConfigurationError
        As `load`.
    """
    check_names(sources)
    parts = list(_each(sources, grid, modality, with_raw=with_raw))
    if not sum(len(part.images) for part in parts):
        raise ConfigurationError(f"no {modality} image in {', '.join(sources) or 'no source'}")
    images = ImageSet.union([part.images for part in parts if len(part.images)])
    raw = {key: raw for part in reversed(parts) for key, raw in part.raw.items()}
    return Loaded(images, raw, frozenset().union(*(part.unnamed for part in parts)))


def _each(sources: Sequence[str], grid: Preprocessing, modality: str, *, with_raw: bool) -> Iterator[Loaded]:
    """Yield what each source holds; what is named several times in a row is read once."""
    for name, group in groupby(sources, key=lambda source: source.partition("?")[0]):
        path, queries = Path(name), [source.partition("?")[2] for source in group]
        if path.suffix == ".npz" and path.is_file():
            file = _npz(path)
            for query in queries:
                yield _rows(file, query, grid, modality, with_raw=with_raw)
            del file  # before the next is opened
        elif any(queries):
            raise ConfigurationError(f"only an npz file can be selected from by ?…: {name}")
        elif not path.is_dir():
            raise ConfigurationError(f"there is no folder or npz file {name}")
        else:
            yield _folder(path, grid, modality)


def _folder(folder: Path, grid: Preprocessing, modality: str) -> Loaded:
    """Read every image below ``folder``.

    An image is known by what it is, not by where it lies: a DICOM study by its UID, any other file by its bytes. So a
    copy in another folder is the same image. The patient of a DICOM study is its Patient ID (only a hash of it is
    kept); of any other file it is the name of the sub-folder in which it lies, whatever the folder is called, or the
    file itself if it lies in no sub-folder. Whoever has the same image under two names is one patient.
    """
    found = list(listed(folder))
    first: dict[str, Found] = {}
    for image in found:
        first.setdefault(image.key, image)
    images = read_each(first.values(), grid, modality)
    raw = {key: of_found(first[key]) for key in images.keys}
    names = DisjointSet(image.patient for image in found)
    for image in found:
        if image.key in raw:  # one that can't be used, such as an empty file, says nothing of whose it is
            names.merge(first[image.key].patient, image.patient)
    return Loaded(replace(images, patients=tuple(min(names.subset(patient)) for patient in images.patients)), raw)


@dataclass(frozen=True)
class _Npz:
    """The images of an npz file, and its other arrays."""

    path: Path
    pixels: Pixels
    columns: Columns


def _npz(path: Path) -> _Npz:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as exc:
        raise ConfigurationError(f"{path.name} is no npz file of plain arrays") from exc
    if "x" not in columns or columns["x"].dtype != np.uint8:
        raise ConfigurationError(f"{path.name} has no uint8 array x")
    return _Npz(path, columns.pop("x"), columns)


def _rows(file: _Npz, query: str, grid: Preprocessing, modality: str, *, with_raw: bool) -> Loaded:
    """Return the rows of ``file`` that ``query`` selects."""
    path, pixels, columns = file.path, file.pixels, file.columns
    keys = [f"{path.stem}:{row}" for row in range(len(pixels))]
    names = columns.get("patient", np.array([""] * len(pixels))).astype(str).tolist()
    # Without a patient's number an image is taken for its own patient; a number may be the row's own.
    patients = [f"{path.stem}:{name}" if name else key for name, key in zip(names, keys, strict=True)]
    unnamed = frozenset(key for name, key in zip(names, keys, strict=True) if not name)
    selection, options = _parse(query)
    wanted = np.ones(len(pixels), dtype=bool)
    for column, values, keep in selection:
        if column not in columns:
            raise ConfigurationError(
                f"{path.name} has no array {column}", remedy=f"it has {', '.join(sorted(columns))}"
            )
        wanted &= np.isin(columns[column].astype(str), values) == keep
    if "sample" in options:
        try:
            part = float(options["sample"])
        except ValueError as exc:
            raise ConfigurationError(f"sample is a share from 0 to 1, not {options['sample']}") from exc
        wanted &= np.array([share(key, "sample") < part for key in keys])
    rows = np.flatnonzero(wanted).tolist()
    if pixels.ndim != len(grid.size) + 1:
        raise ConfigurationError(
            f"{path.name} holds images of {pixels.ndim - 1} dimensions, a {modality} has {len(grid.size)}"
        )
    place = gridder(path, modality, grid, options, columns)
    found: dict[int, Pixels] = {}
    for row in rows:
        try:
            found[row] = place(pixels[row], row)
        except NotScoredError as exc:
            log.warning("image_left_out", source=path.name, row=row, reason=exc.message)
    stacked = np.stack(list(found.values())) if found else np.empty((0, *grid.size), dtype=np.uint8)
    images = ImageSet(stacked, tuple(keys[row] for row in found), tuple(patients[row] for row in found))
    if not with_raw:
        return Loaded(images, {}, unnamed)
    raw = of_rows(pixels[list(found)], images.patients)
    return Loaded(images, dict(zip(images.keys, raw, strict=True)), unnamed)


def _parse(query: str) -> tuple[list[tuple[str, list[str], bool]], dict[str, str]]:
    selection: list[tuple[str, list[str], bool]] = []
    options: dict[str, str] = {}
    for term in filter(None, query.split("&")):
        name, equals, value = term.partition("=")
        if not equals:
            raise ConfigurationError(f"a selection is KEY=VALUE or KEY!=VALUE, not {term}")
        if name in ("sample", "hu", "spacing"):
            options[name] = value
        else:
            selection.append((name.removesuffix("!"), value.split(","), not name.endswith("!")))
    return selection, options
