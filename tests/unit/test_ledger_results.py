"""What a study's result becomes: the gate's no, a score, a report that is queued once, the end of a discarded study."""

import math
from dataclasses import replace

import pytest
from sqlalchemy import update

from tests.support.ledgers import (
    DIGEST,
    LEASE_S,
    Clock,
    a_report,
    a_score,
    an_object,
    lease,
    receive,
    snapshot,
    to_preparing,
    to_reported,
    to_scored,
    to_scoring,
)
from triage.errors import ForbiddenTransitionError, NotFoundError
from triage.ledger import JobState, Ledger, OutboxState, State, schema
from triage.messages import Priority, Stage

pytest_plugins = ["tests.support.ledger_fixtures"]

UID = "1.2.3.4"


@pytest.mark.parametrize("report", [False, True])
def test_the_gates_no(ledger: Ledger, report: bool) -> None:
    study = receive(ledger)
    job = to_preparing(ledger, study)
    report_job = ledger.unsuitable(job.id, job.fence, "lateral view", report=report)
    done = ledger.study_by_id(study.id)
    assert (done.state, done.reason, done.priority) == (State.UNSUITABLE, "lateral view", None)
    assert (report_job is not None) is report
    if report:
        job = lease(ledger, Stage.REPORT, study)
        assert ledger.start(job.id, job.fence, LEASE_S) == done
        assert ledger.reported(job.id, job.fence, [a_report(study)])
        told = ledger.study_by_id(study.id)
        assert (told.state, told.reason) == (State.UNSUITABLE, "lateral view")
        assert told.result_sop_instance_uid == a_report(study).sop_instance_uid
        (item,) = ledger.due_outbox("pacs", 10)
        ledger.outbox_sent(item.id, "0000", "")
        assert ledger.outbox_committed(item.id, "find")
        assert ledger.study_by_id(study.id).state is State.UNSUITABLE


def test_a_report_of_a_no_that_fails_leaves_the_reason(ledger: Ledger) -> None:
    study = receive(ledger)
    job = to_preparing(ledger, study)
    ledger.unsuitable(job.id, job.fence, "lateral view", report=True)
    job = lease(ledger, Stage.REPORT, study)
    assert ledger.fail(job.id, job.fence, "no report can be built")
    done = ledger.study_by_id(study.id)
    assert (done.state, done.reason) == (State.UNSUITABLE, "lateral view")
    assert ledger.job(job.id).state is JobState.FAILED
    assert "no report can be built" in ledger.events(study.id)[-1].reason


def test_of_several_images_the_one_that_counts_stays_a_source(ledger: Ledger) -> None:
    study = receive(ledger)
    uids = [f"{study.study_instance_uid}.1.{number}" for number in (1, 2, 3)]
    for number in (2, 3):
        ledger.record_instance(an_object(study.study_instance_uid, number))
    job = to_preparing(ledger, study)
    ledger.prepared(job.id, job.fence, DIGEST, uids, ["PA view", "3 of 3 radiographs"])
    assert [source.sop_instance_uid for source in ledger.sources_of(study.id)] == uids
    job = lease(ledger, Stage.SCORE, study)
    score = replace(a_score(), images=3, chosen=1, passed_over="1 of 3 images not scored: unlike anything")
    ledger.scored(job.id, job.fence, score, Priority.HIGH)
    assert [source.sop_instance_uid for source in ledger.sources_of(study.id)] == uids[1:2]
    told = "PA view; 3 of 3 radiographs; 1 of 3 images not scored: unlike anything"
    assert ledger.study_by_id(study.id).notes == told


@pytest.mark.parametrize("report", [False, True])
def test_a_score_that_must_not_be_ranked_by(ledger: Ledger, report: bool) -> None:
    study = receive(ledger)
    job = to_scoring(ledger, study)
    score = a_score(math.nan, not_scored="unlike anything the model was calibrated on")
    report_job = ledger.scored(job.id, job.fence, score, Priority.HIGH, report_not_scored=report)
    done = ledger.study_by_id(study.id)
    assert (done.state, done.reason) == (State.UNSUITABLE, "unlike anything the model was calibrated on")
    assert (done.priority, done.percentile, done.log_posterior) == (None, None, None)
    assert done.score is not None
    assert math.isnan(done.score.percentile)
    assert (report_job is not None) is report


