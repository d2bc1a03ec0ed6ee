"""Every status of C-STORE, provoked for real over an association."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)
from pynetdicom import build_context
from pynetdicom.association import Association
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from tests.support.peers import missing, wait_until
from tests.support.reception import (
    Node,
    associate,
    echoes,
    encoded,
    make_config,
    make_ct,
    running,
    send_one,
    send_raw,
    subprocess_listener,
)
from triage.ledger import State, open_ledger

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
EXPLICIT = [ExplicitVRLittleEndian]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running(tmp_path / "data") as running_node:
        yield running_node


@pytest.fixture
def assoc(node: Node) -> Iterator[Association]:
    contexts = [build_context(CTImageStorage, EXPLICIT), build_context(ComputedRadiographyImageStorage, EXPLICIT)]
    association = associate(node.port, contexts)
    assert association.is_established
    yield association
    if association.is_established:
        association.release()


def _kept_nothing(node: Node) -> bool:
    return not node.objects() and not node.incoming() and not node.ledger.studies(None, 10)


def test_stored(node: Node) -> None:
    ds = make_ct()
    assert send_one(node.port, ds).Status == 0x0000
    instance = node.ledger.find_instance(ds.SOPInstanceUID)
    assert instance is not None
    assert (instance.calling_ae_title, instance.calling_address, instance.scorable) == ("MODALITY1", "127.0.0.1", True)
    kept = node.store.read(instance.digest)
    assert kept == ds
    assert kept.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    study = node.ledger.study(ds.StudyInstanceUID)
    assert (study.state, study.patient_name, study.modality) == (State.RECEIVING, "Doe^Jane", "CT")
    assert not node.incoming()


def test_what_is_never_scored_is_stored_with_its_reason(node: Node) -> None:
    ds = make_ct(SOPClassUID=BasicTextSRStorage, Modality="SR")
    assert send_one(node.port, ds).Status == 0x0000
    instance = node.ledger.find_instance(ds.SOPInstanceUID)
    assert instance is not None
    assert (instance.scorable, instance.not_scored) == (False, "not scored: Basic Text SR Storage")


def test_a_duplicate_changes_nothing(node: Node) -> None:
    ds = make_ct()
    assert send_one(node.port, ds).Status == 0x0000
    study = node.ledger.study(ds.StudyInstanceUID)
    events = node.ledger.events(study.id)
    assert send_one(node.port, ds).Status == 0x0000
    again = node.ledger.study(ds.StudyInstanceUID)
    assert (again.instance_count, again.last_object_at) == (1, study.last_object_at)
    assert node.ledger.events(study.id) == events
    assert len(node.objects()) == 1


def test_the_same_in_another_uncompressed_syntax_is_a_duplicate(node: Node) -> None:
    ds = make_ct()
    assert send_one(node.port, ds).Status == 0x0000
    before = node.objects()
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = BytesIO()
    ds.save_as(buffer, implicit_vr=True, little_endian=True, enforce_file_format=True)
    assert send_one(node.port, ds).Status == 0x0000
    assert node.objects() == before


def test_a_different_object_under_a_known_uid_is_refused(node: Node) -> None:
    ds = make_ct()
    assert send_one(node.port, ds).Status == 0x0000
    before = node.objects()
    ds.StudyDescription = "ANOTHER"
    with capture_logs() as logs:
        status = send_one(node.port, ds)
    assert status.Status == 0xC001
    assert "different object" in status.ErrorComment
    assert node.objects() == before
    conflict = next(entry for entry in logs if entry["event"] == "conflicting_object")
    assert conflict["study"] == node.ledger.study(ds.StudyInstanceUID).id
    assert ds.SOPInstanceUID not in str(logs)
    assert "Doe" not in str(logs)


def test_the_same_but_compressed_is_refused(node: Node) -> None:
    ds = make_ct()
    assert send_one(node.port, ds).Status == 0x0000
    ds.compress(RLELossless, generate_instance_uid=False)
    assert send_one(node.port, ds).Status == 0xC001
    assert len(node.objects()) == 1


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID"])
@pytest.mark.parametrize("missing_it", [True, False])
def test_mismatch(node: Node, assoc: Association, keyword: str, missing_it: bool) -> None:
    ds = make_ct(SOPInstanceUID="1.2.3")
    if missing_it:
        del ds[keyword]
    else:
        setattr(ds, keyword, "1.2.840.10008.5.1.4.1.1.1")
    response = send_raw(assoc, encoded(ds), sop_class=CTImageStorage)
    assert response.Status == 0xA900
    assert _kept_nothing(node)


@pytest.mark.parametrize(
    "content",
    [b"\x08\0", b"rubbish that is no data set at all", encoded(make_ct(SOPInstanceUID="1.2.3"))[:-100]],
    ids=["nothing", "rubbish", "truncated"],
)
def test_cannot_be_parsed(node: Node, assoc: Association, content: bytes) -> None:
    assert send_raw(assoc, content, sop_class=CTImageStorage).Status == 0xC000
    assert _kept_nothing(node)
    assert assoc.is_established


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "../../../../tmp/evil", "1.2.3/4"])
def test_study_and_series_need_a_uid(node: Node, assoc: Association, keyword: str, value: str | None) -> None:
    ds = make_ct(SOPInstanceUID="1.2.3")
    del ds[keyword]
    if value is not None:
        # As a text: pydicom would refuse it as a UID.
        ds.add_new(keyword, "LO", value)
    response = send_raw(assoc, encoded(ds), sop_class=CTImageStorage)
    assert response.Status == 0xC000
    assert "Instance UID" in str(response.ErrorComment)
    assert _kept_nothing(node)


@pytest.mark.parametrize("instance", ["../../../../tmp/evil", "1.2.3\\4", "1." * 40 + "1", "", None, "a.b"])
def test_the_commands_uid_breaks_the_rules(node: Node, assoc: Association, instance: str | None) -> None:
    response = send_raw(assoc, encoded(make_ct(SOPInstanceUID="1.2.3")), sop_class=CTImageStorage, instance=instance)
    assert response.Status == 0xC000
    assert _kept_nothing(node)
    # The association survives it.
    good = make_ct()
    assert assoc.send_c_store(good).Status == 0x0000


def test_a_class_that_is_not_the_contexts(node: Node, assoc: Association) -> None:
    for sop_class in (ComputedRadiographyImageStorage, "1.2.840.10008.1.1", "1.2.3.4.5"):
        ds = make_ct(SOPInstanceUID="1.2.3", SOPClassUID=sop_class)
        assert send_raw(assoc, encoded(ds), sop_class=sop_class).Status == 0x0122
    assert _kept_nothing(node)
    assert assoc.send_c_store(make_ct()).Status == 0x0000


def test_an_unknown_class_gets_no_context(node: Node) -> None:
    association = associate(node.port, [build_context("1.2.3.4.5", EXPLICIT), build_context(CTImageStorage, EXPLICIT)])
    assert [str(c.abstract_syntax) for c in association.accepted_contexts] == [CTImageStorage]
    association.release()


def test_the_watermark(tmp_path: Path) -> None:
    with running(tmp_path / "data", min_free_gib=1_000_000) as node:
        status = send_one(node.port, make_ct())
        assert status.Status == 0xA700
        assert "disk" in status.ErrorComment
        assert _kept_nothing(node)
        assert echoes(node.port)


@pytest.mark.parametrize("first", [200_000, 3_000_000], ids=["fits at first", "never fits"])
def test_a_full_disk(tmp_path: Path, first: int) -> None:
    """A real, small file system that fills up."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=2000", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        missing("mounting a small file system needs root")
    try:
        with (
            closing(open_ledger(make_config(tmp_path / "elsewhere"))) as ledger,
            running(disk / "data", ledger) as node,
        ):
            statuses = [send_one(node.port, make_ct(PixelData=bytes(first))).Status for _ in range(20)]
            stored = statuses.count(0x0000)
            assert set(statuses) <= {0x0000, 0xA700}
            assert statuses[-1] == 0xA700
            assert len(node.objects()) == stored == len(node.ledger.studies(None, 100))
            assert (stored > 0) == (first < 2_000_000)
            assert not node.incoming()
            # Room again: the same listener goes on.
            for path in node.objects():
                path.unlink()
            assert send_one(node.port, make_ct()).Status == 0x0000
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_limit_on_file_size(tmp_path: Path) -> None:
    """The process may write no large file: as with a full quota, the sender is told to come again."""
    program = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
