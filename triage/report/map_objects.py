"""A relevance map becomes DICOM objects: a Secondary Capture for everybody, for CT a Parametric Map too.

Both are derived, for research, in series of their own beside the report's, and never without it.

References
----------
PS3.3 sections A.8.1 (Secondary Capture Image), A.75 (Parametric Map); PS3.16 (130404, DCM, "Saliency").
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from highdicom import (
    PixelMeasuresSequence,
    PlaneOrientationSequence,
    PlanePositionSequence,
    VOILUTTransformation,
)
from highdicom.pm import DerivedPixelContrastValues, ImageFlavorValues, ParametricMap, RealWorldValueMapping
from highdicom.sc import SCImage
from pydicom.dataset import Dataset

from triage import __version__
from triage.errors import ReportError
from triage.messages import Relevance
from triage.pictures import Backdrop, Planes
from triage.report import codes
from triage.report.build import (
    UNUSABLE,
    contributing_equipment,
    finished,
    hash_of_inputs,
    shared_attributes,
    without_identity,
)
from triage.report.drawing import TO_SD, WARNING, draw
from triage.report.evidence import as_evidence, lossy_compression
from triage.report.result import ReportInput
from triage.sop_classes import PARAMETRIC_MAP, SECONDARY_CAPTURE
from triage.text import text_of
from triage.uids import derived_uid

CAPTURE_SERIES_NUMBER = {"CXR": 9811, "BCT": 9812}
MAP_SERIES_NUMBER = {"BCT": 9822}
_PLACEMENT = frozenset({
    "Rows", "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
})  # fmt: skip


def build_capture(
    evidence: Sequence[Dataset], result: ReportInput, relevance: Relevance, backdrop: Backdrop
) -> Dataset:
    """Draw the map beside its image, as a Secondary Capture (8 bit RGB).

    Parameters
    ----------
    evidence : sequence of pydicom.dataset.Dataset
        Headers of every instance that was scored.
    result : ReportInput
        The scored result; its revision becomes Instance Number.
    relevance : Relevance
        The map.
    backdrop : Backdrop
        What it is drawn on.

    Returns
    -------
    pydicom.dataset.Dataset
        With file meta information; its UIDs are derived from the study, the revision, the inputs, the model and the
        map.

    Raises
    ------
    ReportError
        If the sources cannot carry it.
    """
    sources = as_evidence(evidence)
    score = result.score
    if score is None or result.not_scored or not backdrop.pictures:
        raise ReportError("a relevance map needs a score and an image")
    rgb = draw(
        backdrop.pictures,
        title=f"{score.bundle_name} {score.bundle_version}: abnormality percentile {score.percentile:.0f} of 100",
        subtitle=f"Map: {relevance.method}. Percentile: against {score.calibration or 'an unnamed reference'}",
    )
    source = without_identity(sources[0])
    try:
        capture = SCImage(
            pixel_array=rgb,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),
            study_instance_uid=source.StudyInstanceUID,
            series_number=CAPTURE_SERIES_NUMBER[result.modality],
            patient_birth_date=source.PatientBirthDate,
            patient_sex=source.PatientSex or None,
            study_date=source.StudyDate,
            study_time=source.StudyTime,
            referring_physician_name=source.ReferringPhysicianName,
            **_own_attributes(sources, result, relevance, SECONDARY_CAPTURE),
        )
    except UNUSABLE as exc:
        raise ReportError("no Secondary Capture can be built from these source instances") from exc
    if result.modality == "CXR":
        # Heads are drawn with the patient's left on the right; a radiograph as it came, whatever its side.
        capture.PatientOrientation = _orientation(evidence[0])
    capture.BurnedInAnnotation = "NO"
    capture.RecognizableVisualFeatures = "NO"
    capture.BodyPartExamined = "CHEST" if result.modality == "CXR" else "HEAD"
    capture.DerivationDescription = f"Relevance map ({relevance.method}) drawn beside its image"
    shown = {picture.sop_instance_uid for picture in backdrop.pictures}
    capture.SourceImageSequence = [_reference(ds) for ds in sources if str(ds.SOPInstanceUID) in shown]
    capture.update(lossy_compression(evidence))
    for keyword in ("PatientAge", "StudyDescription", "IssuerOfPatientID"):
        if keyword in sources[0]:
            capture.add(sources[0][keyword])
    return finished(capture, sources[0])


def build_parametric_map(
    evidence: Sequence[Dataset], result: ReportInput, relevance: Relevance, planes: Planes
) -> Dataset:
    """Write a head CT's map as a Parametric Map: float32 standard deviations, on planes placed in the patient.

    Parameters
    ----------
    evidence, result, relevance
        As for `build_capture`.
    planes : Planes
        Where the map lies.

    Raises
    ------
    ReportError
        If the sources cannot carry it, or have no frame of reference.
    """
    sources = as_evidence(evidence)
    if not planes.frame_of_reference_uid:
        raise ReportError("the source images name no frame of reference")
    deviations = relevance.deviations
    depth, rows, columns = planes.spacing_mm
    try:
        parametric = ParametricMap(
            source_images=_placed(evidence, sources, planes),
            pixel_array=deviations,
            series_number=MAP_SERIES_NUMBER[result.modality],
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                RealWorldValueMapping(
                    lut_label="SD",
                    lut_explanation="standard deviations above normal images at the same place",
                    unit=codes.NO_UNITS,
                    value_range=(0.0, float(Relevance.TOP)),
                    slope=1.0,
                    intercept=0.0,
                    quantity_definition=codes.SALIENCY,
                )
            ],
            voi_lut_transformations=[VOILUTTransformation(window_center=TO_SD / 2, window_width=TO_SD)],
            content_label="RELEVANCE",
            content_description=f"{WARNING}: {relevance.method}"[:64],
            pixel_measures=PixelMeasuresSequence(
                pixel_spacing=(rows, columns), slice_thickness=depth, spacing_between_slices=depth
            ),
            plane_orientation=PlaneOrientationSequence("PATIENT", (*planes.row, *planes.column)),
            plane_positions=[PlanePositionSequence("PATIENT", position) for position in planes.positions],
            image_flavor=ImageFlavorValues.VOLUME,
            derived_pixel_contrast=DerivedPixelContrastValues.QUANTITY,
            **_own_attributes(sources, result, relevance, PARAMETRIC_MAP),
        )
    except UNUSABLE as exc:
        raise ReportError("no Parametric Map can be built from these source instances") from exc
    parametric.BodyPartExamined = "HEAD"
    # highdicom's is random; the same map is to be the same bytes.
    organization = derived_uid(parametric.SOPInstanceUID, "dimensions")
    for item in [*parametric.DimensionOrganizationSequence, *parametric.DimensionIndexSequence]:
        item.DimensionOrganizationUID = organization
    parametric.update(lossy_compression(evidence))
    return finished(parametric, sources[0])


def _own_attributes(
    sources: Sequence[Dataset], result: ReportInput, relevance: Relevance, sop_class_uid: str
) -> dict[str, Any]:
    """Return what an object that shows the map says of itself, as highdicom's arguments."""
    study, algorithm = str(sources[0].StudyInstanceUID), result.algorithm
    content = hashlib.sha256(relevance.method.encode() + relevance.values.tobytes()).hexdigest()
    return {
        **shared_attributes(result),
        "contributing_equipment": [contributing_equipment(result)],
        "series_instance_uid": derived_uid(
            study, "series", sop_class_uid, algorithm.name, algorithm.digest, __version__
        ),
        "sop_instance_uid": derived_uid(
            study, result.revision, algorithm.digest, sop_class_uid, hash_of_inputs(sources), result.statement, content
        ),
        "instance_number": result.revision,
    }


