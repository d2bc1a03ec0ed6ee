"""Sources as the world sends them: without Type 2 attributes, in any character set, with values that break rules."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from tests.support.reports import CR, CT, DX, ENHANCED_CT, header, result
from triage.report import build_report, encode

# pydicom says what it thinks of these headers; the point is that they work all the same.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

TYPE_2 = ("PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "PatientID")


def as_received(image: Dataset) -> Dataset:
    """Return an image as read from its bytes, nothing decoded yet."""
    buffer = BytesIO()
    dcmwrite(buffer, image, enforce_file_format=True)
    return dcmread(BytesIO(buffer.getvalue()), stop_before_pixels=True)


def reported(image: Dataset) -> Dataset:
    """Return the report on an image as read from its bytes."""
    return dcmread(BytesIO(encode(build_report([image], result()))))


def named(raw: bytes, *character_sets: str) -> Dataset:
    """Return an image whose patient's name is these bytes under a declared character set."""
    image = header(SpecificCharacterSet=None, PatientName=None)
    if character_sets:
        image.SpecificCharacterSet = list(character_sets)
    return _with_raw_name(image, raw)


def _with_raw_name(image: Dataset, raw: bytes) -> Dataset:
    image.PatientName = "@" * (len(raw) + len(raw) % 2)
    buffer = BytesIO()
    dcmwrite(buffer, image, enforce_file_format=True)
    padded = raw + b" " * (len(raw) % 2)
    return dcmread(BytesIO(buffer.getvalue().replace(b"@" * len(padded), padded)), stop_before_pixels=True)


def header_without(*keywords: str, sop_class_uid: str = CR) -> Dataset:
    image = header(sop_class_uid)
    for keyword in keywords:
        if keyword in image:
            del image[keyword]
    return image


@pytest.mark.parametrize("sop_class_uid", [CR, DX, CT, ENHANCED_CT])
def test_missing_attributes_become_empty_ones(sop_class_uid: str) -> None:
    bare = header_without(*TYPE_2, "PatientName", "ReferringPhysicianName", sop_class_uid=sop_class_uid)
    report = reported(as_received(bare))
    for keyword in (*TYPE_2, "PatientName", "ReferringPhysicianName"):
        assert keyword in report
        assert not report[keyword].value


@pytest.mark.parametrize(
    ("keyword", "sent", "kept"),
    [
        ("PatientSex", "U", ""),
        ("PatientSex", "f", "F"),
        ("PatientSex", "MALE", "M"),
        ("StudyDate", "2026.01.31", "20260131"),
        ("StudyDate", "20261331", ""),
        ("StudyDate", "unknown", ""),
        ("StudyTime", "10:11:12", "101112"),
        ("StudyTime", "250000", ""),
        ("StudyTime", "101112.1234567", "101112.123456"),
        ("PatientBirthDate", "0", ""),
        ("AccessionNumber", "1" * 17, ""),
        ("AccessionNumber", "1" * 16, "1" * 16),
        ("StudyDescription", "x" * 100, "x" * 64),
        ("PatientAge", "old", None),
    ],
)
def test_values_that_break_rules_are_mended_or_left_out(keyword: str, sent: str, kept: str | None) -> None:
    image = header()
    vr = {"PatientSex": "CS", "StudyDate": "DA", "StudyTime": "TM", "PatientBirthDate": "DA", "PatientAge": "AS"}
    image.add(DataElement(keyword, vr.get(keyword, "LO"), sent, validation_mode=0))
    report = reported(as_received(image))
    assert report.get(keyword) == kept


def test_an_over_long_patient_id_is_still_the_patients() -> None:
    image = header()
    image.add(DataElement("PatientID", "LO", "9" * 80, validation_mode=0))
    assert reported(as_received(image)).PatientID == "9" * 80


@pytest.mark.parametrize(
    ("raw", "character_sets", "name"),
    [
        ("Müller^Jörg".encode("latin-1"), ("ISO_IR 100",), "Müller^Jörg"),
        ("Müller^Jörg".encode("latin-1"), (), "Müller^Jörg"),
        ("Müller^Jörg".encode("latin-1"), ("ISO_IR 192",), "Müller^Jörg"),
        ("Müller^Jörg".encode(), (), "Müller^Jörg"),
        ("Müller^Jörg".encode(), ("ISO_IR 100",), "Müller^Jörg"),
        ("Müller^Jörg".encode(), ("NONSENSE",), "Müller^Jörg"),
        ("Müller^Jörg".encode(), ("ISO_IR 192",), "Müller^Jörg"),
        ("王^小东".encode("gb18030"), ("GB18030",), "王^小东"),
        ("Люкceмбypг".encode("iso8859_5"), ("ISO_IR 144",), "Люкceмбypг"),
        (
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
            ("", "ISO 2022 IR 87"),
            "Yamada^Tarou=山田^太郎",
        ),
        (b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", (), "Yamada^Tarou=山田^太郎"),
        (
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
            ("ISO 2022 IR 13", "ISO 2022 IR 87"),
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
        ),
        (b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", ("", "ISO 2022 IR 149"), "Hong^Gildong=洪^吉洞"),
    ],
)
def test_the_name_is_right_in_unicode(raw: bytes, character_sets: tuple[str, ...], name: str) -> None:
    report = reported(named(raw, *character_sets))
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert str(report.PatientName) == name


@pytest.mark.parametrize("raw", [b"\xff\xfe\x1b\x1b$B;^\x80", b"\x1b$B;3", b"\x1b", bytes(range(128, 160))])
def test_bytes_that_mean_nothing_still_make_a_report(raw: bytes) -> None:
    for character_sets in ((), ("ISO_IR 192",), ("ISO 2022 IR 87",), ("", "ISO 2022 IR 149"), ("GB18030",)):
        assert reported(named(raw, *character_sets)).StudyInstanceUID


def test_values_set_in_memory_are_read_like_received_ones() -> None:
    image: Any = header(PatientName="Ærø^Åse", SpecificCharacterSet="ISO_IR 192")
    assert str(build_report([image], result()).PatientName) == "Ærø^Åse"


def test_the_bytes_do_not_depend_on_where_they_are_read_from(tmp_path: Path) -> None:
    image = header()
    dcmwrite(tmp_path / "image.dcm", image, enforce_file_format=True)
    from_file = encode(build_report([dcmread(tmp_path / "image.dcm", stop_before_pixels=True)], result()))
    assert from_file == encode(build_report([as_received(image)], result()))
