"""What a relevance map is shown on: planes of the study as displayed, and the map's place in the patient.

Made by the workers, who can decode pixels; drawn and encoded by the reports, which cannot.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One plane with the map on it.

    Attributes
    ----------
    grey : numpy.ndarray
        uint8, (H, W): the plane as displayed, square pixels, 255 white.
    deviations : numpy.ndarray
        float32, (H, W): the map brought onto it; standard deviations above the mean of normals, 0 outside the map.
    sop_instance_uid : str
        Of the instance that it shows.
    caption : str
        Which plane it is, without identifiers; may be empty.
    """

    grey: npt.NDArray[np.uint8]
    deviations: npt.NDArray[np.float32]
    sop_instance_uid: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Planes:
    """Where a map's planes lie in the patient (LPS, mm).

    Attributes
    ----------
    positions : tuple of (float, float, float)
        Centre of each plane's first pixel, inferior to superior.
    row, column : (float, float, float)
        Unit vectors along a row (to the next column) and along a column (to the next row).
    spacing_mm : (float, float, float)
        Distance between planes, between rows, and between columns.
    frame_of_reference_uid : str
        Frame of Reference UID (0020,0052) of the source images.
    """

    positions: tuple[tuple[float, float, float], ...]
    row: tuple[float, float, float]
    column: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    frame_of_reference_uid: str


@dataclass(frozen=True, kw_only=True)
class Backdrop:
    """All that a map's objects show of a study.

    Attributes
    ----------
    pictures : tuple of Picture
        CXR: the radiograph. BCT: the slices where the map is highest, the highest first.
    planes : Planes or None
        BCT: where the map lies.
    """

    pictures: tuple[Picture, ...]
    planes: Planes | None = None
