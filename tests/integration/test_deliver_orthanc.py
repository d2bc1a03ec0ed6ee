"""Delivery to a real Orthanc: committed by its reports, stopped and started, never doubled."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from structlog.testing import capture_logs

from tests.support.delivery import FAST, PostOffice, breaker_is, delivering, post_office
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.pacs import Pacs, running_pacs
from tests.support.peers import free_port, wait_until
from tests.support.reports import header
from triage.config.schema import Destination
from triage.deliver import PROOF_FIND, PROOF_NONE, CommitmentReports, DeliveryPolicy, Negotiator
from triage.ledger import OutboxItem, OutboxNew, OutboxState, State
from triage.receive.listener import Listener
from triage.sop_classes import SR_CLASSES

pytestmark = pytest.mark.orthanc

# Long enough that only a report, never a query, can have proved what these tests see committed.
REPORTS_ONLY = DeliveryPolicy(**{**FAST.__dict__, "report_after_s": 600.0})


@contextmanager
def office_for(folder: Path, orthanc: Orthanc, *others: Destination, register: bool = True) -> Iterator[PostOffice]:
    """A post office with a listener whose port Orthanc knows."""
    port = free_port()
    if register:
        orthanc.register("triage", "TRIAGE", port)
    destinations = [Destination(**orthanc.destination), *others]
    with (
        post_office(folder / "node", destinations, port) as office,
        Listener(office.config, office.ledger, office.store, CommitmentReports(office.ledger)),
    ):
        yield office


def rebuilder(office: PostOffice, *numbers: object):
    """Return what rebuilds the reports of studies of these numbers."""

    def rebuild(item: OutboxItem, sop_class_uid: str) -> OutboxNew:
        [number] = [n for n in numbers if office.study(n).id == item.study_id]
        return office.build(number, sop_class_uid)

    return rebuild


def test_orthanc_commits(tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc") as orthanc, office_for(tmp_path, orthanc) as office:
        office.post(1, 2, 3)
        with delivering(office, REPORTS_ONLY, rebuilder(office, 1, 2, 3)):
            items = office.wait_for(OutboxState.COMMITTED)
        assert {item.proof for item in items} == {"storage commitment"}
        assert [office.study(n).state for n in (1, 2, 3)] == [State.DELIVERED] * 3
        assert orthanc.count_reports() == 3
        for item in items:
            [stored] = orthanc.find(SOPInstanceUID=item.sop_instance_uid)
            assert _content(orthanc.file(stored)) == _content(office.store.read_bytes(item.digest))


def test_orthanc_says_which_class_it_accepts(tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        assert Negotiator("TRIAGE")(Destination(**orthanc.destination)) in SR_CLASSES


def test_reports_lie_in_the_images_study(tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc") as orthanc, office_for(tmp_path, orthanc) as office:
        buffer = BytesIO()
        dcmwrite(buffer, header(study=1), enforce_file_format=True)
        orthanc.upload(buffer.getvalue())
        office.post(1)
        with delivering(office, REPORTS_ONLY, rebuilder(office, 1)):
            office.wait_for(OutboxState.COMMITTED)
        [study] = orthanc.get("/studies")
        modalities = {
            orthanc.get(f"/series/{s}")["MainDicomTags"]["Modality"] for s in orthanc.get(f"/studies/{study}")["Series"]
        }
        assert modalities == {"CR", "SR"}
        assert orthanc.count_reports(str(header(study=1).StudyInstanceUID)) == 1


def test_what_was_posted_while_orthanc_was_away_arrives_when_it_is_back(tmp_path: Path) -> None:
    orthanc = Orthanc(tmp_path / "orthanc")
    other = Pacs(name="other", ae_title="OTHER", commitment="same")
    with running_pacs(other), office_for(tmp_path, orthanc, other.destination) as office:
        rebuild = rebuilder(office, 1, 2, 3)
        with capture_logs() as logs, delivering(office, REPORTS_ONLY, rebuild):
            office.post(1, 2)
            office.wait_for(OutboxState.COMMITTED, "other")
            wait_until(lambda: breaker_is(logs, "pacs") == "open", what="an open breaker")
            assert breaker_is(logs, "other") == "closed"
            assert set(office.states("pacs")) == {OutboxState.PENDING}
            try:
                orthanc.start()
                office.wait_for(OutboxState.COMMITTED, "pacs")
                orthanc.stop()
                office.post(3)
                wait_until(lambda: breaker_is(logs, "pacs") == "open", what="an open breaker again")
                orthanc.start()
                office.wait_for(OutboxState.COMMITTED, "pacs")
                assert orthanc.count_reports() == 3
            finally:
                orthanc.stop()


def test_orthanc_that_does_not_know_us_proves_nothing_but_keeps_one_of_each(tmp_path: Path) -> None:
    # An unregistered node may store, but neither query nor ask for commitment.
    with running_orthanc(tmp_path / "orthanc") as orthanc, office_for(tmp_path, orthanc, register=False) as office:
        office.post(1)
        with delivering(office, rebuild=rebuilder(office, 1)):
            [item] = office.wait_for(OutboxState.COMMITTED)
        assert item.proof == PROOF_NONE
        assert orthanc.count_reports() == 1


def test_orthanc_is_queried_when_its_report_cannot_reach_us(tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc") as orthanc, office_for(tmp_path, orthanc) as office:
        orthanc.register("triage", "TRIAGE", free_port())
        office.post(1)
        with delivering(office, rebuild=rebuilder(office, 1)):
            assert office.wait_for(OutboxState.COMMITTED)[0].proof == PROOF_FIND


def _content(file: bytes) -> bytes:
    return file[132 + 12 + dcmread(BytesIO(file)).file_meta.FileMetaInformationGroupLength :]
