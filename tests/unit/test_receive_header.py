"""What is read from a data set: the same as pydicom reads, of any encoding; damage is noticed; texts are harmless."""

import struct
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.dsutils import encode, split_dataset

from tests.support.reception import deflated, has_file_meta, make_ct
from triage.errors import InvalidUIDError, MismatchedObjectError, TriageError, UnparsableObjectError
from triage.receive.header import Header, read_header
from triage.receive.walk import MAX_DEPTH, Walker
from triage.report.evidence import study_attributes
from triage.store import encode_file_meta
from triage.text import text_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
KEYWORDS = {
    "sop_class_uid": "SOPClassUID",
    "sop_instance_uid": "SOPInstanceUID",
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "modality": "Modality",
    "patient_name": "PatientName",
    "patient_id": "PatientID",
    "accession_number": "AccessionNumber",
    "study_description": "StudyDescription",
}


def _read(tmp_path: Path, content: bytes, syntax: UID = ExplicitVRLittleEndian, offset: int = 0) -> Header:
    file = tmp_path / "object"
    file.write_bytes(content)
    return read_header(file, offset, syntax)


def _encoded(ds: Dataset, syntax: UID) -> bytes:
    content = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    assert content is not None
    return content


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def _minimal(*extra: bytes) -> bytes:
    uids = ((0x00080016, b"1.2"), (0x00080018, b"1.3"), (0x0020000D, b"1.4"), (0x0020000E, b"1.5"))
    return b"".join(_element(tag, b"UI", uid + b"\0") for tag, uid in uids) + b"".join(extra)


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
def test_every_encoding(tmp_path: Path, syntax: UID) -> None:
    header = _read(tmp_path, _encoded(make_ct(), syntax), syntax)
    assert (header.modality, header.patient_name, header.patient_id) == ("CT", "Doe^Jane", "4711")
    assert (header.accession_number, header.study_date, header.study_description) == ("A1", "20260131", "HEAD")


def test_the_same_as_pydicom_for_the_whole_collection(collection: Path, tmp_path: Path) -> None:
    compared = 0
    for path in sorted(p for p in collection.rglob("*") if p.is_file() and has_file_meta(p)):
        meta, offset = split_dataset(path)
        try:
            header = read_header(path, offset, str(meta.TransferSyntaxUID))
        except TriageError:
            # The integration test of the collection says which ones are refused, and why.
            continue
        ds = dcmread(path, stop_before_pixels=True)
        for name, keyword in KEYWORDS.items():
            assert getattr(header, name) == str(ds.get(keyword, "") or "").strip(), f"{path.name} {keyword}"
        compared += 1
    assert compared > 110


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda uid: uid.name)
def test_truncation_is_noticed(tmp_path: Path, syntax: UID) -> None:
    content = _encoded(make_ct(), syntax)
    pixels_from = 0 if syntax.is_deflated else len(content) - 512
    for length in range(pixels_from, len(content) - 1, 7):
        with pytest.raises(TriageError):
            _read(tmp_path, content[:length], syntax)


def test_few_bytes_of_padding_are_no_truncation(tmp_path: Path) -> None:
    assert _read(tmp_path, _minimal() + b"\0\0\0").study_instance_uid == "1.4"


@settings(deadline=None)
@given(content=st.binary(max_size=300), syntax=st.sampled_from(NATIVE))
def test_rubbish_never_crashes(tmp_path_factory: pytest.TempPathFactory, content: bytes, syntax: UID) -> None:
    with pytest.raises(TriageError):
        _read(tmp_path_factory.getbasetemp(), content, syntax)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_damaged_objects_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    ds = make_ct(SOPInstanceUID="1.2.3", StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.5")
    ds.ReferencedStudySequence = [Dataset()]
    ds.ReferencedStudySequence[0].StudyDescription = "inner"
    ds["ReferencedStudySequence"].is_undefined_length = True
    content = bytearray(_encoded(ds, ExplicitVRLittleEndian))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        header = _read(tmp_path_factory.getbasetemp(), bytes(content))
    except TriageError:
        return
    assert all(c.isprintable() for c in header.patient_name + header.patient_id + header.study_description)


def test_unknown_and_missing_vrs(tmp_path: Path) -> None:
    unknown = _element(0x00091001, b"ZZ", b"abcd")
    implicit = struct.pack("<HHL", 0x0009, 0x1002, 4) + b"abcd"
    assert _read(tmp_path, _minimal(unknown, implicit)).series_instance_uid == "1.5"


def test_an_item_does_not_count_as_the_data_set(tmp_path: Path) -> None:
    ds = make_ct()
    ds.ReferencedStudySequence = [Dataset()]
    ds.ReferencedStudySequence[0].StudyInstanceUID = "9.9"
    ds.ReferencedStudySequence[0].PatientName = "Other"
    for undefined in (True, False):
        ds["ReferencedStudySequence"].is_undefined_length = undefined
        header = _read(tmp_path, _encoded(ds, ExplicitVRLittleEndian))
        assert (header.study_instance_uid, header.patient_name) == (ds.StudyInstanceUID, "Doe^Jane")


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    opening = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    with pytest.raises(UnparsableObjectError, match="deep"):
        _read(tmp_path, opening * (MAX_DEPTH + 2))
    with pytest.raises(UnparsableObjectError):
        Walker(opening * 100_000, explicit=True, little=True).find(())


def _deflated_pixels(mib: int) -> bytes:
    head = _minimal() + struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, mib << 20)
    return deflated(head, *[bytes(1 << 20)] * mib)


