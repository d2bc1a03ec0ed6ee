"""A result becomes a Structured Report, and the report becomes bytes.

References
----------
PS3.3 sections A.35.13 (Comprehensive 3D SR), A.35.3, A.35.2; C.17.2 (SR Document General).
"""

import hashlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from highdicom import ContributingEquipment, sr
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from triage import __version__
from triage.errors import ReportError
from triage.report import codes
from triage.report.drawing import WARNING
from triage.report.evidence import IDENTITY, as_evidence
from triage.report.result import ReportInput
from triage.report.sr import content_tree, without_failed_values
from triage.sop_classes import COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR, ENHANCED_SR
from triage.uids import derived_uid

SERIES_NUMBER = {"CXR": 9801, "BCT": 9802}
#: What highdicom raises on attributes that it cannot use.
UNUSABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError)

_CONSTRUCTORS = {
    COMPREHENSIVE_3D_SR: sr.Comprehensive3DSR,
    COMPREHENSIVE_SR: sr.ComprehensiveSR,
    ENHANCED_SR: sr.EnhancedSR,
}


def build_report(
    evidence: Sequence[Dataset],
    result: ReportInput,
    *,
    sop_class_uid: str = COMPREHENSIVE_3D_SR,
    previous: Dataset | None = None,
    maps: Sequence[Dataset] = (),
) -> Dataset:
    """Build the Structured Report of one study revision.

    Parameters
    ----------
    evidence : sequence of pydicom.dataset.Dataset
        Headers of every instance that was scored (or declined), of one study; pixels are not needed. They may
        lack Type 2 attributes and be encoded in any character set; they are not changed.
    result : ReportInput
        What to say.
    sop_class_uid : str
        One of `SR_CLASSES`.
    previous : pydicom.dataset.Dataset, optional
        The report of an earlier revision, named in Predecessor Documents Sequence (0040,A360).
    maps : sequence of pydicom.dataset.Dataset
        Objects of `triage.report.map_objects` that this report refers to.

    Returns
    -------
    pydicom.dataset.Dataset
        A valid SR document with file meta information, text in ISO_IR 192. Its UIDs are derived from the study,
        the revision, the inputs, the model and what the report states: the same report has the same UID, and
        two different ones never share one.

    Raises
    ------
    ReportError
        If the sources cannot carry a report, or the SOP class is not one of ours.
    """
    if sop_class_uid not in _CONSTRUCTORS:
        raise ReportError(f"no report is defined for SOP class {sop_class_uid}")
    sources = as_evidence(evidence)
    study = str(sources[0].StudyInstanceUID)
    inputs_hash = hash_of_inputs(sources)
    algorithm = result.algorithm
    device_uid = derived_uid("device", result.station)
    content = content_tree(
        sources,
        result,
        tracking_uid=derived_uid(study, "tracking", result.modality),
        device_uid=device_uid,
        inputs_hash=inputs_hash,
        maps=maps,
    )
    stated = "|".join([result.statement, *(str(ds.SOPInstanceUID) for ds in maps)])
    try:
        report = _CONSTRUCTORS[sop_class_uid](
            evidence=[without_identity(ds) for ds in [*sources, *(as_evidence(maps) if maps else ())]],
            content=content[0],
            series_instance_uid=derived_uid(study, "series", algorithm.name, algorithm.digest, __version__),
            series_number=SERIES_NUMBER[result.modality],
            sop_instance_uid=derived_uid(study, result.revision, algorithm.digest, sop_class_uid, inputs_hash, stated),
            instance_number=result.revision,
            previous_versions=None if previous is None else [previous],
            **_document_attributes(result),
        )
    except UNUSABLE as exc:
        raise ReportError("no Structured Report can be built from these source instances") from exc
    return finished(report, sources[0])


def encode(report: Dataset) -> bytes:
    """Return the report as a DICOM file (PS3.10), Explicit VR Little Endian: made once, stored, sent unchanged."""
    buffer = BytesIO()
    dcmwrite(buffer, report, enforce_file_format=True)
    return buffer.getvalue()


def hash_of_inputs(sources: Sequence[Dataset]) -> str:
    """Return the SHA-256 (hexadecimal) over the sorted SOP Instance UIDs."""
    return hashlib.sha256("\n".join(sorted(str(ds.SOPInstanceUID) for ds in sources)).encode()).hexdigest()


def shared_attributes(result: ReportInput) -> dict[str, Any]:
    """Return what every object of ours says of itself, reports and maps alike, as highdicom's arguments."""
    created = result.created_at.astimezone()
    return {
        "manufacturer": codes.MANUFACTURER,
        "manufacturer_model_name": codes.MODEL_NAME,
        "software_versions": __version__,
        "device_serial_number": result.station,
        "series_description": WARNING,
        "specific_character_set": "ISO_IR 192",
        "content_qualification": "RESEARCH",
        "content_date": created.date(),
        "content_time": created.time(),
    }


def _document_attributes(result: ReportInput) -> dict[str, Any]:
    return {
        **shared_attributes(result),
        "is_complete": True,
        "is_final": False,
        "is_verified": False,
        "coding_schemes": [codes.coding_scheme()],
        "contributing_equipment": [contributing_equipment(result)],
    }


def contributing_equipment(result: ReportInput) -> ContributingEquipment:
    """Return the algorithm as contributing equipment, a new Device UID for each version of the model."""
    algorithm = result.algorithm
    item = ContributingEquipment(
        codes.MANUFACTURER,
        codes.PROCESSING_EQUIPMENT,
        manufacturer_model_name=algorithm.name[:64],
        software_versions=algorithm.version[:64],
    )
    item.DeviceUID = derived_uid("model", algorithm.name, algorithm.version, algorithm.digest)
    return item


def without_identity(source: Dataset) -> Dataset:
    """Blank what highdicom would check: identifiers are put in afterwards exactly as the images have them."""
    copy = Dataset()
    copy.update({element.tag: element for element in source if element.keyword not in IDENTITY})
    for keyword in IDENTITY:
        setattr(copy, keyword, "")
    return copy


def finished(report: Dataset, source: Dataset) -> Dataset:
    """Return an object of ours as a plain data set, with the images' identifiers, and without placeholders."""
    ds = Dataset()
    ds.update(report)
    ds.file_meta = report.file_meta
    for keyword in IDENTITY:
        ds.add(source[keyword])
    # Times of highdicom's own would be other bytes each time.
    ds.InstanceCreationDate, ds.InstanceCreationTime = ds.ContentDate, ds.ContentTime
    for equipment in ds.ContributingEquipmentSequence:
        equipment.pop("ContributionDateTime", None)
    if "DateOfSecondaryCapture" in ds:
        ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    without_failed_values(ds)
    return ds
