"""Public image files onto a bundle's grid, by the same functions that a study's DICOM objects go through."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from PIL import Image, ImageOps

from triage.errors import ConfigurationError, NotScoredError
from triage.manifest import Preprocessing
from workers.images.bct import bct_tensor
from workers.images.cxr import cxr_tensor
from workers.images.gate_bct import check_head
from workers.images.gate_cxr import check_frontal_chest
from workers.images.resample import head_frame
from workers.images.volume import Volume, lying_straight

Pixels = npt.NDArray[np.uint8]
Columns = Mapping[str, npt.NDArray[np.generic]]
Gridder = Callable[[Pixels, int], Pixels]

AIR_HU = -1000.0
#: What Pillow raises at files that are damaged, or larger than any radiograph.
BAD_PICTURE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
#: Between which a NIfTI file's voxels are believed, mm.
VOXEL_MM = (0.05, 25.0)


def gridder(path: Path, modality: str, grid: Preprocessing, options: Mapping[str, str], columns: Columns) -> Gridder:
    """Return the way of a row of an npz file's ``x``, given with its number, onto the grid.

    Raises
    ------
    ConfigurationError
        If a head CT's window or spacing is missing or not understood.
    """
    if modality == "CXR":
        return lambda pixels, _: cxr_tensor(pixels.astype(np.float32) / np.float32(255), grid.size)
    if not {"hu", "spacing"} <= options.keys():
        raise ConfigurationError(
            f"head CTs in {path.name} need their window and spacing", remedy="add &hu=-20..100&spacing=5,1.8,1.8"
        )
    try:
        low, high = (float(end) for end in options["hu"].split(".."))
        depth, height, width = (_lengths(term, columns) for term in options["spacing"].split(","))
    except (ValueError, KeyError) as exc:
        raise ConfigurationError(f"{path.name}: hu is LOW..HIGH and spacing is D,H,W in mm") from exc

    def place(pixels: Pixels, row: int) -> Pixels:
        hu = low + pixels.astype(np.float64) / 255 * (high - low)
        voxel_mm = [float(length[row % len(length)]) for length in (depth, height, width)]
        return head_on_grid(hu, lying_straight(voxel_mm), grid)

    return place


def _lengths(term: str, columns: Columns) -> npt.NDArray[np.float64]:
    """Return the lengths that ``NUMBER`` or ``NUMBER*COLUMN`` stands for, one for all rows or one a row, mm."""
    number, star, column = term.partition("*")
    factor = columns[column].astype(np.float64) if star else np.ones(1)
    return float(number) * factor


def head_on_grid(
    hu: npt.NDArray[np.float64], affine: npt.NDArray[np.float64], grid: Preprocessing, *, check: bool = False
) -> Pixels:
    """Return a head on the grid.

    Parameters
    ----------
    hu : numpy.ndarray
        (slices, rows, columns), Hounsfield units, inferior to superior.
    affine : numpy.ndarray
        (3, 4): (column, row, slice, 1) to LPS, mm.
    grid : Preprocessing
        The bundle's.
    check : bool
        Whether to refuse what the node would refuse.

    Raises
    ------
    NotScoredError
        If no head is found, or the check fails.
    """
    volume = Volume.of_hu(hu, affine)
    frame = head_frame(volume)
    if check:
        check_head(volume, frame)
    return bct_tensor(volume, frame, grid).pixels


def read_picture(path: Path, grid: Preprocessing) -> Pixels:
    """Return a PNG or JPEG radiograph (white is dense) on the grid.

    Raises
    ------
    NotScoredError
        If it can't be read, or doesn't show a frontal chest: for the reasons for which the node refuses one.
    """
    try:
        with Image.open(path) as picture:
            grey = np.asarray(ImageOps.exif_transpose(picture).convert("F"), dtype=np.float32)
    except BAD_PICTURE as exc:
        raise NotScoredError("the picture cannot be read") from exc
    pixels = cxr_tensor(grey / max(float(grey.max()), 1.0), grid.size)
    check_frontal_chest(pixels)
    return pixels


def read_nifti(path: Path, grid: Preprocessing) -> Pixels:
    """Return a NIfTI head CT in Hounsfield units on the grid.

    Raises
    ------
    NotScoredError
        If it can't be read, or doesn't show a head: for the reasons for which the node refuses one.
    """
    try:
        image = sitk.DICOMOrient(sitk.ReadImage(str(path), sitk.sitkFloat64), "LPS")
    except RuntimeError as exc:
        raise NotScoredError("the volume cannot be read") from exc
    if image.GetDimension() != 3:
        raise NotScoredError("the volume is not three-dimensional")
    spacing = np.asarray(image.GetSpacing())
    if not np.all((spacing > VOXEL_MM[0]) & (spacing < VOXEL_MM[1])):
        raise NotScoredError("the volume's voxels have an implausible size")
    axes = np.reshape(image.GetDirection(), (3, 3)) * spacing
    affine = np.column_stack([axes, image.GetOrigin()])
    # NaN is how NIfTI writes "not measured": around a head that is air.
    hu = np.nan_to_num(sitk.GetArrayFromImage(image), nan=AIR_HU, posinf=3000.0, neginf=AIR_HU)
    return head_on_grid(hu, affine, grid, check=True)
