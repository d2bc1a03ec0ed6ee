"""Leases and fences: who may work, when a result counts, and how work ends that goes wrong."""

from collections.abc import Callable

import pytest

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
    to_complete,
    to_preparing,
    to_scored,
    to_scoring,
    to_state,
)
from triage.errors import ForbiddenTransitionError, NotFoundError
from triage.ledger import Job, JobState, Ledger, State, Study
from triage.ledger.jobs import MAX_ATTEMPTS
from triage.messages import Priority, Stage

pytest_plugins = ["tests.support.ledger_fixtures"]

Result = Callable[[Ledger, Study, int, int], object]

# Everything a worker or the dispatcher may say about a lease, by the stage it may say it about.
PREPARE: dict[str, Result] = {
    "start": lambda ledger, study, job, fence: ledger.start(job, fence, LEASE_S),
    "prepared": lambda ledger, study, job, fence: ledger.prepared(job, fence, DIGEST, []),
    "unsuitable": lambda ledger, study, job, fence: ledger.unsuitable(job, fence, "lateral view", report=True),
    "give_back": lambda ledger, study, job, fence: ledger.give_back(job, fence, "disk away", 10),
    "fail": lambda ledger, study, job, fence: ledger.fail(job, fence, "broken"),
    "unclaim": lambda ledger, study, job, fence: ledger.unclaim(job, fence),
    "expire_lease": lambda ledger, study, job, fence: ledger.expire_lease(job, fence),
}
SCORE: dict[str, Result] = {
    "scored": lambda ledger, study, job, fence: ledger.scored(job, fence, a_score(), Priority.HIGH),
    "prepare_again": lambda ledger, study, job, fence: ledger.prepare_again(job, fence),
    "give_back": PREPARE["give_back"],
}
REPORT: dict[str, Result] = {
    "reported": lambda ledger, study, job, fence: ledger.reported(job, fence, [a_report(study)]),
    "fail": PREPARE["fail"],
}
RESULTS = [
    (to, name, result)
    for to, results in ((to_preparing, PREPARE), (to_scoring, SCORE), (to_scored, REPORT))
    for name, result in results.items()
]
IDS = [f"{to.__name__}-{name}" for to, name, _ in RESULTS]


def test_a_study_on_its_whole_road(ledger: Ledger, clock: Clock) -> None:
    study = receive(ledger)
    uid = study.study_instance_uid
    ledger.record_instance(an_object(uid, 2))
    to_complete(ledger, study)
    job = lease(ledger, Stage.PREPARE, study)
    assert (job.state, job.fence, job.attempts, job.leased_at) == (JobState.LEASED, 1, 1, clock.now)
    assert job.lease_until == clock.now + LEASE_S
    clock.go(30)
    started = ledger.start(job.id, job.fence, LEASE_S)
    assert started is not None
    assert started.state is State.PREPARING
    assert ledger.job(job.id).lease_until == clock.now + LEASE_S

    score_job = ledger.prepared(job.id, job.fence, DIGEST, [f"{uid}.1.2", f"{uid}.1.1"], ["2 slices", "5 mm"])
    assert score_job is not None
    assert ledger.events(study.id)[-1].reason == "2 slices; 5 mm"
    assert ledger.study_by_id(study.id).reason == ""
    assert (score_job.stage, score_job.state, score_job.bundle_digest) == (Stage.SCORE, JobState.READY, DIGEST)
    assert ledger.job(job.id).state is JobState.DONE
    assert [i.sop_instance_uid for i in ledger.sources_of(study.id)] == [f"{uid}.1.2", f"{uid}.1.1"]

    job = lease(ledger, Stage.SCORE, study)
    report_job = ledger.scored(job.id, job.fence, a_score(), Priority.HIGH)
    assert report_job is not None
    assert report_job.stage is Stage.REPORT
    scored = ledger.study_by_id(study.id)
    assert (scored.state, scored.score, scored.priority) == (State.SCORED, a_score(), Priority.HIGH)
    assert (scored.percentile, scored.log_posterior) == (97.0, -100.25)

    job = lease(ledger, Stage.REPORT, study)
    assert ledger.reported(job.id, job.fence, [a_report(study, "pacs"), a_report(study, "archive")])
    reported = ledger.study_by_id(study.id)
    assert (reported.state, reported.reported_at) == (State.REPORTED, clock.now)
    assert reported.result_sop_instance_uid == a_report(study).sop_instance_uid
    assert [item.destination for item in ledger.outbox_of(study.id)] == ["pacs", "archive"]
    assert {job.state for job in ledger.jobs_of(study.id)} == {JobState.DONE}


