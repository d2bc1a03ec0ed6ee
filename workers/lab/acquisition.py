"""What an image file says about the machine that made it, and nothing about the patient: header, borders, noise."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from PIL import Image, ImageOps
from pydicom import Dataset
from pydicom.multival import MultiValue

from triage.errors import NotScoredError
from triage.sop_classes import TOMOGRAMS
from workers.images.dicom_file import read_dicom
from workers.images.pixels import displayed, grey_frame
from workers.lab.folders import NIFTI, PICTURES, Found
from workers.lab.gridding import BAD_PICTURE
from workers.lab.image_set import ImageSet

Floats = npt.NDArray[np.float64]
Features = dict[str, float | str]

WORDS = ("Manufacturer", "ManufacturerModelName", "SOPClassUID", "Modality", "ViewPosition", "PresentationIntentType",
         "PhotometricInterpretation", "SoftwareVersions", "DetectorType", "ConvolutionKernel", "PatientPosition",
         "LossyImageCompression", "StationName")  # fmt: skip
NUMBERS = ("Rows", "Columns", "KVP", "BitsStored", "BitsAllocated", "WindowWidth", "WindowCenter", "Exposure",
           "ExposureTime", "XRayTubeCurrent", "DistanceSourceToDetector", "SliceThickness",
           "GantryDetectorTilt")  # fmt: skip


@dataclass(frozen=True)
class Raw:
    """An image as it came, before it is brought onto any grid.

    Attributes
    ----------
    identity : str
        The same for the same image in both sets.
    patient : str
        Whose it is.
    features : callable
        Reads the image and returns its features; raises `NotScoredError` if it can't.
    """

    identity: str
    patient: str
    features: Callable[[], Features] = field(repr=False)


@dataclass(frozen=True)
class Loaded:
    """Images on the grid, the same as they came, and whose nobody knows.

    Attributes
    ----------
    images : ImageSet
        On the grid.
    raw : dict of str to Raw
        As they came, by the images' keys.
    unnamed : frozenset of str
        Keys of an npz file's rows of which it doesn't say whose they are: each counts as a patient of its own.
    """

    images: ImageSet
    raw: dict[str, Raw]
    unnamed: frozenset[str] = frozenset()


def of_found(image: Found) -> Raw:
    """Return an image that lies below a folder."""
    return Raw(image.key, image.patient, _reader(image.paths))


def of_rows(pixels: npt.NDArray[np.uint8], patients: Sequence[str]) -> list[Raw]:
    """Return the rows of an npz file; they have no header."""

    def reader(image: npt.NDArray[np.uint8]) -> Callable[[], Features]:
        return lambda: of_pixels(image.astype(np.float64), whole=True)

    return [
        Raw(_hashed(image.tobytes()), patient, reader(image)) for image, patient in zip(pixels, patients, strict=True)
    ]


def _hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]


def _reader(paths: Sequence[Path]) -> Callable[[], Features]:
    def read() -> Features:
        path = paths[len(paths) // 2]
        name = path.name.lower()
        try:
            if name.endswith(PICTURES):
                return _of_picture(path)
            if name.endswith(NIFTI):
                return _of_volume(path)
            return _of_dicom(read_dicom(path, pixels=True)) | {"header.files": float(len(paths))}
        except (*BAD_PICTURE, RuntimeError, AttributeError) as exc:
            raise NotScoredError("the file cannot be read") from exc

    return read


def _of_picture(path: Path) -> Features:
    with Image.open(path) as picture:
        found: Features = {
            "header.format": str(picture.format),
            "header.mode": picture.mode,
            "header.width": float(picture.width),
            "header.height": float(picture.height),
            "header.aspect": picture.width / picture.height,
            "header.dpi": str(picture.info.get("dpi", "")),
        }
        tables = getattr(picture, "quantization", None)
        if tables:
            found["header.jpeg_quantisation"] = float(sum(map(sum, tables.values())))
        grey = np.asarray(ImageOps.exif_transpose(picture).convert("F"), dtype=np.float64)
    return found | of_pixels(grey, whole=True)


def _of_volume(path: Path) -> Features:
    image = sitk.ReadImage(str(path), sitk.sitkFloat64)
    found: Features = {}
    for axis, (size, spacing) in enumerate(zip(image.GetSize(), image.GetSpacing(), strict=True)):
        found[f"header.size{axis}"], found[f"header.spacing{axis}"] = float(size), float(spacing)
    return found | of_pixels(sitk.GetArrayFromImage(image), whole=False)


def _of_dicom(ds: Dataset) -> Features:
    found: Features = {f"header.{name}": str(ds.get(name, "") or "") for name in WORDS}
    found["header.TransferSyntaxUID"] = str(ds.file_meta.get("TransferSyntaxUID", ""))
    for name in NUMBERS:
        found.update(_numbers(f"header.{name}", ds.get(name)))
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        found.update(_numbers(f"header.{name}", ds.get(name)))
    if ds.get("SOPClassUID") not in TOMOGRAMS:
        return found | of_pixels(displayed(ds)[0].astype(np.float64), whole=True)
    stored = grey_frame(ds).astype(np.float64)
    return found | of_pixels(stored, whole=False)


def _numbers(name: str, value: object) -> Iterator[tuple[str, float]]:
    """Yield the first number of an attribute, if it has one."""
    first = value[0] if isinstance(value, MultiValue) and value else value
    if isinstance(first, int | float | Decimal):  # DS and IS are sub-classes of these
        yield name, float(first)


def of_pixels(image: Floats, *, whole: bool) -> Features:
    """Return border and noise statistics of an image, or of a volume's middle slice.

    Parameters
    ----------
    image : numpy.ndarray
        (H, W) or (D, H, W), any unit.
    whole : bool
        Whether how many grey values are used, and how many are saturated, says something.
    """
    grey = image[len(image) // 2] if image.ndim == 3 else image
    low, high = float(grey.min()), float(grey.max())
    spread = float(np.subtract(*np.percentile(grey, [99, 1]))) or 1.0
    found: Features = {}
    for name, lines in (("top", grey), ("bottom", grey[::-1]), ("left", grey.T), ("right", grey.T[::-1])):
        constant = np.ptp(lines[: len(lines) // 2], axis=1) <= 0.02 * spread
        width = len(constant) if constant.all() else int(np.argmin(constant))
        found[f"border.{name}_width"] = width / len(lines)
        found[f"border.{name}_grey"] = float((lines[:2].mean() - low) / ((high - low) or 1.0))
    rows, columns = (slice(n // 4, n - n // 4) for n in grey.shape)
    for scale, part in ((1, grey[rows, columns]), (2, _halved(grey)[rows.start // 2 : rows.stop // 2])):
        found.update(_noise(part, spread, scale))
    found["noise.blocks"] = _blocks(grey)
    if whole:
        values = np.unique(np.round((grey - low) / ((high - low) or 1.0) * 4095))
        found["noise.grey_values"] = len(values) / 4096.0
        found["noise.at_lowest"] = float((grey == low).mean())
        found["noise.at_highest"] = float((grey == high).mean())
    return found


def _halved(grey: Floats) -> Floats:
    rows, columns = (n // 2 * 2 for n in grey.shape)
    even = grey[:rows, :columns]
    half: Floats = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    return half


def _noise(part: Floats, spread: float, scale: int) -> Iterator[tuple[str, float]]:
    """Yield how strong and how alike with its neighbours the finest detail is."""
    residual = part[1:-1, 1:-1] - (part[:-2, 1:-1] + part[2:, 1:-1] + part[1:-1, :-2] + part[1:-1, 2:]) / 4
    # The median: edges of anatomy are few, noise is everywhere.
    yield f"noise.detail{scale}", float(np.log(np.median(np.abs(residual)) / spread + 1e-6))
    yield f"noise.power{scale}", float(np.log(residual.std() / spread + 1e-6))
    power = float((residual**2).mean()) or 1.0
    yield f"noise.alike_across{scale}", float((residual[:, 1:] * residual[:, :-1]).mean()) / power
    yield f"noise.alike_down{scale}", float((residual[1:] * residual[:-1]).mean()) / power


def _blocks(grey: Floats) -> float:
    """Return how much larger steps are at every eighth column than elsewhere: JPEG's blocks."""
    steps = np.abs(np.diff(grey, axis=1)).mean(axis=0)
    at = steps[7::8]
    return float(at.mean() / (steps.mean() or 1.0)) if len(at) else 1.0