def _placed(evidence: Sequence[Dataset], sources: Sequence[Dataset], planes: Planes) -> list[Dataset]:
    """Return the sources with where they lie, which highdicom wants to know of what it places a map beside."""
    originals = {str(image.SOPInstanceUID): image for image in evidence}
    placed = []
    for ds in sources:
        copy, original = without_identity(ds), originals[str(ds.SOPInstanceUID)]
        copy.update({element.tag: element for element in original if element.keyword in _PLACEMENT})
        copy.FrameOfReferenceUID = planes.frame_of_reference_uid
        copy.PositionReferenceIndicator = str(original.get("PositionReferenceIndicator", "") or "")
        placed.append(_shared(copy))
    return placed


def _shared(ds: Dataset) -> Dataset:
    """Say once of a multi-frame image what each of its frames may say for itself: highdicom looks for it there."""
    frames = ds.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        return ds
    shared = Dataset()
    shared.update(next(iter(ds.get("SharedFunctionalGroupsSequence") or ()), Dataset()))
    for group in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
        if group not in shared and group in frames[0]:
            shared.add(frames[0][group])
    ds.SharedFunctionalGroupsSequence = [shared]
    return ds


def _orientation(image: Dataset) -> list[str]:
    """Return Patient Orientation (0020,0020) as the image has it, empty if it is unknown (Type 2C)."""
    values = text_of(image, "PatientOrientation").split("\\")
    return values if len(values) == 2 and all(values) else []


def _reference(ds: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = ds.SOPClassUID
    item.ReferencedSOPInstanceUID = ds.SOPInstanceUID
    return item
