"""Chest radiographs: which image of a study is scored, and that image on the model's grid."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from pydicom import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
)
from scipy import ndimage

from triage.errors import NotScoredError
from triage.manifest import Preprocessing
from triage.messages import ModelInput
from workers.images.borders import content_box
from workers.images.gate_cxr import check_frontal_chest
from workers.images.labels import check_body_part, view_of
from workers.images.pixels import Floats, Mask, displayed
from workers.images.sources import CXR, Prepared, Source

Greys = npt.NDArray[np.floating[Any]]

#: Smaller than this, an image is an icon or a detail, not a chest.
MIN_SIDE_PIXELS = 96
MAX_ASPECT = 2.0
#: So many radiographs of a study are scored at most: with flows of the paper's size ten minutes' work on a CPU.
MOST = 16
#: A picture is averaged down to no less than so many times the grid before it is smoothed: that costs what its size
#: costs, and smoothing much more.
FINER = 8
#: Share of the picture at each side that takes no part in the standardisation of greys.
EDGE = 0.12
#: Tone curves are straightened by a power between these.
POWERS = (0.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    source: Source
    order: tuple[int, int, int, int, int, str]
    view: str
    is_secondary: bool


def prepare_cxr(headers: Sequence[tuple[Source, Dataset]], grid: Preprocessing) -> Prepared:
    """Bring the frontal chest radiographs of a study onto the model's grid.

    All that pass the image check are taken, at most `MOST`: whichever is the most abnormal counts. Images made from
    others (PS3.3 C.7.6.1.1.2: edges enhanced, bone suppressed, …) are taken only where there is nothing else. Their
    order: DX for presentation before CR; PA, then AP, then unnamed view; most recent; largest; SOP Instance UID.

    Parameters
    ----------
    headers : sequence of (Source, pydicom.Dataset)
        The study's radiographs and their headers.
    grid : Preprocessing
        ``size`` is (H, W).

    Raises
    ------
    NotScoredError
        If none is a frontal chest radiograph for presentation.
    """
    candidates, reasons = [], []
    for source, ds in headers:
        try:
            candidates.append(_candidate(source, ds))
        except NotScoredError as exc:
            reasons.append(exc.message)
    found: dict[bytes, tuple[_Candidate, npt.NDArray[np.uint8]]] = {}
    for candidate in sorted(candidates, key=lambda c: c.order):
        if found and candidate.is_secondary:
            reasons.append("an image made from others")
            break
        try:
            pixels = _pixels(candidate.source, grid)
        except NotScoredError as exc:
            reasons.insert(0, exc.message)
            continue
        if pixels.tobytes() in found:
            reasons.append("an image that looks exactly like another")
        elif len(found) == MOST:
            reasons.append(f"more than {MOST} radiographs")
            break
        else:
            found[pixels.tobytes()] = candidate, pixels
    if not found:
        raise NotScoredError("; ".join(dict.fromkeys(reasons[:2])) or "no radiograph in the study")
    chosen, (first, *others) = zip(*found.values(), strict=True)
    return Prepared(
        model_input=ModelInput(modality=CXR, pixels=first, others=tuple(others)),
        sources=[candidate.source.sop_instance_uid for candidate in chosen],
        modality=CXR,
        notes=_notes([candidate.view for candidate in chosen], len(headers), reasons),
    )


def _notes(views: Sequence[str], radiographs: int, reasons: Sequence[str]) -> list[str]:
    """Return what a reader should know: which views were scored, of how many radiographs, and why no others."""
    named = [f"{view} view" for view in dict.fromkeys(views) if view]
    notes = named if all(views) else [*named, "view recognised by the image alone"]
    if radiographs > 1:
        notes.append(f"{len(views)} of {radiographs} radiographs")
    if len(views) > 1:
        notes.append("the most abnormal one counts; its percentile is one among single images")
    return notes + [f"not scored: {reason}" for reason in dict.fromkeys(reasons)]


def cxr_tensor(grey: Floats, size: tuple[int, ...], padding: Mask | None = None) -> npt.NDArray[np.uint8]:
    """Return a displayed radiograph on the model's grid; training images go through this very function.

    Borders are cut off, the rest is resized to the grid without keeping its aspect ratio (as the public NIH
    images were), and greys are standardised by the middle of the picture, where the chest is.

    Parameters
    ----------
    grey : numpy.ndarray
        float32, shape (rows, columns), 0 black to 1 white.
    size : tuple of int
        (H, W).
    padding : numpy.ndarray, optional
        bool, the same shape as ``grey``: no image; what of it no box leaves out counts as air if it reaches an edge.

    Returns
    -------
    numpy.ndarray
        uint8, shape (H, W), 0 to 255.

    Raises
    ------
    NotScoredError
        If there is nothing in the image.
    """
    rows, columns = content_box(grey, padding)
    content = grey[rows, columns]
    if padding is not None and padding[rows, columns].any():
        content = _without(content, padding[rows, columns])
    if min(content.shape) < MIN_SIDE_PIXELS // 2:
        raise NotScoredError("the exposed part of the image is too small")
    if max(content.shape) > MAX_ASPECT * min(content.shape):
        raise NotScoredError("the exposed part of the image is not shaped like a chest")
    resized = _resized(np.ascontiguousarray(content), size)
    return _standardised(resized)


def _without(content: Floats, padding: Mask) -> Floats:
    """Return a picture whose padding (corners around a circle) is as dark as its darkest grey, whatever it displays.

    Only what reaches an edge: a saturated pixel, such as a pacemaker's, may have the padding's value, too.
    """
    if padding.all():
        raise NotScoredError("the image is empty")
    pieces, _ = ndimage.label(np.pad(padding, 1, constant_values=True))
    outside = pieces[1:-1, 1:-1] == pieces[0, 0]
    filled: Floats = np.where(outside, content[~outside].min(), content)
    return filled


def _standardised(image: Floats) -> npt.NDArray[np.uint8]:
    low, median, high = tones(image)
    if high - low < 0.02:
        raise NotScoredError("the image is blank")
    tensor: npt.NDArray[np.uint8] = np.round(scaled(image, low, median, high) * 255).astype(np.uint8)
    return tensor


def tones(image: Greys) -> tuple[float, float, float]:
    """Return the 1st percentile, the median and the 99th percentile of where the lungs and heart are.

    Corners and edges, with their markers and air, take no part in it.
    """
    edges = [round(EDGE * n) for n in image.shape]
    middle = image[edges[0] : image.shape[0] - edges[0], edges[1] : image.shape[1] - edges[1]]
    low, median, high = (float(v) for v in np.percentile(middle, (1, 50, 99)))
    return low, median, high


def scaled(image: Greys, low: float, median: float, high: float) -> Greys:
    """Scale greys so that exposure, window and tone curve hardly matter: ``low`` and ``high`` become 0 and 1.

    A power brings ``median`` to mid-grey.
    """
    share = float(np.clip((median - low) / (high - low), 0.05, 0.95))
    power = np.clip(np.log(0.5) / np.log(share), *POWERS)
    found: Greys = np.clip((image - low) / (high - low), 0, 1) ** power
    return found


def _resized(image: Floats, size: tuple[int, ...]) -> Floats:
    """Resample to (H, W), after a Gaussian whose width follows the shrink factor so that nothing aliases."""
    shrink = [n / m for n, m in zip(image.shape, size, strict=True)]
    itk = sitk.GetImageFromArray(image)
    itk.SetOrigin([0.5, 0.5])
    # ITK counts axes from the fastest.
    bins = [max(1, int(factor / FINER)) for factor in reversed(shrink)]
    if max(bins) > 1:
        itk = sitk.BinShrink(itk, bins)
    sigmas = [0.45 * factor / n if factor > 1 else 0.0 for factor, n in zip(reversed(shrink), bins, strict=True)]
    if any(sigmas):
        # A variance of zero would be refused.
        itk = sitk.DiscreteGaussian(itk, [max(sigma, 1e-3) ** 2 for sigma in sigmas], 64, 0.01, False)
    grid = sitk.Image(size[1], size[0], sitk.sitkFloat32)
    grid.SetSpacing([shrink[1], shrink[0]])
    grid.SetOrigin([shrink[1] / 2, shrink[0] / 2])
    smooth = sitk.Resample(itk, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32, True)
    resized: Floats = sitk.GetArrayFromImage(smooth)
    return resized


def _pixels(source: Source, grid: Preprocessing) -> npt.NDArray[np.uint8]:
    grey, padding = displayed(source.dataset())
    tensor = cxr_tensor(grey, grid.size, padding)
    check_frontal_chest(tensor)
    return tensor


def _candidate(source: Source, ds: Dataset) -> _Candidate:
    """Judge a radiograph by its header."""
    if str(ds.get("QualityControlImage", "")).upper() == "YES":
        raise NotScoredError("quality control image")
    for_processing = ds.get("SOPClassUID") == DigitalXRayImageStorageForProcessing
    if for_processing or str(ds.get("PresentationIntentType", "")).upper() == "FOR PROCESSING":
        raise NotScoredError("a raw image (for processing), not one for presentation")
    if _number(ds.get("NumberOfFrames")) > 1:
        raise NotScoredError("a sequence of images, not a single radiograph")
    _check_size(ds)
    check_body_part(ds)
    view = view_of(ds)
    presentation = ds.get("SOPClassUID") == DigitalXRayImageStorageForPresentation
    is_secondary = "SECONDARY" in [str(value).upper() for value in np.atleast_1d(ds.get("ImageType") or [])]
    order = (
        int(is_secondary),
        0 if presentation else 1,
        {"PA": 0, "AP": 1}.get(view, 2),
        -_when(ds),
        -_number(ds.get("Rows")) * _number(ds.get("Columns")),
        source.sop_instance_uid,
    )
    return _Candidate(source=source, order=order, view=view, is_secondary=is_secondary)


def _check_size(ds: Dataset) -> None:
    rows, columns = _number(ds.get("Rows")), _number(ds.get("Columns"))
    if rows < 1 or columns < 1:
        raise NotScoredError("the image's header does not give its number of rows and columns")
    if min(rows, columns) < MIN_SIDE_PIXELS:
        raise NotScoredError("the image is too small")


def _when(ds: Dataset) -> int:
    """Return the acquisition time as a sortable number, 0 if unknown."""
    date = next((str(ds.get(k)) for k in ("AcquisitionDate", "ContentDate", "StudyDate") if ds.get(k)), "")
    time = next((str(ds.get(k)) for k in ("AcquisitionTime", "ContentTime", "StudyTime") if ds.get(k)), "")
    time = time.split(".", maxsplit=1)[0]
    return int(_digits(date, 8) + _digits(time, 6))


def _digits(text: str, count: int) -> str:
    return re.sub(r"\D", "", text)[:count].ljust(count, "0")


def _number(value: object) -> int:
    """Return a whole number, 0 where the header holds none."""
    return int(str(value).strip()) if str(value).strip().isdecimal() else 0
