"""Every CT slice as one record, whether it came as a single-frame instance or as a frame of an enhanced one."""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from triage.errors import NotScoredError
from workers.images.sources import Source

#: What is written for "no agent", perhaps for each of several; "without and with" is one, and so is a non-ionic agent.
#: What may follow a phrase is taken with it, and of phrases that begin alike the longest stands first: nothing is tried
#: in more than one way, for a header is a peer's text.
_CALLED = r"(?:(?:KM|CM|CONTRAST)[^\w+]+)?"
_NONE = re.compile(
    rf"\b{_CALLED}(?:NONE(?: (?:GIVEN|USED|ADMINISTERED))?|NON[- ]?(?:CON|CONTRAST|ENHANCED)"
    r"|NOT (?:GIVEN|USED|ADMINISTERED|APPLICABLE|SPECIFIED|STATED)|0+(?:[.,]0*)?(?: ?(?:ML|CC))?"
    r"|NON?|NEIN|N[/.]?A|N|NIL|NULL|FALSE|UNKNOWN|PLAIN|NATIVE?|UNENHANCED)\b[^\w+]*",
    re.IGNORECASE,
)
_WITHOUT = re.compile(
    rf"{_CALLED}(?:NO|WITHOUT|W/O|OHNE|KEINE?S?|SANS|AUCUNE?|SENZA|NESSUN[AO]?|SIN|NINGUN[AO]?)\b"
    r"(?!.*\b(?:WITH|MIT|AVEC|CON)\b)",
    re.IGNORECASE | re.DOTALL,
)
#: What fills an attribute that nobody filled in. A plus is none of it: it is written for "given".
_BLANK = " -\N{EN DASH}\N{EM DASH}._/?"

