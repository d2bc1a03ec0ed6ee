"""What a report takes from its source images: a clean, small copy that highdicom can build on.

highdicom reads Type 2 attributes without asking whether they are there, and refuses values that break the
standard; real senders omit the ones and send the others. So a report is never built on the images themselves
but on copies that hold the few attributes a report needs, decoded to Unicode and checked.

References
----------
PS3.3 sections C.7.1.1 (Patient), C.7.2.1 (General Study), C.7.2.2 (Patient Study).
"""

import re
from collections.abc import Sequence
from datetime import date

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from triage.errors import InvalidUIDError, ReportError
from triage.text import text_of
from triage.uids import checked_uid

# Who and which order: never altered. Name and ID stay as the images have them even where they break a length
# rule, because the PACS files the report under them; an over-long number of an order is left out instead (Type 2:
# unknown), because cut short it may be another order's.
IDENTITY = ("PatientName", "PatientID", "AccessionNumber", "StudyID")
_LONGEST = {"AccessionNumber": 16, "StudyID": 16}
_DESCRIPTIVE = {
    "IssuerOfPatientID": 64,
    "ReferringPhysicianName": 64,
    "StudyDescription": 64,
}
_NOT_IMAGES = {"SR", "KO", "PR", "DOC", "SEG", "PLAN", "RWV", "REG", "FID", "RTDOSE", "RTPLAN", "RTSTRUCT", "ECG"}


def as_evidence(images: Sequence[Dataset]) -> list[Dataset]:
    """Copy what a report needs from the instances it is about, with the blanks filled.

    Parameters
    ----------
    images : sequence of pydicom.dataset.Dataset
        Headers (``stop_before_pixels``) of one study's instances. They are not changed.

    Returns
    -------
    list of pydicom.dataset.Dataset
        One small data set an instance, without duplicates; patient and study attributes are the first one's.

    Raises
    ------
    ReportError
        If there is none, one lacks a UID, or they belong to several studies.
    """
    if not images:
        raise ReportError("a report needs at least one source instance")
    shared = study_attributes(images[0])
    copies: dict[str, Dataset] = {}
    for image in images:
        copy = _reference(image)
        if copy.StudyInstanceUID != shared.StudyInstanceUID:
            raise ReportError("the source instances belong to several studies")
        copy.update(shared)
        copies.setdefault(str(copy.SOPInstanceUID), copy)
    return list(copies.values())


def is_image(ds: Dataset) -> bool:
    """Tell whether an evidence copy is of an image, which an IMAGE content item may reference."""
    return "Rows" in ds and ds.Modality not in _NOT_IMAGES


def lossy_compression(images: Sequence[Dataset]) -> Dataset:
    """Return the Lossy Image Compression attributes of what is derived from these images.

    References
    ----------
    PS3.3 section C.7.6.1.1.5: once lossy, always lossy.
    """
    ds = Dataset()
    ds.LossyImageCompression = "00"
    for image in images:
        if str(image.get("LossyImageCompression", "")) == "01":
            wanted = {"LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"}
            ds.update({element.tag: element for element in image if element.keyword in wanted and element.value})
            break
    return ds


def study_attributes(image: Dataset) -> Dataset:
    """Return the Patient and Study attributes of a report about this image, every Type 2 one present."""
    ds = Dataset()
    _add(ds, "StudyInstanceUID", _uid(image, "StudyInstanceUID"))
    for keyword in IDENTITY:
        text = text_of(image, keyword)
        _add(ds, keyword, text if len(text) <= _LONGEST.get(keyword, len(text)) else "")
    for keyword, length in _DESCRIPTIVE.items():
        text = text_of(image, keyword).replace("\\", " ")[:length].rstrip()
        if text or keyword == "ReferringPhysicianName":
            _add(ds, keyword, text)
    ds.PatientBirthDate = _date(text_of(image, "PatientBirthDate"))
    ds.PatientSex = _sex(text_of(image, "PatientSex"))
    ds.StudyDate = _date(text_of(image, "StudyDate"))
    ds.StudyTime = _time(text_of(image, "StudyTime"))
    age = text_of(image, "PatientAge")
    if re.fullmatch(r"\d{3}[DWMY]", age):
        ds.PatientAge = age
    return ds


def _reference(image: Dataset) -> Dataset:
    ds = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        _add(ds, keyword, _uid(image, keyword))
    ds.Modality = text_of(image, "Modality").upper() or "OT"
    if isinstance(image.get("Rows"), int):
        ds.Rows = image.Rows
    return ds


def _uid(image: Dataset, keyword: str) -> str:
    try:
        return checked_uid(text_of(image, keyword))
    except InvalidUIDError as exc:
        raise ReportError(f"a source instance has no usable {keyword}") from exc


def _add(ds: Dataset, keyword: str, text: str) -> None:
    # Unchecked: an identifier that breaks a rule of its VR is still the identifier.
    ds.add(DataElement(Tag(keyword), dictionary_VR(keyword), text, validation_mode=IGNORE))


def _sex(text: str) -> str:
    letter = text.strip().upper()[:1]
    return letter if letter in {"M", "F", "O"} else ""


def _date(text: str) -> str:
    """Return YYYYMMDD, or nothing if it is no date; the ACR-NEMA form YYYY.MM.DD is understood."""
    digits = re.sub(r"[.\-/]", "", text.strip())
    if not re.fullmatch(r"\d{8}", digits):
        return ""
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return ""
    return digits


def _time(text: str) -> str:
    """Return HHMMSS.FFFFFF (or a prefix of it), or nothing if it is no time."""
    digits = text.strip().replace(":", "")
    match = re.fullmatch(r"([01]\d|2[0-3])(?:([0-5]\d)(?:([0-5]\d)(?:\.(\d{1,6})\d*)?)?)?", digits)
    if not match:
        return ""
    hours, minutes, seconds, fraction = match.groups()
    return hours + (minutes or "") + (seconds or "") + (f".{fraction}" if fraction else "")
