"""How many images does the destination hold? Asked of a pynetdicom SCP that answers in every way, and of Orthanc."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    EnhancedSRStorage,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from tests.support.ledgers import an_object, lease, ledger_config, receive, to_scored
from tests.support.orthanc import running_orthanc
from tests.support.peers import free_port, wait_until
from triage.complete import count_at_destination
from triage.config.schema import Complete, Destination
from triage.dispatch import Completer
from triage.ledger import OutboxNew, open_ledger
from triage.messages import Stage
from triage.sop_classes import SECONDARY_CAPTURE
from triage.store import ObjectStore

UID = "1.2.3.4"


def answer(**attributes: Any) -> Dataset:
    """A C-FIND answer."""
    ds = Dataset()
    ds.StudyInstanceUID = UID
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


@contextmanager
def pacs(
    study: list[Dataset] | int, series: list[Dataset] | int = 0xA900, *, find: bool = True
) -> Iterator[Destination]:
    """A C-FIND SCP that gives these answers at the two levels, or fails with this status."""

    def handle(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        assert event.identifier.StudyInstanceUID == UID
        answers = study if event.identifier.QueryRetrieveLevel == "STUDY" else series
        if isinstance(answers, int):
            yield answers, None
            return
        for ds in answers:
            ds.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
            yield 0xFF00, ds

    ae = AE("PACS")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind if find else Verification)
    port = free_port()
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_FIND, handle)])
    try:
        yield Destination(name="pacs", host="127.0.0.1", port=port, ae_title="PACS")
    finally:
        server.shutdown()


def series(modality: str, number: Any) -> Dataset:
    """A series of so many instances."""
    return answer(SeriesInstanceUID=str(generate_uid()), Modality=modality, NumberOfSeriesRelatedInstances=number)


WITHOUT_COUNT = [answer(ModalitiesInStudy="CT", NumberOfStudyRelatedInstances=None)]


@pytest.mark.parametrize(
    ("study", "at_series", "expected"),
    [
        pytest.param([answer(ModalitiesInStudy="CT", NumberOfStudyRelatedInstances="32")], 0xA900, 32, id="total"),
        pytest.param(
            [answer(ModalitiesInStudy=["CT", "SR"], NumberOfStudyRelatedInstances="35")],
            [series("CT", 30), series("CT", 2), series("SR", 2), series("PR", 1)],
            32,
            id="reports-not-counted",
        ),
        pytest.param(WITHOUT_COUNT, [series("CT", 30), series("CT", 2)], 32, id="total-left-empty"),
        pytest.param(
            [answer(NumberOfStudyRelatedInstances="4")], [series("DX", 3), series("SR", 1)], 3, id="no-modalities"
        ),
        pytest.param(
            [answer(ModalitiesInStudy="SR", NumberOfStudyRelatedInstances="1")], [series("SR", 1)], 0, id="sr"
        ),
        pytest.param([], 0xA900, 0, id="unknown-study"),
        pytest.param(WITHOUT_COUNT, [series("CT", None)], None, id="no-counts-at-all"),
        pytest.param(WITHOUT_COUNT, 0xA900, None, id="series-level-fails"),
        pytest.param(0xC000, 0xC000, None, id="fails"),
    ],
)
def test_the_count(study: list[Dataset] | int, at_series: list[Dataset] | int, expected: int | None) -> None:
    with pacs(study, at_series) as destination:
        assert count_at_destination([destination], UID, "TRIAGE") == expected


def test_our_own_maps_are_no_images_of_the_study() -> None:
    ours, total = series("OT", 2), [answer(ModalitiesInStudy=["CT", "OT"], NumberOfStudyRelatedInstances="34")]
    with pacs(total, [series("CT", 32), ours]) as destination:
        known = {str(ours.SeriesInstanceUID)}
        assert count_at_destination([destination], UID, "TRIAGE", own_series=known) == 32
        assert count_at_destination([destination], UID, "TRIAGE") == 34


def test_a_late_object_waits_for_no_map_of_ours(tmp_path: Path) -> None:
    """The PACS holds the study's two images and the map that we sent for the first of them."""
    ours = series("OT", 1)
    total = [answer(ModalitiesInStudy=["CR", "OT"], NumberOfStudyRelatedInstances="3")]
    complete = Complete(quiet_s={"CR": 500, "CT": 500}, max_wait_s=900, count_at_destination=True)
    with pacs(total, [series("CR", 2), ours]) as destination:
        config = ledger_config(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", tmp_path).model_copy(
            update={"complete": complete, "destination": (destination,)}
        )
        ledger = open_ledger(config)
        job = to_scored(ledger, receive(ledger, UID))
        digest = ObjectStore(tmp_path).put_bytes(part_10("OT", SECONDARY_CAPTURE, str(ours.SeriesInstanceUID)))
        ledger.reported(job.id, job.fence, [OutboxNew("pacs", "heatmap", SECONDARY_CAPTURE, "1.2.3", digest)])
        ledger.record_instance(an_object(UID, 2))
        late = ledger.study(UID)
        ledger.association_released("association-1", time.time())
        assert (late.revision, late.image_count) == (2, 2)
        completer = Completer(config, ledger)
        try:

            def completed_by() -> str:
                completer.sweep()
                return ledger.study(UID).completed_by

            assert wait_until(completed_by) == "count"
            # A map that came back to us is on both sides; one that is damaged leaves it to quiet time and the cap.
            current = ledger.study(UID)
            held = replace(an_object(UID, 3, modality="OT", scorable=False), series_instance_uid=ours.SeriesInstanceUID)
            ledger.record_instance(held)
            assert completer._count(current) == 3
            ObjectStore(tmp_path).path(digest).write_bytes(b"\0" * 400)
            assert completer._count(current) is None
        finally:
            completer.close()
        assert lease(ledger, Stage.PREPARE, late)