#: An instance with more frames is not looked at: no head has so many, but for one through which an agent runs.
MAX_FRAMES = 4096

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One CT slice: where it lies and what its header says about it.

    Attributes
    ----------
    source : Source
        The instance that holds it.
    index : int
        Frame number in the instance, from 0.
    position, row, column : numpy.ndarray
        float64, shape (3,): ImagePositionPatient in mm (LPS); the unit vectors along a row and along a column.
    pixel_mm : tuple of float
        Distance between rows and between columns, mm (PixelSpacing).
    shape : tuple of int
        (rows, columns).
    thickness_mm : float
        SliceThickness, 0 if unknown.
    slope, intercept : float
        HU = stored × slope + intercept.
    image_type, kernel, description, series_description : str
        Upper case; values joined by spaces.
    contrast : bool
        A contrast agent is named, or how much of one was given.
    kvp : float
        Tube voltage, 0 if unknown.
    series, stack, acquisition, when : str
        Keys by which slices are grouped and split.
    series_number : int or None
        As people know the series.
    """

    source: Source
    index: int
    position: Vector
    row: Vector
    column: Vector
    pixel_mm: tuple[float, float]
    shape: tuple[int, int]
    thickness_mm: float
    slope: float
    intercept: float
    image_type: str
    kernel: str
    description: str
    series_description: str
    contrast: bool
    kvp: float
    series: str
    stack: str
    acquisition: str
    when: str
    series_number: int | None

    @property
    def key(self) -> tuple[str, int]:
        """Instance and frame: in this order every file is read once."""
        return self.source.sop_instance_uid, self.index

    @property
    def normal(self) -> Vector:
        """Unit vector perpendicular to the slice."""
        normal: Vector = np.cross(self.row, self.column)
        return normal


class _Attributes:
    """Looks an attribute up for one frame: per-frame, then shared functional groups, then the instance itself.

    References
    ----------
    PS3.3 C.7.6.16 (multi-frame functional groups), C.7.6.16.2.25 (unassigned converted attributes).
    """

    def __init__(self, ds: Dataset, index: int) -> None:
        groups = []
        per_frame = ds.get("PerFrameFunctionalGroupsSequence") or []
        if index < len(per_frame):
            groups.append(per_frame[index])
        groups.extend(ds.get("SharedFunctionalGroupsSequence") or [])
        self._items = [
            element.value[0] for group in groups for element in group if element.VR == "SQ" and element.value
        ] + [ds]

    def get(self, keyword: str) -> Any:
        """Return the value, None where it is absent or empty."""
        for item in self._items:
            value = item.get(keyword)
            if value is not None and value not in ("", []):
                return value
        return None

    def text(self, keyword: str) -> str:
        """Return the values as upper-case text."""
        value = self.get(keyword)
        if value is None:
            return ""
        values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
        return " ".join(str(v) for v in values).upper().strip()

    def number(self, keyword: str, default: float) -> float:
        """Return a finite number."""
        try:
            number = float(self.get(keyword))
        except (TypeError, ValueError):
            return default
        return number if math.isfinite(number) else default

    def numbers(self, keyword: str, count: int) -> Vector | None:
        """Return exactly so many finite numbers, or None."""
        try:
            found = np.asarray([float(v) for v in self.get(keyword)], dtype=np.float64)
        except (TypeError, ValueError):
            return None
        return found if found.shape == (count,) and np.isfinite(found).all() else None


def frames_of(source: Source, ds: Dataset) -> tuple[list[Frame], list[NotScoredError]]:
    """Return every slice that an instance's header describes, and for every other one why it is none.

    That is that the header lacks its geometry or its rescale to HU. Of an instance whose header doesn't describe as
    many frames as it says that it has, or more than `MAX_FRAMES`, there is no slice, and one reason.
    """
    # An enhanced instance describes every frame, any other one is a single slice. What NumberOfFrames says alone is
    # never counted up to: it may say two thousand millions (VR IS).
    count = len(ds.get("PerFrameFunctionalGroupsSequence") or ()) or 1
    try:
        said = max(1, int(ds.get("NumberOfFrames", 1) or 1))
    except (TypeError, ValueError):
        return [], [NotScoredError("the image's header does not give its number of frames")]
    if said != count:
        return [], [NotScoredError("the image's header does not describe as many frames as it says that there are")]
    if count > MAX_FRAMES:
        return [], [NotScoredError(f"an image of {count} frames, more than {MAX_FRAMES}")]
    frames, refused = [], []
    for index in range(count):
        try:
            frames.append(_frame(source, ds, index))
        except NotScoredError as exc:
            refused.append(exc)
    return frames, refused


def _frame(source: Source, ds: Dataset, index: int) -> Frame:
    attributes = _Attributes(ds, index)
    position = attributes.numbers("ImagePositionPatient", 3)
    orientation = attributes.numbers("ImageOrientationPatient", 6)
    spacing = attributes.numbers("PixelSpacing", 2)
    if position is None or orientation is None or spacing is None or (spacing <= 0).any():
        raise NotScoredError("the slices do not say where they lie in the patient")
    rescale_type = attributes.text("RescaleType")
    slope = attributes.number("RescaleSlope", math.nan)
    intercept = attributes.number("RescaleIntercept", math.nan)
    if rescale_type not in ("", "HU") or not math.isfinite(slope * intercept) or slope == 0:
        raise NotScoredError("the CT numbers are not in Hounsfield units")
    row, column = _orthonormal(orientation)
    return Frame(
        source=source,
        index=index,
        position=position,
        row=row,
        column=column,
        pixel_mm=(float(spacing[0]), float(spacing[1])),
        shape=(int(attributes.number("Rows", 0)), int(attributes.number("Columns", 0))),
        thickness_mm=attributes.number("SliceThickness", 0.0),
        slope=slope,
        intercept=intercept,
        # Enhanced CT says it per frame as FrameType (PS3.3 C.8.16.1)
        image_type=attributes.text("FrameType") or attributes.text("ImageType"),
        kernel=attributes.text("ConvolutionKernel"),
        description=" ".join(attributes.text(k) for k in ("SeriesDescription", "ProtocolName", "StudyDescription")),
        series_description=attributes.text("SeriesDescription"),
        contrast=_contrast(ds, attributes),
        kvp=attributes.number("KVP", 0.0),
        series=str(ds.get("SeriesInstanceUID", "")),
        stack=attributes.text("StackID"),
        acquisition=attributes.text("AcquisitionNumber") or attributes.text("FrameAcquisitionNumber"),
        when=attributes.text("AcquisitionDateTime") or attributes.text("AcquisitionTime"),
        series_number=int(number) if (number := attributes.number("SeriesNumber", math.nan)) == number else None,
    )


def _orthonormal(orientation: Vector) -> tuple[Vector, Vector]:
    """Return ImageOrientationPatient as two exact unit vectors; writers round them to a few decimals."""
    row, column = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(row @ column) > 0.02:
        raise NotScoredError("the slices' orientation in the patient is not valid")
    row = row / lengths[0]
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def _contrast(ds: Dataset, attributes: _Attributes) -> bool:
    agent = attributes.text("ContrastBolusAgent")
    if not _WITHOUT.match(agent) and _NONE.sub("", agent).strip(_BLANK):
        return True
    administered = attributes.text("ContrastBolusAgentAdministered")
    if administered:
        return administered == "YES"
    given = max(attributes.number(keyword, 0.0) for keyword in ("ContrastBolusVolume", "ContrastBolusTotalDose"))
    return given > 0 or bool(ds.get("ContrastBolusAgentSequence"))
