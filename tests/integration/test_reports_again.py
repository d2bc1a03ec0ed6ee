"""A study that was reported as not scored, then requeued: at the PACS one report is current, and none is doubled."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from tests.support.delivery import PostOffice, post_office
from tests.support.ledgers import DIGEST, LEASE_S, a_score, an_object, lease, to_complete
from tests.support.maps import chest
from triage.config.schema import Destination
from triage.ledger import OutboxItem, OutboxState, State, Study
from triage.messages import Priority, Stage
from triage.publish import Publisher
from triage.report import encode
from triage.sop_classes import COMPREHENSIVE_3D_SR, ENHANCED_SR

PACS = Destination(name="pacs", host="127.0.0.1", port=9, ae_title="PACS", send=("sr", "not_scored"))


class Road:
    """A study of one image that lies in the store, and whoever works on it."""

    def __init__(self, office: PostOffice) -> None:
        self.office, self.ledger = office, office.ledger
        image = chest(SOPInstanceUID=f"{chest()[0].StudyInstanceUID}.1.1")[0]
        self.uid = str(image.StudyInstanceUID)
        self.ledger.record_instance(an_object(self.uid, digest=office.store.put_bytes(encode(image))))
        to_complete(self.ledger, self.study)
        self.publisher = Publisher(office.config, office.ledger, office.store)

    @property
    def study(self) -> Study:
        return self.ledger.study(self.uid)

    def decline(self, reason: str) -> OutboxItem:
        """The gate says no, and the report says why; returns the newest row of the outbox."""
        job = lease(self.ledger, Stage.PREPARE, self.study)
        self.ledger.start(job.id, job.fence, LEASE_S)
        self.ledger.unsuitable(job.id, job.fence, reason, report=True)
        return self.report()

    def score(self) -> OutboxItem:
        """It is scored, and reported."""
        job = lease(self.ledger, Stage.PREPARE, self.study)
        self.ledger.start(job.id, job.fence, LEASE_S)
        self.ledger.prepared(job.id, job.fence, DIGEST, [f"{self.uid}.1.1"])
        job = lease(self.ledger, Stage.SCORE, self.study)
        self.ledger.scored(job.id, job.fence, a_score(), Priority.HIGH)
        return self.report()

    def report(self) -> OutboxItem:
        job = lease(self.ledger, Stage.REPORT, self.study)
        assert self.ledger.reported(job.id, job.fence, self.publisher.publish(self.study, lambda _: None))
        return self.ledger.outbox_of(self.study.id)[-1]

    def requeue(self) -> None:
        self.ledger.requeue(self.uid, "operator")

    def sent(self, item: OutboxItem) -> None:
        self.ledger.outbox_sent(item.id, "0000", "")

    def named_by(self, item: OutboxItem) -> list[str]:
        """The reports that an item's report names as its predecessors."""
        return predecessors(self.office.store.read(item.digest))


def predecessors(report: Dataset) -> list[str]:
    return [
        str(sop.ReferencedSOPInstanceUID)
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    ]


@contextmanager
def road(folder: Path) -> Iterator[Road]:
    with post_office(folder, [PACS]) as office:
        yield Road(office)


def test_the_second_report_of_a_revision_names_the_first(tmp_path: Path) -> None:
    with road(tmp_path) as study:
        first = study.decline("lateral view")
        study.sent(first)
        assert study.named_by(first) == []
        study.requeue()
        second = study.score()
        assert second.sop_instance_uid != first.sop_instance_uid
        assert study.named_by(second) == [first.sop_instance_uid]
        # Another form of it says the same.
        rebuilt = study.publisher.rebuild(second, ENHANCED_SR)
        assert predecessors(study.office.store.read(rebuilt.digest)) == [first.sop_instance_uid]
        form = study.publisher.rebuild(study.ledger.outbox_item(first.id), ENHANCED_SR)
        assert predecessors(study.office.store.read(form.digest)) == []


@pytest.mark.parametrize("dead", [False, True])
def test_what_was_not_sent_yet_is_never_sent_after_a_requeue(tmp_path: Path, dead: bool) -> None:
    with road(tmp_path) as study:
        first = study.decline("lateral view")
        if dead:
            study.ledger.outbox_dead(first.id, "refused")
        study.requeue()
        assert study.ledger.outbox_item(first.id).state is OutboxState.DISCARDED
        second = study.score()
        assert study.named_by(second) == []
        assert [item.id for item in study.ledger.due_outbox("pacs", 10)] == [second.id]


def test_the_same_report_again_is_one_report(tmp_path: Path) -> None:
    """One that was discarded is sent after all, one that was sent stays as it is; none names itself."""
    with road(tmp_path) as study:
        first = study.decline("lateral view")
        study.requeue()
        assert study.decline("lateral view").id == first.id
        [due] = study.ledger.due_outbox("pacs", 10)
        assert (due.id, due.sop_instance_uid, due.attempts) == (first.id, first.sop_instance_uid, 0)
        study.sent(due)
        study.requeue()
        again = study.decline("lateral view")
        assert (again.id, again.digest, again.state) == (first.id, due.digest, OutboxState.SENT)
        assert study.named_by(again) == []
        [row] = study.publisher.publish(study.study, lambda _: COMPREHENSIVE_3D_SR)
        assert row.digest == again.digest


def test_while_it_is_worked_on_again_it_has_no_result(tmp_path: Path) -> None:
    with road(tmp_path) as study:
        study.decline("lateral view")
        assert study.study.result_sop_instance_uid
        study.requeue()
        again = study.study
        assert (again.state, again.result_sop_instance_uid, again.reported_at) == (State.COMPLETE, "", None)