@pytest.mark.parametrize(("to", "name", "result"), RESULTS, ids=IDS)
def test_a_result_under_an_old_fence_is_a_no_op(
    ledger: Ledger, clock: Clock, to: Callable[[Ledger, Study], Job], name: str, result: Result
) -> None:
    study = receive(ledger)
    old = to(ledger, study)
    clock.go(LEASE_S + 1)
    new = lease(ledger, old.stage, study)
    assert new.fence == old.fence + 1
    before = snapshot(ledger, study)
    assert not result(ledger, study, old.id, old.fence)
    assert not result(ledger, study, old.id, new.fence + 1)
    assert snapshot(ledger, study) == before
    clock.go(1)
    assert result(ledger, study, new.id, new.fence)
    assert snapshot(ledger, study) != before


@pytest.mark.parametrize(("to", "name", "result"), [r for r in RESULTS if r[1] not in ("start", "expire_lease")])
def test_a_result_that_comes_twice_counts_once(
    ledger: Ledger, to: Callable[[Ledger, Study], Job], name: str, result: Result
) -> None:
    study = receive(ledger)
    job = to(ledger, study)
    assert result(ledger, study, job.id, job.fence)
    before = snapshot(ledger, study)
    assert not result(ledger, study, job.id, job.fence)
    assert snapshot(ledger, study) == before


@pytest.mark.parametrize("end", ["superseded", "discarded", "requeued"])
@pytest.mark.parametrize(("to", "name", "result"), RESULTS, ids=IDS)
def test_a_result_for_a_study_that_has_moved_on_is_a_no_op(
    ledger: Ledger, to: Callable[[Ledger, Study], Job], name: str, result: Result, end: str
) -> None:
    study = receive(ledger)
    job = to(ledger, study)
    if end == "superseded":
        ledger.record_instance(an_object(study.study_instance_uid, 2))
    elif end == "discarded":
        ledger.discard(study.study_instance_uid, "operator", "")
    else:
        ledger.fail(job.id, job.fence, "broken")
        ledger.requeue(study.study_instance_uid, "operator")
    before = snapshot(ledger, study)
    assert not result(ledger, study, job.id, job.fence)
    assert snapshot(ledger, study) == before


def test_a_result_about_another_stage_is_a_no_op(ledger: Ledger) -> None:
    study = receive(ledger)
    job = to_preparing(ledger, study)
    before = snapshot(ledger, study)
    assert ledger.scored(job.id, job.fence, a_score(), Priority.HIGH) is None
    assert not ledger.reported(job.id, job.fence, [a_report(study)])
    assert ledger.prepare_again(job.id, job.fence) is None
    assert snapshot(ledger, study) == before
    with pytest.raises(NotFoundError):
        ledger.start(4711, 1, LEASE_S)


def test_a_late_result_counts_while_nobody_else_has_the_job(ledger: Ledger, clock: Clock) -> None:
    study = receive(ledger)
    job = to_preparing(ledger, study)
    clock.go(LEASE_S + 1)
    assert ledger.prepared(job.id, job.fence, DIGEST, []) is not None


def test_claims_are_in_order_and_in_number(ledger: Ledger, clock: Clock) -> None:
    studies = []
    for _ in range(4):
        studies.append(receive(ledger))
        clock.go(1)
    for study in reversed(studies):
        to_complete(ledger, study)
    ledger.stat(studies[2].study_instance_uid, "reader")
    first = ledger.claim_jobs(Stage.PREPARE, 2, LEASE_S)
    assert [job.study_id for job in first] == [studies[2].id, studies[0].id]
    assert ledger.leased_count(Stage.PREPARE) == 2
    assert ledger.leased_jobs(Stage.PREPARE) == sorted(first, key=lambda job: job.id)
    assert ledger.leased_count(Stage.SCORE) == 0
    second = ledger.claim_jobs(Stage.PREPARE, 5, LEASE_S)
    assert [job.study_id for job in second] == [studies[1].id, studies[3].id]
    assert ledger.claim_jobs(Stage.PREPARE, 5, LEASE_S) == []


def test_a_lease_ends(ledger: Ledger, clock: Clock) -> None:
    study = receive(ledger)
    to_complete(ledger, study)
    job = lease(ledger, Stage.PREPARE, study)
    clock.go(LEASE_S)
    assert ledger.claim_jobs(Stage.PREPARE, 1, LEASE_S) == []
    assert ledger.leased_count(Stage.PREPARE) == 1
    clock.go(1)
    assert ledger.leased_count(Stage.PREPARE) == 0
    again = lease(ledger, Stage.PREPARE, study)
    assert (again.id, again.fence, again.attempts) == (job.id, 2, 2)
    assert ledger.expire_lease(again.id, again.fence)
    assert ledger.leased_jobs(Stage.PREPARE) == []
    assert lease(ledger, Stage.PREPARE, study).attempts == again.attempts + 1