def test_a_deflate_bomb_is_refused_and_a_large_head_is_not(tmp_path: Path) -> None:
    with pytest.raises(UnparsableObjectError, match="too large"):
        _read(tmp_path, _deflated_pixels(513), DeflatedExplicitVRLittleEndian)
    # An enhanced CT of 800 slices.
    assert _read(tmp_path, _deflated_pixels(400), DeflatedExplicitVRLittleEndian).study_instance_uid == "1.4"
    assert [path.name for path in tmp_path.iterdir()] == ["object"]


@pytest.mark.parametrize(
    ("keyword", "error"),
    [
        ("SOPClassUID", MismatchedObjectError),
        ("SOPInstanceUID", MismatchedObjectError),
        ("StudyInstanceUID", InvalidUIDError),
        ("SeriesInstanceUID", InvalidUIDError),
    ],
)
def test_missing_uids(tmp_path: Path, keyword: str, error: type[Exception]) -> None:
    ds = make_ct()
    del ds[keyword]
    with pytest.raises(error):
        _read(tmp_path, _encoded(ds, ExplicitVRLittleEndian))


@pytest.mark.parametrize("uid", [b"../../../etc/passwd", b"1.2..3 ", b"1.2.3/4 ", b"1." * 40])
def test_a_bad_uid_is_refused_and_not_repeated(tmp_path: Path, uid: bytes) -> None:
    content = _minimal().replace(_element(0x0020000D, b"UI", b"1.4\0"), _element(0x0020000D, b"UI", uid))
    with pytest.raises(InvalidUIDError) as caught:
        _read(tmp_path, content)
    assert uid.decode().strip() not in str(caught.value)


def test_the_command_must_agree(tmp_path: Path) -> None:
    header = _read(tmp_path, _minimal())
    header.check_command("1.2", "1.3")
    for wrong in (("1.2", "1.4"), ("1.3", "1.3")):
        with pytest.raises(MismatchedObjectError):
            header.check_command(*wrong)


NAMES = [
    (b"", b"Doe^Jane", "Doe^Jane"),
    (b"ISO_IR 100", "Müller^Jörg".encode("latin-1"), "Müller^Jörg"),
    (b"ISO_IR 192", "Ωmega^Ελένη".encode(), "Ωmega^Ελένη"),
    (b"ISO_IR 144", "Люкceмбypг".encode("iso8859-5"), "Люкceмбypг"),
    (b"GB18030", "王^小东".encode("gb18030"), "王^小东"),
    (
        b"\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (b"\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7", "Hong^Gildong=洪^吉洞"),
    # What a sender may not do, but does: no or an unknown character set, or another than it says.
    (b"", "Müller".encode(), "Müller"),
    (b"", "Müller".encode("latin-1"), "Müller"),
    (b"NONSENSE", "Müller".encode("latin-1"), "Müller"),
    (b"ISO_IR 192", "Müller".encode("latin-1"), "Müller"),
    (b"ISO_IR 100", "Müller".encode(), "Müller"),
    (b"", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
]


@pytest.mark.parametrize(("charset", "raw", "name"), NAMES)
def test_names(tmp_path: Path, charset: bytes, raw: bytes, name: str) -> None:
    header = _read(tmp_path, _minimal(_element(0x00080005, b"CS", charset), _element(0x00100010, b"PN", raw)))
    assert header.patient_name == name
    report = study_attributes(_dataset(charset, raw))
    assert str(report.PatientName) == name


def _dataset(charset: bytes, raw: bytes) -> Dataset:
    content = _minimal(_element(0x00080005, b"CS", charset), _element(0x00100010, b"PN", raw))
    return dcmread(BytesIO(encode_file_meta("1.2", "1.3", ExplicitVRLittleEndian) + content))


@settings(deadline=None)
@given(charset=st.sampled_from([n[0] for n in NAMES]), raw=st.binary(max_size=80))
def test_no_name_refuses_an_object(tmp_path_factory: pytest.TempPathFactory, charset: bytes, raw: bytes) -> None:
    before = pydicom_config.settings.reading_validation_mode
    content = _minimal(_element(0x00080005, b"CS", charset), _element(0x00100010, b"PN", raw))
    header = _read(tmp_path_factory.getbasetemp(), content)
    assert header.patient_name.replace("\u3000", "").isprintable()
    assert header.patient_name == text_of(_dataset(charset, raw), "PatientName")[:200].rstrip()
    assert pydicom_config.settings.reading_validation_mode == before


def test_texts_hold_no_control_characters(tmp_path: Path) -> None:
    header = _read(
        tmp_path,
        _minimal(
            _element(0x00100020, b"LO", b"47\x0011\r\n2026-01-01 [error] forged"),
            _element(0x00080060, b"CS", b"ct<script>"),
            _element(0x00080020, b"DA", b"2026.01.31"),
        ),
    )
    assert header.patient_id == "47112026-01-01 [error] forged"
    assert (header.modality, header.study_date) == ("CTSCRIPT", "20260131")


@pytest.mark.parametrize(
    ("value", "date"),
    [(b"20260131", "20260131"), (b"2026.01.31", "20260131"), (b"31.01.2026", ""), (b"2026", ""), (b"00010101", "")],
)
def test_what_is_no_date_is_not_shown_as_another(tmp_path: Path, value: bytes, date: str) -> None:
    assert _read(tmp_path, _minimal(_element(0x00080020, b"DA", value))).study_date == date


def test_the_data_set_may_begin_anywhere(tmp_path: Path) -> None:
    buffer = BytesIO()
    ds = make_ct()
    ds.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    assert _read(tmp_path, content, offset=content.index(b"\x08\x00\x16\x00UI")).sop_instance_uid == ds.SOPInstanceUID
