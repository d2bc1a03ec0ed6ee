"""Source images and results to make reports of: synthetic headers, and the public collection's files."""

from datetime import UTC, datetime
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from triage.messages import Priority, Score
from triage.report import ReportInput
from triage.uids import derived_uid

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
MODALITY = {CR: "CR", DX: "DX", CT: "CT", ENHANCED_CT: "CT"}

DIGEST = "ab" * 32
CREATED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def header(sop_class_uid: str = CR, study: object = 1, instance: object = 1, **attributes: Any) -> Dataset:
    """Return an image's header with all Type 2 attributes; keyword arguments replace them, None removes them."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = derived_uid("test", "instance", study, instance)
    ds.StudyInstanceUID = derived_uid("test", "study", study)
    ds.SeriesInstanceUID = derived_uid("test", "series", study)
    ds.Modality = MODALITY.get(sop_class_uid, "OT")
    ds.PatientName = "Müller^Jörg"
    ds.PatientID = f"P{study}"
    ds.PatientBirthDate = "19500102"
    ds.PatientSex = "M"
    ds.StudyID = "1"
    ds.StudyDate = "20260101"
    ds.StudyTime = "101112"
    ds.AccessionNumber = f"A{study}"
    ds.ReferringPhysicianName = ""
    ds.Rows = ds.Columns = 8
    for keyword, value in attributes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    return ds


def score(**changes: Any) -> Score:
    """Return a plausible score."""
    values: dict[str, Any] = {
        "log_prob_normal": -101234.56789,
        "log_prob_mixture": -100987.654321,
        "log_posterior": -246.913569,
        "percentile": 97.25,
        "bundle_name": "cxr-starter",
        "bundle_version": "1.0",
        "bundle_digest": DIGEST,
        "calibration": "reference-2026-01",
        "compute": "cpu float32",
    }
    return Score(**{**values, **changes})


def result(**changes: Any) -> ReportInput:
    """Return a result of a flagged chest X-ray."""
    values: dict[str, Any] = {
        "modality": "CXR",
        "revision": 1,
        "score": score(),
        "priority": Priority.HIGH,
        "created_at": CREATED_AT,
    }
    return ReportInput(**{**values, **changes})


def not_scored(reason: str = "lateral view: only frontal chest X-rays are scored", **changes: Any) -> ReportInput:
    """Return the result of a study that the gate declined."""
    return result(score=None, priority=None, reason=reason, **changes)