def test_sources_must_be_the_studys(ledger: Ledger) -> None:
    study = receive(ledger)
    receive(ledger, "1.9.9")
    job = to_preparing(ledger, study)
    before = snapshot(ledger, study)
    with pytest.raises(NotFoundError):
        ledger.prepared(job.id, job.fence, DIGEST, ["1.9.9.1.1"])
    assert snapshot(ledger, study) == before


def test_a_report_that_goes_nowhere(ledger: Ledger) -> None:
    study = receive(ledger)
    job = to_scored(ledger, study)
    assert ledger.reported(job.id, job.fence, [a_report(study, "")])
    assert ledger.outbox_of(study.id) == []
    done = ledger.study_by_id(study.id)
    assert (done.state, done.result_sop_instance_uid) == (State.REPORTED, a_report(study).sop_instance_uid)


def test_a_report_is_queued_once(ledger: Ledger) -> None:
    """A not-scored report that was delivered, then the study requeued: the row stays, with its proof."""
    study = receive(ledger)
    job = to_preparing(ledger, study)
    ledger.unsuitable(job.id, job.fence, "lateral view", report=True)
    job = lease(ledger, Stage.REPORT, study)
    ledger.reported(job.id, job.fence, [a_report(study)])
    (item,) = ledger.due_outbox("pacs", 10)
    ledger.outbox_sent(item.id, "0000", "")
    ledger.outbox_committed(item.id, "find")
    ledger.requeue(study.study_instance_uid, "operator")
    job = lease(ledger, Stage.PREPARE, study)
    ledger.start(job.id, job.fence, LEASE_S)
    ledger.prepared(job.id, job.fence, DIGEST, [])
    job = lease(ledger, Stage.SCORE, study)
    ledger.scored(job.id, job.fence, a_score(), Priority.LOW)
    job = lease(ledger, Stage.REPORT, study)
    assert ledger.reported(job.id, job.fence, [a_report(study)])
    (row,) = ledger.outbox_of(study.id)
    assert row.state is OutboxState.COMMITTED
    assert ledger.study_by_id(study.id).state is State.DELIVERED


def test_discarding_ends_all_work_and_sending(ledger: Ledger) -> None:
    study = to_reported(ledger, receive(ledger), "pacs", "archive")
    (first, _) = ledger.outbox_of(study.id)
    ledger.outbox_sent(first.id, "0000", "2.25.1")
    done = ledger.discard(study.study_instance_uid, "operator", "wrong patient")
    assert (done.state, done.reason) == (State.DISCARDED, "wrong patient")
    assert [item.state for item in ledger.outbox_of(study.id)] == [OutboxState.DISCARDED] * 2
    with pytest.raises(ForbiddenTransitionError):
        ledger.discard(study.study_instance_uid, "operator", "again")
    ledger.outbox_committed(first.id, "commitment")
    assert ledger.study_by_id(study.id).state is State.DISCARDED


def test_nothing_of_a_discarded_study_is_sent_any_more(ledger: Ledger, clock: Clock) -> None:
    """Not what the destination turns out not to hold, nor what an earlier revision reported."""
    first = to_reported(ledger, receive(ledger, UID))
    ledger.record_instance(an_object(UID, 2))
    second = to_reported(ledger, ledger.study(UID))
    (before,), (sent,) = ledger.outbox_of(first.id), ledger.outbox_of(second.id)
    ledger.outbox_sent(sent.id, "0000", "")
    ledger.discard(UID, "operator", "wrong patient")
    assert not ledger.outbox_retry(sent.id, "the destination took it, but does not hold it", clock.now)
    assert ledger.due_outbox("pacs", 10) == []
    assert ledger.sent_unproven("pacs", clock.now + 1, 10) == []
    with pytest.raises(ForbiddenTransitionError):
        ledger.outbox_requeue(sent.id)
    assert ledger.outbox_item(before.id).state is OutboxState.DISCARDED


def test_what_an_older_program_left_of_a_discarded_study_is_not_sent(ledger: Ledger, clock: Clock) -> None:
    study = to_reported(ledger, receive(ledger))
    (item,) = ledger.outbox_of(study.id)
    ledger.discard(study.study_instance_uid, "operator", "wrong patient")
    with ledger._database.write() as connection:
        connection.execute(update(schema.outbox).where(schema.outbox.c.id == item.id).values(state="sent"))
    assert ledger.outbox_retry(item.id, "does not hold it", clock.now)
    assert ledger.due_outbox("pacs", 10) == []
