"""Relevance maps on their way out: addressed to those who want them, and never in the way of a report."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from tests.support.delivery import PostOffice, delivering, post_office
from tests.support.ledgers import an_object, to_scored
from tests.support.maps import backdrop, chest, relevance
from tests.support.pacs import Pacs, running_pacs
from triage.config.schema import Destination
from triage.ledger import OutboxNew, OutboxState, State, Study
from triage.messages import Relevance
from triage.pictures import Backdrop
from triage.publish import Publisher
from triage.report import encode
from triage.sop_classes import COMPREHENSIVE_3D_SR, SECONDARY_CAPTURE, SR_CLASSES


def destination(name: str, pacs: Pacs | None = None, *send: str) -> Destination:
    place = {"host": "127.0.0.1", "port": pacs.destination.port if pacs else 9, "ae_title": "PACS"}
    return Destination(name=name, send=send or ("sr",), **place)


@contextmanager
def scored_chest(folder: Path, *destinations: Destination) -> Iterator[tuple[PostOffice, Study, Publisher]]:
    """A study whose one image lies in the store, scored, its REPORT job leased."""
    with post_office(folder, destinations) as office:
        [image] = images()
        digest = office.store.put_bytes(encode(image))
        office.ledger.record_instance(an_object(str(image.StudyInstanceUID), digest=digest))
        job = to_scored(office.ledger, office.ledger.study(str(image.StudyInstanceUID)))
        yield office, office.ledger.study_by_id(job.study_id), Publisher(office.config, office.ledger, office.store)


def images() -> list[Dataset]:
    """The study's one image, under the UID that `an_object` has."""
    return chest(SOPInstanceUID=f"{chest()[0].StudyInstanceUID}.1.1")


def a_map() -> tuple[Relevance, Backdrop]:
    return relevance((32, 32)), backdrop(images())


def kinds(rows: list[OutboxNew]) -> list[tuple[str, str]]:
    return [(row.destination, row.kind) for row in rows]


def test_only_who_asked_gets_a_map_and_a_report_that_names_it(tmp_path: Path) -> None:
    wants, plain = destination("wants", None, "sr", "heatmap"), destination("plain")
    with scored_chest(tmp_path, wants, plain) as (office, study, publisher):
        rows = publisher.publish(study, lambda _: COMPREHENSIVE_3D_SR, a_map)
        assert kinds(rows) == [("wants", "sr"), ("plain", "sr"), ("wants", "heatmap")]
        assert rows[0].sop_instance_uid != rows[1].sop_instance_uid
        again = publisher.publish(study, lambda _: COMPREHENSIVE_3D_SR, a_map)
        assert [row.sop_instance_uid for row in again] == [row.sop_instance_uid for row in rows]
        named = office.store.read(rows[0].digest).to_json()
        assert rows[2].sop_instance_uid in named
        assert rows[2].sop_instance_uid not in office.store.read(rows[1].digest).to_json()


def test_nobody_is_asked_for_a_map_that_nobody_wants(tmp_path: Path) -> None:
    def never() -> tuple[Relevance, Backdrop]:
        raise AssertionError("asked")

    with scored_chest(tmp_path, destination("plain")) as (_, study, publisher):
        assert kinds(publisher.publish(study, lambda _: None, never)) == [("plain", "sr")]


@pytest.mark.parametrize("what", ["nothing", "an error", "no picture"])
def test_a_report_never_waits_for_its_map(what: str, tmp_path: Path) -> None:
    def maps() -> tuple[Relevance, Backdrop] | None:
        if what == "an error":
            raise RuntimeError("no memory")
        return (relevance((32, 32)), Backdrop(pictures=())) if what == "no picture" else None

    with scored_chest(tmp_path, destination("wants", None, "sr", "heatmap")) as (_, study, publisher):
        assert kinds(publisher.publish(study, lambda _: None, maps)) == [("wants", "sr")]


@pytest.mark.parametrize("takes_maps", [True, False])
def test_a_study_is_delivered_with_its_map_or_without_one_that_the_pacs_cannot_take(
    takes_maps: bool, tmp_path: Path
) -> None:
    classes = (*SR_CLASSES, SECONDARY_CAPTURE) if takes_maps else SR_CLASSES
    with running_pacs(Pacs(commitment="same", sop_classes=classes)) as pacs:
        target = pacs.destination.model_copy(update={"send": ("sr", "heatmap")})
        with scored_chest(tmp_path, target) as (office, study, publisher):
            [job] = [job for job in office.ledger.jobs_of(study.id) if job.stage == "report"]
            rows = publisher.publish(study, lambda _: COMPREHENSIVE_3D_SR, a_map)
            assert office.ledger.reported(job.id, job.fence, rows)
            with delivering(office, rebuild=publisher.rebuild):
                office.wait_until_ended()
            states = {item.kind: item.state for item in office.items()}
            assert states["sr"] is OutboxState.COMMITTED
            assert states["heatmap"] is (OutboxState.COMMITTED if takes_maps else OutboxState.DISCARDED)
            assert office.ledger.study_by_id(study.id).state is State.DELIVERED
        assert len(pacs.datasets()) == 1 + takes_maps


def test_the_report_of_a_late_image_s_revision_names_the_one_before(tmp_path: Path) -> None:
    with (
        running_pacs(Pacs(commitment="same")) as pacs,
        scored_chest(tmp_path, pacs.destination) as (office, study, publisher),
        delivering(office, rebuild=publisher.rebuild),
    ):
        [job] = [job for job in office.ledger.jobs_of(study.id) if job.stage == "report"]
        [first] = publisher.publish(study, lambda _: COMPREHENSIVE_3D_SR)
        assert office.ledger.reported(job.id, job.fence, [first])
        office.wait_for(OutboxState.COMMITTED)

        uid = study.study_instance_uid
        late = office.store.put_bytes(encode(chest(SOPInstanceUID=f"{uid}.1.2")[0]))
        office.ledger.record_instance(an_object(uid, 2, digest=late))
        job = to_scored(office.ledger, office.ledger.study(uid))
        again = office.ledger.study_by_id(job.study_id)
        [second] = publisher.publish(again, lambda _: COMPREHENSIVE_3D_SR)
        assert office.ledger.reported(job.id, job.fence, [second])
        office.wait_for(OutboxState.COMMITTED)
    assert (study.revision, again.revision) == (1, 2)
    reports = {str(ds.SOPInstanceUID): ds for ds in pacs.datasets()}
    assert set(reports) == {first.sop_instance_uid, second.sop_instance_uid}
    assert "PredecessorDocumentsSequence" not in reports[first.sop_instance_uid]
    [predecessor] = reports[second.sop_instance_uid].PredecessorDocumentsSequence
    [series] = predecessor.ReferencedSeriesSequence
    [named] = series.ReferencedSOPSequence
    assert named.ReferencedSOPInstanceUID == first.sop_instance_uid