os.execv(sys.argv[1], sys.argv[1:])
"""
    with subprocess_listener(tmp_path / "data", sys.executable, "-c", program) as (_, port):
        assert send_one(port, make_ct(PixelData=bytes(3_000_000))).Status == 0xA700
        assert send_one(port, make_ct()).Status == 0x0000


class _Ledger:
    """A ledger that is in trouble."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def record_instance(self, obj: Any) -> Any:
        raise self.error

    def find_instance(self, uid: str) -> Any:
        raise self.error

    def association_released(self, association_id: str, at: float) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("insert", {"name": "Doe"}, sqlite3.OperationalError("database is locked")),
        OperationalError("insert", {"name": "Doe"}, sqlite3.OperationalError("database or disk is full")),
        RuntimeError("a mistake of ours about Doe"),
    ],
    ids=["locked", "full", "bug"],
)
def test_the_ledger_is_unavailable(tmp_path: Path, error: Exception) -> None:
    with running(tmp_path / "data", ledger=_Ledger(error)) as node:
        status = send_one(node.port, make_ct())
        assert status.Status == 0xA700
        assert "Doe" not in str(status)
        assert echoes(node.port)


def test_a_locked_sqlite_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody holds the database for longer than anybody waits."""
    monkeypatch.setattr("triage.ledger.engine.BUSY_TIMEOUT_S", 1.0, raising=False)
    with running(tmp_path / "data") as node:
        lock = sqlite3.connect(node.config.data_dir / "ledger.sqlite3", isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        assert send_one(node.port, make_ct()).Status == 0xA700
        lock.execute("ROLLBACK")
        lock.close()
        assert send_one(node.port, make_ct()).Status == 0x0000


def test_names_in_any_character_set(node: Node) -> None:
    ds = make_ct()
    ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    ds.PatientName = "Yamada^Tarou=山田^太郎"
    assert send_one(node.port, ds).Status == 0x0000
    assert node.ledger.study(ds.StudyInstanceUID).patient_name == "Yamada^Tarou=山田^太郎"


def test_the_release_is_told_and_an_abort_is_not(node: Node) -> None:
    released, aborted = make_ct(), make_ct()
    assert send_one(node.port, released).Status == 0x0000
    association = associate(node.port, [build_context(CTImageStorage, EXPLICIT)])
    assert association.send_c_store(aborted).Status == 0x0000
    association.abort()
    wait_until(lambda: node.ledger.study(released.StudyInstanceUID).released_at is not None, what="the release")
    wait_until(lambda: node.listener.connections.counts() == (0, 0), what="the end of both associations")
    assert node.ledger.study(aborted.StudyInstanceUID).released_at is None


def test_instances_without_a_file_suffix_or_type_2_attributes(node: Node) -> None:
    ds = make_ct()
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyDate", "StudyDescription", "Modality"):
        del ds[keyword]
    ds.SOPInstanceUID = generate_uid()
    assert send_one(node.port, ds).Status == 0x0000
    assert node.ledger.study(ds.StudyInstanceUID).patient_name == ""
