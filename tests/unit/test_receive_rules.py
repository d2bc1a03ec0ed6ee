"""The rules of reception that need no network: who is invited, how many, what is scored, what is the same object."""

import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from pynetdicom.presentation import AllStoragePresentationContexts, StoragePresentationContexts

from tests.support.reception import deflated, make_ct
from triage.config.schema import Configuration, Destination, Peer
from triage.conformance import conformance_statement
from triage.receive.contexts import (
    STORAGE_SOP_CLASSES,
    TRANSFER_SYNTAXES,
    modality_of,
    not_scored_reason,
    supported_contexts,
)
from triage.receive.limits import MAX_PENDING, MAX_PENDING_PER_ADDRESS, Connections
from triage.receive.peers import is_invited, sanitised_ae_title
from triage.receive.same import same_content
from triage.store import encode_file_meta

PEERS = (
    Peer(ae_title="CT1", address="10.0.0.0/24"),
    Peer(ae_title="CR1", address="192.168.1.7"),
    Peer(ae_title="V6", address="fd00::/8"),
)


@pytest.mark.parametrize(
    ("title", "address", "invited"),
    [
        ("CT1", "10.0.0.200", True),
        ("CT1 ", "10.0.0.200", True),
        ("CT1", "::ffff:10.0.0.200", True),
        ("CT1", "10.0.1.1", False),
        ("ct1", "10.0.0.200", False),
        ("CR1", "10.0.0.200", False),
        ("CR1", "192.168.1.7", True),
        ("V6", "fd12::1", True),
        ("V6", "fd12::1%eth0", True),
        ("V6", "10.0.0.1", False),
        ("CT1", "::1", False),
        ("", "10.0.0.1", False),
    ],
)
def test_the_allow_list(title: str, address: str, invited: bool) -> None:
    assert is_invited(PEERS, title, address) is invited


def test_without_a_list_anybody_may_come() -> None:
    assert is_invited((), "WHOEVER", "203.0.113.9")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("CT1", "CT1"),
        ("A\n[error] forged", "A?[error] forged"),
        ("\x1b[31mRED", "?[31mRED"),
        (None, ""),
        ("A" * 99, "A" * 16),
        ("é\\", "??"),
    ],
)
def test_titles_are_fit_for_logs(raw: object, shown: str) -> None:
    assert sanitised_ae_title(raw) == shown


@pytest.fixture
def pairs() -> "list[tuple[socket.socket, socket.socket]]":
    return [socket.socketpair() for _ in range(100)]


def _is_cut(pair: "tuple[socket.socket, socket.socket]") -> bool:
    pair[1].setblocking(False)
    try:
        return pair[1].recv(1) == b""
    except BlockingIOError:
        return False


def test_the_oldest_silent_connection_makes_way(pairs: "list[tuple[socket.socket, socket.socket]]") -> None:
    book = Connections(4, 2)
    opened = [book.open(pair[0], "10.0.0.1") for pair in pairs[: MAX_PENDING_PER_ADDRESS + 1]]
    assert [_is_cut(pair) for pair in pairs[: len(opened)]] == [True] + [False] * MAX_PENDING_PER_ADDRESS
    for number, pair in enumerate(pairs[len(opened) :]):
        book.open(pair[0], f"10.0.1.{number}")
    assert book.counts() == (MAX_PENDING, 0)


def test_associations_have_places(pairs: "list[tuple[socket.socket, socket.socket]]") -> None:
    book = Connections(3, 2)
    a1, a2, a3 = (book.open(pair[0], "10.0.0.1") for pair in pairs[:3])
    b1, b2 = (book.open(pair[0], "10.0.0.2") for pair in pairs[3:5])
    assert [book.associate(c) for c in (a1, a2, a3)] == [True, True, False]
    assert [book.associate(c) for c in (b1, b2)] == [True, False]
    book.close(a1)
    book.close(a1)
    assert book.associate(b2)
    assert book.counts() == (0, 3)
    book.cut_all()
    assert [_is_cut(pair) for pair in pairs[:5]] == [False, True, False, True, True]


def test_what_is_scored() -> None:
    assert not_scored_reason(CTImageStorage) == ""
    assert not_scored_reason(DigitalXRayImageStorageForProcessing) == ""
    assert not_scored_reason(BasicTextSRStorage) == "not scored: Basic Text SR Storage"


@pytest.mark.parametrize(
    ("sop_class_uid", "said", "modality"),
    [
        (CTImageStorage, "CT", "CT"),
        (CTImageStorage, "", "CT"),
        (CTImageStorage, "OT", "CT"),
        (DigitalXRayImageStorageForProcessing, "CR", "CR"),
        (CTImageStorage, "DX", "CT"),
        (DigitalXRayImageStorageForProcessing, "OT", "DX"),
        (DigitalXRayImageStorageForProcessing, "MG", "MG"),
        (BasicTextSRStorage, "SR", "SR"),
        (BasicTextSRStorage, "", ""),
    ],
)
def test_what_is_scored_has_a_modality_whatever_its_header_says(sop_class_uid: str, said: str, modality: str) -> None:
    assert modality_of(sop_class_uid, said) == modality


