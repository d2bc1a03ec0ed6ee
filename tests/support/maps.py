"""Relevance maps and what they are shown on, synthetic."""

import math
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from tests.support.reports import CR, CT, header
from triage.messages import Relevance
from triage.pictures import Backdrop, Picture, Planes
from triage.uids import derived_uid

FRAME = str(derived_uid("test", "frame of reference"))
#: A head that lay turned was straightened, and its map lies turned in the patient's axes.
TURN = math.radians(20)


def relevance(shape: tuple[int, ...], seed: int = 0) -> Relevance:
    """Return a map with a hill in the middle."""
    noise = np.random.default_rng(seed).normal(size=shape)
    hill = np.exp(-sum(((n - (m - 1) / 2) / 3) ** 2 for n, m in zip(np.indices(shape), shape, strict=True)))
    return Relevance.of("difference from the expected normal image", noise + 9 * hill)


def slices(count: int = 6, **attributes: Any) -> list[Dataset]:
    """Return the headers of a head CT's slices, placed in a patient."""
    return [
        header(
            CT,
            instance=n,
            FrameOfReferenceUID=FRAME,
            PositionReferenceIndicator="",
            ImagePositionPatient=[-100.0, -100.0, 5.0 * n],
            ImageOrientationPatient=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            PixelSpacing=[25.0, 25.0],
            SliceThickness=5.0,
            **attributes,
        )
        for n in range(count)
    ]


def chest(sop_class_uid: str = CR, **attributes: Any) -> list[Dataset]:
    """Return the header of a chest X-ray."""
    return [header(sop_class_uid, **attributes)]


def backdrop(images: list[Dataset], planes: int = 0) -> Backdrop:
    """Return pictures of these images; with `planes`, the map's place as well."""
    ramp = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (96, 1))
    hill = np.zeros((96, 80), np.float32)
    hill[30:50, 20:40] = 7.0
    pictures = tuple(
        Picture(grey=ramp, deviations=hill, sop_instance_uid=str(ds.SOPInstanceUID), caption=f"slice {n}")
        for n, ds in enumerate(images[:3], start=1)
    )
    placed = Planes(
        positions=tuple((-100.0, -100.0, 10.0 * n) for n in range(planes)),
        row=(math.cos(TURN), math.sin(TURN), 0.0),
        column=(-math.sin(TURN), math.cos(TURN), 0.0),
        spacing_mm=(10.0, 7.2, 7.2),
        frame_of_reference_uid=FRAME,
    )
    return Backdrop(pictures=pictures, planes=placed if planes else None)
