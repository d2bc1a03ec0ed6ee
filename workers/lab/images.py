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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import structlog

from triage.errors import ConfigurationError, NotScoredError
from triage.manifest import Preprocessing
from workers.lab.folders import load_folder
from workers.lab.gridding import gridder
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
    check_names(sources)
    sets = [_load_one(source, grid, modality) for source in sources]
    if not sets or not sum(map(len, sets)):
        raise ConfigurationError(f"no {modality} image in {', '.join(sources) or 'no source'}")
    return ImageSet.union([images for images in sets if len(images)])


def _load_one(source: str, grid: Preprocessing, modality: str) -> ImageSet:
    name, _, query = source.partition("?")
    path = Path(name)
    if path.suffix == ".npz" and path.is_file():
        return _load_npz(path, query, grid, modality)
    if query:
        raise ConfigurationError(f"only an npz file can be selected from by ?…: {source}")
    if not path.is_dir():
        raise ConfigurationError(f"there is no folder or npz file {name}")
    return load_folder(path, grid, modality)


def _load_npz(path: Path, query: str, grid: Preprocessing, modality: str) -> ImageSet:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as exc:
        raise ConfigurationError(f"{path.name} is no npz file of plain arrays") from exc
    if "x" not in columns or columns["x"].dtype != np.uint8:
        raise ConfigurationError(f"{path.name} has no uint8 array x")
    pixels = columns.pop("x")
    keys = [f"{path.stem}:{row}" for row in range(len(pixels))]
    names = columns.get("patient", np.array([""] * len(pixels))).astype(str).tolist()
    # Without a patient's number an image is taken for its own patient.
    patients = [f"{path.stem}:{name}" if name else key for name, key in zip(names, keys, strict=True)]
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
    return ImageSet(stacked, tuple(keys[row] for row in found), tuple(patients[row] for row in found))


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
