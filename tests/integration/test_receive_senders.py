"""Real senders: dcmtk's programs, our own `send`, a whole collection of odd files, many at once."""

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1, generate_uid
from pynetdicom import build_context
from pynetdicom.dsutils import split_dataset
from pynetdicom.presentation import AllStoragePresentationContexts, StoragePresentationContexts
from pynetdicom.sop_class import StorageCommitmentPushModel
from typer.testing import CliRunner

from tests.support.cli import run
from tests.support.pacs import Pacs, running_pacs
from tests.support.peers import dcmtk_environment, find_program, wait_until
from tests.support.reception import Node, associate, has_file_meta, make_ct, running, send_one
from tests.support.studies import chest_studies, dcmsend
from triage.errors import InvalidUIDError
from triage.receive.contexts import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from triage.scu import find_items, plan, send_files
from triage.store import ObjectStore
from triage.uids import checked_uid

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running(tmp_path / "data") as running_node:
        yield running_node


def _dcmtk(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [find_program(program), *arguments],
        env=dcmtk_environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def _data_set_bytes(path: Path) -> bytes:
    _, offset = split_dataset(path)
    return path.read_bytes()[offset:]


def _files_with_meta(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and has_file_meta(p))


@pytest.mark.dcmtk
def test_echoscu(node: Node) -> None:
    assert _dcmtk("echoscu", "-aec", "TRIAGE", "127.0.0.1", str(node.port)).returncode == 0
    assert _dcmtk("echoscu", "-aec", "SOMEBODY", "127.0.0.1", str(node.port)).returncode != 0


@pytest.mark.dcmtk
def test_dcmsend_sends_a_real_series(node: Node, collection: Path) -> None:
    series = collection / "ct_head" / "ge_gantry_tilt"
    sent = _dcmtk("dcmsend", "-aec", "TRIAGE", "127.0.0.1", str(node.port), "+sd", str(series))
    assert sent.returncode == 0, sent.stderr
    assert len(node.objects()) == 28
    (study,) = node.ledger.studies(None, 10)
    assert (study.instance_count, study.modality) == (28, "CT")


@pytest.mark.dcmtk
def test_a_refused_object_is_not_taken_for_a_stored_one(tmp_path: Path) -> None:
    """By `dcmsend` of these tests: what it sent counts as acknowledged in every test that kills something."""
    [study] = chest_studies(1)
    with (
        running(tmp_path / "full", min_free_gib=1e6) as full,
        pytest.raises(subprocess.SubprocessError, match="0xa700"),
    ):
        dcmsend(study.files, full.port)
    with running(tmp_path / "data") as node:
        dcmsend(study.files, node.port)
        assert len(node.objects()) == len(study.files)


@pytest.mark.dcmtk
@pytest.mark.parametrize("option", ["-xi", "-xe", "-xb"], ids=["implicit", "explicit", "big endian"])
def test_storescu_in_other_syntaxes(node: Node, collection: Path, option: str) -> None:
    file = collection / "ct_head" / "ge_gantry_tilt" / "01.dcm"
    sent = _dcmtk("storescu", option, "-aec", "TRIAGE", "127.0.0.1", str(node.port), str(file))
    assert sent.returncode == 0, sent.stderr
    assert len(node.objects()) == 1


# An image in every transfer syntax that the node accepts: those that its decoders test themselves with.
SAMPLES = Path(__file__).parents[2] / "workers" / "images" / "samples"
# Bytes are missing at the end of these.
TRUNCATED = {"dcm4che__3gb-bulk-data-truncated", "pydicom__MR_truncated.dcm", "pydicom__rtplan_truncated.dcm"}
NO_CONTEXT = "does not accept"


def _is_uid(value: object) -> bool:
    try:
        checked_uid(value)
    except InvalidUIDError:
        return False
    return True


def _expected(file: Path) -> str:
    """Return what the reason for a refusal must contain; empty if the file must be stored."""
    ds = dcmread(file, stop_before_pixels=True)
    meta = ds.file_meta
    sop_class, instance = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    if sop_class not in STORAGE_SOP_CLASSES or meta.TransferSyntaxUID not in TRANSFER_SYNTAXES:
        return NO_CONTEXT
    if not _is_uid(instance) or file.name in TRUNCATED:
        return "C000"
    if (ds.get("SOPClassUID"), ds.get("SOPInstanceUID")) != (sop_class, instance):
        # Study and series are looked at first: an object without them is not even a wrong one.
        return "C000" if not _is_uid(ds.get("StudyInstanceUID")) and "SOPClassUID" in ds else "A900"
    if not _is_uid(ds.get("StudyInstanceUID")) or not _is_uid(ds.get("SeriesInstanceUID")):
        return "C000"
    return ""


def test_the_whole_collection(node: Node, collection: Path) -> None:
    files = _files_with_meta(collection)
    assert len(files) > 130
    sent = send_files([collection], "127.0.0.1", node.port, "TRIAGE")
    outcome = {Path(file).name: reason for file, reason in sent.failures.items()}
    wrong = {}
    for file in files:
        expected, reason = _expected(file), outcome.get(file.name, "")
        # Some files of the collection are other encodings of one SOP instance: the first one stays.
        right = expected in reason if expected else reason == "" or "C001" in reason
        if not right:
            wrong[file.name] = (expected, reason)
    assert not wrong
    assert sent.stored + sent.failed == len(files)
    assert sent.stored > 90
    for path in node.objects():
        instance = node.ledger.find_instance(dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        assert instance is not None
        assert instance.digest == path.stem


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda uid: uid.name)
def test_every_transfer_syntax_is_kept_byte_for_byte(node: Node, tmp_path: Path, syntax: str) -> None:
    ds = dcmread(SAMPLES / f"{syntax}.dcm")
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = (generate_uid() for _ in range(3))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    file = tmp_path / "sample.dcm"
    _save(ds, file)
    sent = send_files([file], "127.0.0.1", node.port, "TRIAGE")
    assert (sent.stored, sent.failures) == (1, {})
    (kept,) = node.objects()
    assert _data_set_bytes(kept) == _data_set_bytes(file)
    assert dcmread(kept, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax


def test_the_acceptors_choice(node: Node) -> None:
    """Uncompressed first where a sender proposes several; a compressed one alone is accepted as it is."""
    contexts = [
        build_context(CTImageStorage, [JPEGLosslessSV1, ImplicitVRLittleEndian, ExplicitVRLittleEndian]),
        build_context(CTImageStorage, [JPEGLosslessSV1]),
    ]
    association = associate(node.port, contexts)
    assert [c.transfer_syntax[0] for c in association.accepted_contexts] == [ExplicitVRLittleEndian, JPEGLosslessSV1]
    association.release()


def test_every_storage_class_is_accepted(node: Node) -> None:
    everything = AllStoragePresentationContexts
    for preset in (StoragePresentationContexts, everything[:128], everything[128:]):
        association = associate(node.port, preset)
        assert len(association.accepted_contexts) == len(preset)
        association.release()


def test_sixteen_senders_at_once(node: Node) -> None:
    studies = [[make_ct(StudyInstanceUID=uid) for _ in range(12)] for uid in (generate_uid() for _ in range(16))]
    statuses: list[int] = []

    def send(objects: list[Dataset]) -> None:
        association = associate(node.port, [build_context(CTImageStorage, [ExplicitVRLittleEndian])])
        for ds in objects:
            statuses.append(association.send_c_store(ds).Status)
        association.release()

    threads = [threading.Thread(target=send, args=(objects,)) for objects in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [0x0000] * 192
    assert len(node.objects()) == 192
    assert {node.ledger.study(objects[0].StudyInstanceUID).instance_count for objects in studies} == {12}


def test_one_object_from_many_senders_is_one(node: Node) -> None:
    ds = make_ct()
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(send_one(node.port, ds).Status)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [0x0000] * 8
    study = node.ledger.study(ds.StudyInstanceUID)
    assert (study.instance_count, len(node.objects()), len(node.ledger.events(study.id))) == (1, 1, 1)


def test_a_commitment_report_reaches_the_deliverer(tmp_path: Path) -> None:
    seen: list[Any] = []

    def hook(event: Any) -> int:
        seen.append((event.event_type, event.event_information.TransactionUID))
        return 0x0000

    with running(tmp_path / "data", hook=hook) as node:
        status = _report_commitment(node.port)
        assert status.Status == 0x0000
        assert seen == [(1, "1.2.3")]


def test_a_failing_deliverer_is_a_processing_failure(tmp_path: Path) -> None:
    def hook(event: Any) -> int:
        raise RuntimeError("trouble")

    with running(tmp_path / "data", hook=hook) as node:
        assert _report_commitment(node.port).Status == 0x0110


def _report_commitment(port: int) -> Dataset:
    from pynetdicom import build_role

    association = associate(
        port,
        [build_context(StorageCommitmentPushModel)],
        ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
    )
    assert association.is_established
    report = Dataset()
    report.TransactionUID = "1.2.3"
    status, _ = association.send_n_event_report(report, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
    association.release()
    return status


# --- our own sender ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0x0000, 0x0107, 0x0111, 0xB007])
def test_what_means_stored_for_a_delivery_means_so_for_send(tmp_path: Path, status: int) -> None:
    file = tmp_path / "ct.dcm"
    make_ct().save_as(file, enforce_file_format=True)
    with running_pacs(Pacs(sop_classes=(CTImageStorage,), status=lambda n: status)) as pacs:
        sent = send_files([file], "127.0.0.1", pacs.port, pacs.ae_title)
    assert (sent.stored, sent.failures) == (1, {})


@pytest.mark.parametrize("title", ["", "SEVENTEENCHARSXXX", "A\\B", "A\tB"])
def test_send_takes_the_titles_that_the_configuration_takes(tmp_path: Path, title: str) -> None:
    make_ct().save_as(tmp_path / "ct.dcm", enforce_file_format=True)
    answer = run("send", "ct.dcm", "--to", "127.0.0.1:1", "--ae", title, cwd=tmp_path)
    assert answer.returncode == 2
    assert "AE title" in answer.stderr


def _save(ds: Dataset, path: Path) -> None:
    ds.save_as(path, enforce_file_format=True)


def _run_send(*arguments: str) -> Any:
    import typer

    from triage.cli.send import send

    app = typer.Typer()
    app.command()(send)
    return CliRunner().invoke(app, list(arguments))


def test_send_reports_and_exits(node: Node, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    _save(make_ct(), folder / "a.dcm")
    (folder / "notes.txt").write_text("no DICOM")
    result = _run_send(str(folder), "--to", f"127.0.0.1:{node.port}", "--ae", "TRIAGE", "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert (told["stored"], told["failed"]) == (1, 0)
    assert list(told["skipped"].values()) == ["not a DICOM file"]
    _save(make_ct(SOPClassUID="1.2.3.4"), folder / "b.dcm")
    result = _run_send(str(folder), "--to", f"127.0.0.1:{node.port}", "--ae", "TRIAGE", "--calling-ae", "ME")
    assert result.exit_code == 1
    assert "1 stored, 1 failed, 1 skipped" in result.stdout
    wait_until(lambda: len(node.objects()) == 1, what="one object")


@pytest.mark.parametrize(
    "arguments",
    [("--to", "nowhere", "--ae", "X"), ("--to", "h:99999", "--ae", "X"), ("--to", "h:104", "--ae", "X" * 17), ()],
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert _run_send(str(tmp_path), *arguments).exit_code == 2


def test_nothing_to_send_is_wrong_usage(tmp_path: Path) -> None:
    assert _run_send(str(tmp_path), "--to", "127.0.0.1:1", "--ae", "X").exit_code == 2


def test_nobody_listens(tmp_path: Path) -> None:
    _save(make_ct(), tmp_path / "a.dcm")
    result = _run_send(str(tmp_path), "--to", "127.0.0.1:1", "--ae", "X")
    assert result.exit_code == 1


def test_more_contexts_than_one_association_holds(node: Node, tmp_path: Path) -> None:
    for number, context in enumerate(AllStoragePresentationContexts):
        _save(make_ct(SOPClassUID=context.abstract_syntax), tmp_path / f"{number}.dcm")
    from triage.scu import Sent

    assert [len(group) for group in plan(find_items([tmp_path], Sent()))] == [128, 42]
    sent = send_files([tmp_path], "127.0.0.1", node.port, "TRIAGE")
    assert (sent.stored, sent.failed) == (170, 0)
    assert ObjectStore(node.config.data_dir).read(node.objects()[0].stem).PatientID == "4711"