def test_unclaiming_does_not_count(ledger: Ledger) -> None:
    study = receive(ledger)
    to_complete(ledger, study)
    for _ in range(MAX_ATTEMPTS + 2):
        job = lease(ledger, Stage.PREPARE, study)
        assert ledger.unclaim(job.id, job.fence)
    assert ledger.job(job.id).attempts == 0


@pytest.mark.parametrize("how", ["lease ran out", "given back"])
def test_attempts_are_capped_and_requeue_brings_the_study_back(ledger: Ledger, clock: Clock, how: str) -> None:
    study = receive(ledger)
    to_complete(ledger, study)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        job = lease(ledger, Stage.PREPARE, study)
        assert job.attempts == attempt
        assert ledger.start(job.id, job.fence, LEASE_S) is not None
        if how == "given back":
            assert ledger.give_back(job.id, job.fence, "disk away", 10)
            assert ledger.claim_jobs(Stage.PREPARE, 1, LEASE_S) == []
            assert ledger.job(job.id).state is (JobState.READY if attempt < MAX_ATTEMPTS else JobState.FAILED)
        clock.go(LEASE_S + 1)
    assert ledger.claim_jobs(Stage.PREPARE, 1, LEASE_S) == []
    failed = ledger.study_by_id(study.id)
    assert failed.state is State.FAILED
    expected = "disk away" if how == "given back" else "did not answer"
    assert expected in failed.reason
    assert "5 attempts" in failed.reason
    assert ledger.job(job.id).state is JobState.FAILED

    back = ledger.requeue(study.study_instance_uid, "operator")
    assert (back.state, back.reason) == (State.COMPLETE, "")
    assert ledger.events(study.id)[-1].actor == "operator"
    again = lease(ledger, Stage.PREPARE, study)
    assert (again.attempts, again.fence) == (1, job.fence + 2)
    assert not ledger.start(job.id, job.fence, LEASE_S)


NOT_REQUEUED = set(State) - {State.UNSUITABLE, State.FAILED, State.SUPERSEDED, State.DISCARDED}


@pytest.mark.parametrize("state", sorted(NOT_REQUEUED))
def test_only_what_ended_badly_is_requeued(ledger: Ledger, state: State) -> None:
    study = receive(ledger)
    if state is not State.RECEIVING:
        to_state(ledger, study, state)
    before = snapshot(ledger, study)
    with pytest.raises(ForbiddenTransitionError):
        ledger.requeue(study.study_instance_uid, "operator")
    assert snapshot(ledger, study) == before


def test_a_requeued_study_goes_the_whole_road_again(ledger: Ledger) -> None:
    study = receive(ledger)
    job = to_scored(ledger, study)
    ledger.fail(job.id, job.fence, "no report can be built")
    ledger.requeue(study.study_instance_uid, "operator")
    assert ledger.study_by_id(study.id).score is None
    job = lease(ledger, Stage.PREPARE, study)
    ledger.start(job.id, job.fence, LEASE_S)
    ledger.prepared(job.id, job.fence, DIGEST, [f"{study.study_instance_uid}.1.1"])
    job = lease(ledger, Stage.SCORE, study)
    ledger.scored(job.id, job.fence, a_score(), Priority.LOW)
    job = lease(ledger, Stage.REPORT, study)
    assert job.fence > 1
    assert ledger.reported(job.id, job.fence, [a_report(study)])
    assert ledger.study_by_id(study.id).state is State.REPORTED
    assert len(ledger.jobs_of(study.id)) == 3


def test_a_lost_model_input_is_prepared_again_but_not_for_ever(ledger: Ledger) -> None:
    study = receive(ledger)
    to_complete(ledger, study)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        job = lease(ledger, Stage.PREPARE, study)
        assert job.attempts == attempt
        ledger.start(job.id, job.fence, LEASE_S)
        ledger.prepared(job.id, job.fence, DIGEST, [f"{study.study_instance_uid}.1.1"])
        job = lease(ledger, Stage.SCORE, study)
        again = ledger.prepare_again(job.id, job.fence)
        assert again is not None
        assert ledger.study_by_id(study.id).state is State.COMPLETE
    assert ledger.claim_jobs(Stage.PREPARE, 1, LEASE_S) == []
    assert "model input was lost" in ledger.study_by_id(study.id).reason
    assert ledger.study_by_id(study.id).state is State.FAILED


def test_a_clock_that_is_set_back_delays_no_job(ledger: Ledger, clock: Clock) -> None:
    study = to_complete(ledger, receive(ledger))
    clock.go(-86_400)
    job = lease(ledger, Stage.PREPARE, study)
    ledger.give_back(job.id, job.fence, "no answer", 10)
    assert ledger.claim_jobs(Stage.PREPARE, 1, LEASE_S) == []
    clock.go(10)
    assert lease(ledger, Stage.PREPARE, study).attempts == 2