def test_a_peer_that_answers_with_other_studies_too(tmp_path: Path) -> None:
    other = answer(ModalitiesInStudy="CT", NumberOfStudyRelatedInstances="99")
    other.StudyInstanceUID = "1.2.3.5"
    mine = answer(ModalitiesInStudy="CT", NumberOfStudyRelatedInstances="7")
    with pacs([other, mine]) as destination:
        assert count_at_destination([destination], UID, "TRIAGE") == 7


def test_the_first_destination_that_supports_it() -> None:
    closed = Destination(name="closed", host="127.0.0.1", port=free_port(), ae_title="NOBODY")
    total = [answer(ModalitiesInStudy="CT", NumberOfStudyRelatedInstances="5")]
    with pacs([], find=False) as mute, pacs(0xC000) as failing, pacs(total) as good:
        assert count_at_destination([closed, mute, failing, good], UID, "TRIAGE") == 5
        assert count_at_destination([closed, mute, failing], UID, "TRIAGE") is None
    assert count_at_destination([], UID, "TRIAGE") is None


@pytest.mark.timeout(25)  # pynetdicom's own patience is 30 s
def test_a_silent_destination_does_not_hold_us_for_long() -> None:
    """It accepts the connection and never says a word."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        silent = Destination(name="silent", host="127.0.0.1", port=listener.getsockname()[1], ae_title="SILENT")
        assert count_at_destination([silent], UID, "TRIAGE", timeout_s=0.5) is None


def part_10(modality: str, sop_class_uid: str, series_instance_uid: str) -> bytes:
    """A small object of study UID, as a file."""
    ds = answer(Modality=modality, SOPClassUID=sop_class_uid, SOPInstanceUID=generate_uid())
    ds.SeriesInstanceUID = series_instance_uid
    ds.PatientID = "4711"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.orthanc
def test_a_real_orthanc(tmp_path: Path) -> None:
    with running_orthanc(tmp_path) as orthanc:
        orthanc.register("triage", "TRIAGE", free_port())
        destination = Destination(**orthanc.destination)
        assert count_at_destination([destination], UID, "TRIAGE") == 0
        for name in ("1.2.3.4.1", "1.2.3.4.1", "1.2.3.4.2"):
            orthanc.upload(part_10("CT", CTImageStorage, name))
        assert count_at_destination([destination], UID, "TRIAGE") == 3
        orthanc.upload(part_10("SR", EnhancedSRStorage, "1.2.3.4.3"))
        assert count_at_destination([destination], UID, "TRIAGE") == 3