def test_every_storage_class_in_every_syntax() -> None:
    contexts = {str(c.abstract_syntax): c for c in supported_contexts()}
    for context in AllStoragePresentationContexts:
        assert tuple(contexts[str(context.abstract_syntax)].transfer_syntax) == TRANSFER_SYNTAXES
    assert {str(c.abstract_syntax) for c in StoragePresentationContexts} < set(contexts)
    assert len(contexts) == len(STORAGE_SOP_CLASSES) + 2
    commitment = contexts["1.2.840.10008.1.20.1"]
    assert (commitment.scu_role, commitment.scp_role) == (False, True)
    assert len(TRANSFER_SYNTAXES) == len(set(TRANSFER_SYNTAXES)) == 16


def _save(ds: Dataset, folder: Path, syntax: str) -> Path:
    path = folder / f"{syntax}.dcm"
    ds.file_meta.TransferSyntaxUID = syntax
    implicit = syntax == ImplicitVRLittleEndian
    little = syntax != ExplicitVRBigEndian
    ds.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return path


def _same(one: Path, other: Path) -> bool:
    with one.open("rb") as first, other.open("rb") as second:
        return same_content(first, second)


def test_the_same_object_in_other_encodings(tmp_path: Path) -> None:
    ds = make_ct()
    ds.ReferencedStudySequence = [Dataset()]
    ds.ReferencedStudySequence[0].ReferencedSOPInstanceUID = "1.2"
    ds["ReferencedStudySequence"].is_undefined_length = True
    explicit = _save(ds, tmp_path, ExplicitVRLittleEndian)
    ds["ReferencedStudySequence"].is_undefined_length = False
    implicit = _save(ds, tmp_path, ImplicitVRLittleEndian)
    smaller = _save(ds, tmp_path, DeflatedExplicitVRLittleEndian)
    ds.PixelData = b"".join(ds.PixelData[i : i + 2][::-1] for i in range(0, 512, 2))
    ds["PixelData"].VR = "OW"
    big = _save(ds, tmp_path, ExplicitVRBigEndian)
    assert _same(explicit, implicit)
    assert _same(explicit, big)
    assert _same(explicit, smaller)


def test_objects_with_other_pixels_are_different(tmp_path: Path) -> None:
    ds = make_ct()
    explicit = _save(ds, tmp_path, ExplicitVRLittleEndian)
    ds.PixelData = ds.PixelData[::-1]
    assert not _same(explicit, _save(ds, tmp_path, ImplicitVRLittleEndian))


COMPARE = """
import resource, sys
from triage.receive.same import same_content

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open(sys.argv[1], "rb") as one, open(sys.argv[1], "rb") as other:
    print(same_content(one, other), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_a_deflate_bomb_is_not_compared(tmp_path: Path) -> None:
    """In a process of its own: memory is counted for as long as a process lives."""
    bomb = tmp_path / "bomb.dcm"
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, 400 << 20)
    meta = encode_file_meta(CTImageStorage, "1.2.3", DeflatedExplicitVRLittleEndian)
    bomb.write_bytes(meta + deflated(pixels, *[bytes(1 << 20)] * 400))
    assert bomb.stat().st_size < 1 << 20
    command = [sys.executable, "-c", COMPARE, str(bomb)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.split()
    assert answer[0] == "False"
    assert int(answer[1]) < 700


def test_other_objects_and_compressed_ones_are_different(tmp_path: Path) -> None:
    ds = make_ct()
    explicit = _save(ds, tmp_path, ExplicitVRLittleEndian)
    ds.StudyDescription = "CHEST"
    assert not _same(explicit, _save(ds, tmp_path, ImplicitVRLittleEndian))
    ds.StudyDescription = "HEAD"
    ds.compress(RLELossless, generate_instance_uid=False)
    compressed = tmp_path / "rle.dcm"
    ds.save_as(compressed, enforce_file_format=True)
    assert not _same(explicit, compressed)


def test_the_conformance_statement_says_what_runs() -> None:
    config = Configuration(
        listen={
            "ae_title": "NODE7",
            "port": 11999,
            "min_free_gib": 7,
            "peer": [{"ae_title": "CT1", "address": "10.0.0.0/24"}],
        },
        destination=[
            Destination(name="pacs", host="pacs.example", port=104, ae_title="PACS", storage_commitment=False)
        ],
    )
    text = conformance_statement(config)
    for expected in (
        "NODE7",
        ":11999",
        "7 GiB",
        "CT1",
        "10.0.0.0/24",
        "PACS@pacs.example:104",
        "C-FIND",
        "A700",
    ):
        assert expected in text
    for uid in (*TRANSFER_SYNTAXES, *(c.abstract_syntax for c in AllStoragePresentationContexts)):
        assert str(uid) in text
    assert "any" in conformance_statement(Configuration()).split("Callers accepted")[1].split("3.")[0]
