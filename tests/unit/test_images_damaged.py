"""DICOM files with wrong lengths and representations: what can't be decoded counts as absent, nothing else is lost.

What the operating system says is another matter: it is raised as it is.
"""

import errno
from pathlib import Path

import pydicom
import pytest

from tests.support.images import GRIDS, Store, by_position, score_input
from tests.support.peers import shared
from triage.errors import NotScoredError
from workers.images.dicom_file import read_dicom
from workers.images.sources import BCT, Source
from workers.lab.evaluation.cases import dicom_cases
from workers.lab.folders import listed, read_each

pytest_plugins = ["tests.support.images"]


@pytest.fixture
def chest() -> Path:
    return sorted(shared("data", "dicom_cxr").glob("*.dcm"))[0]


def damaged(chest: Path, to: Path, tag: int, vr: bytes, wrong: bytes) -> Path:
    """Write a copy in which the element's representation, or its value, is wrong."""
    ds = pydicom.dcmread(chest)
    data = bytearray(chest.read_bytes())
    head = tag.to_bytes(4, "big")
    needle = bytes([head[1], head[0], head[3], head[2]]) + vr
    place = data.index(needle)
    data[place + 4 : place + 6] = wrong
    to.write_bytes(bytes(data))
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    return to


def test_an_element_of_an_impossible_length_counts_as_absent(chest: Path, tmp_path: Path) -> None:
    # As FD a value takes 8 bytes; what is there is shorter.
    path = damaged(chest, tmp_path / "one.dcm", 0x00280010, b"US", b"FD")
    with pytest.raises(pydicom.errors.BytesLengthException):
        _ = pydicom.dcmread(path).Rows
    ds = read_dicom(path)
    assert "Rows" not in ds
    assert ds.Columns == pydicom.dcmread(chest).Columns


def test_the_whole_is_refused_by_what_is_missing_not_by_an_exception(chest: Path, tmp_path: Path) -> None:
    path = damaged(chest, tmp_path / "one.dcm", 0x00280010, b"US", b"FD")
    header = Source("1.2", path).header()
    assert header.get("Rows") is None


def test_no_dicom_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.dcm"
    path.write_bytes(b"nothing" * 100)
    with pytest.raises(NotScoredError, match="cannot be read"):
        read_dicom(path)


def test_what_the_operating_system_refuses_is_no_verdict_on_the_image(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_dicom(tmp_path / "no.dcm")
    with pytest.raises(IsADirectoryError):
        Source("1.2", tmp_path).header()


@pytest.mark.parametrize("says", [OSError("image file is truncated"), OSError(errno.EINVAL, "Invalid argument")])
def test_what_a_parser_says_of_bytes_that_it_read_is_one(
    chest: Path, monkeypatch: pytest.MonkeyPatch, says: OSError
) -> None:
    def parse(*_: object, **__: object) -> None:
        raise says

    monkeypatch.setattr(pydicom, "dcmread", parse)
    with pytest.raises(NotScoredError, match="cannot be read"):
        read_dicom(chest)


def test_a_slice_that_cannot_be_read_now_is_not_left_out(store: Store, head: list[pydicom.Dataset]) -> None:
    sources = store(by_position(head))
    sources[-1].path.unlink()
    with pytest.raises(FileNotFoundError):
        score_input(sources)


def test_in_the_laboratory_a_file_that_cannot_be_read_is_left_out(
    tmp_path: Path, store: Store, head: list[pydicom.Dataset]
) -> None:
    sources = store(head)
    (tmp_path / "away.dcm").symlink_to(tmp_path / "elsewhere")
    [found] = listed(tmp_path)
    assert len(found.paths) == len(sources)
    assert len(dicom_cases(tmp_path, [tmp_path / "away.dcm", found.paths[0]], GRIDS[BCT], BCT)) == 1
    sources[0].path.unlink()
    assert len(read_each([found], GRIDS[BCT], BCT).keys) == 0
