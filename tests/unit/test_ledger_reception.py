"""Objects coming in: duplicates, conflicts, late ones; and completion."""

import hashlib

import pytest

from tests.support.ledgers import (
    DIGEST,
    Clock,
    a_report,
    a_score,
    an_object,
    lease,
    receive,
    to_complete,
    to_reported,
    to_scored,
    to_state,
)
from triage.errors import ConflictingObjectError, NotFoundError
from triage.ledger import JobState, Ledger, OutboxState, Recorded, State
from triage.messages import Priority, Stage

pytest_plugins = ["tests.support.ledger_fixtures"]

UID = "1.2.3.4"
LATE = [state for state in State if state not in (State.RECEIVING, State.SUPERSEDED)]
KEPT = {State.REPORTED, State.DELIVERED, State.DISCARDED}


def test_the_first_object_opens_the_study(ledger: Ledger, clock: Clock) -> None:
    assert ledger.record_instance(an_object(UID)) is Recorded.NEW
    study = ledger.study(UID)
    assert (study.state, study.revision, study.current, study.instance_count) == (State.RECEIVING, 1, True, 1)
    assert study.arrived_at == study.first_object_at == study.last_object_at == clock.now
    assert (study.patient_name, study.patient_id, study.modality) == ("Doe^Jane", "4711", "CR")
    (instance,) = ledger.instances_of(study.id)
    assert instance == ledger.find_instance(f"{UID}.1.1")
    assert (instance.study_id, instance.size, instance.received_at) == (study.id, 1000, clock.now)


def test_further_objects_join(ledger: Ledger, clock: Clock) -> None:
    first = receive(ledger, UID, patient_name="")
    clock.go(3)
    ledger.record_instance(an_object(UID, 2, patient_name="Roe^Richard"))
    study = ledger.study(UID)
    assert study.id == first.id
    assert (study.arrived_at, study.last_object_at) == (first.arrived_at, clock.now)
    assert (study.instance_count, study.patient_name) == (2, "Roe^Richard")
    assert len(ledger.events(study.id)) == 1


def test_a_duplicate_changes_nothing(ledger: Ledger, clock: Clock) -> None:
    before = receive(ledger, UID)
    clock.go(3)
    assert ledger.record_instance(an_object(UID, association_id="another")) is Recorded.DUPLICATE
    assert ledger.study(UID) == before
    to_state(ledger, before, State.DELIVERED)
    assert ledger.record_instance(an_object(UID)) is Recorded.DUPLICATE
    assert ledger.study(UID).revision == 1


def test_other_bytes_under_a_known_uid_are_refused(ledger: Ledger) -> None:
    before = receive(ledger, UID)
    with pytest.raises(ConflictingObjectError):
        ledger.record_instance(an_object(UID, digest="0" * 64))
    assert ledger.study(UID) == before
    assert ledger.find_instance(f"{UID}.1.1").digest != "0" * 64  # type: ignore[union-attr]
    assert ledger.find_instance("1.9") is None


@pytest.mark.parametrize("state", LATE)
def test_a_late_image_opens_the_next_revision(ledger: Ledger, clock: Clock, state: State) -> None:
    first = to_state(ledger, receive(ledger, UID), state)
    ledger.stat(UID, "reader")
    ledger.claim(UID, "reader")
    jobs = ledger.jobs_of(first.id)
    clock.go(1000)
    assert ledger.record_instance(an_object(UID, 2)) is Recorded.NEW

    old, new = ledger.revisions(UID)
    assert old.id == first.id
    assert old.state is (state if state in KEPT else State.SUPERSEDED)
    assert not old.current
    assert (new.state, new.revision, new.current) == (State.RECEIVING, 2, True)
    assert (new.arrived_at, new.first_object_at, new.last_object_at) == (first.arrived_at, clock.now, clock.now)
    assert (new.stat, new.claimed_by, new.read_at) == (True, "reader", None)
    assert (new.priority, new.percentile, new.score) == (first.priority, first.percentile, None)
    assert new.instance_count == 2
    assert str(state) in ledger.events(new.id)[0].reason
    assert [i.study_id for i in ledger.instances_of(new.id)] == [old.id, new.id]
    assert [i.study_id for i in ledger.instances_of(old.id)] == [old.id]
    # Whoever still works on the old revision finds the fence stale.
    for before, after in zip(jobs, ledger.jobs_of(first.id), strict=True):
        if before.state in (JobState.READY, JobState.LEASED) and state not in KEPT:
            assert after.state is JobState.FAILED
            assert after.fence > before.fence
    assert all(ledger.claim_jobs(stage, 10, 60) == [] for stage in Stage)


@pytest.mark.parametrize("by", ["gate", "guard"])
def test_a_new_revision_keeps_what_lifted_the_study(ledger: Ledger, by: str) -> None:
    """It must not sink because an image came late: not while that is scored, nor if it can't be, nor if it's lower."""
    to_reported(ledger, receive(ledger, UID))
    ledger.record_instance(an_object(UID, 2))
    second = ledger.study(UID)
    assert (second.priority, second.percentile) == (Priority.HIGH, 97.0)
    to_complete(ledger, second)
    job = lease(ledger, Stage.PREPARE, second)
    assert ledger.study(UID).priority is Priority.HIGH
    if by == "gate":
        ledger.unsuitable(job.id, job.fence, "lateral view")
    else:
        ledger.prepared(job.id, job.fence, DIGEST, [])
        job = lease(ledger, Stage.SCORE, second)
        ledger.scored(job.id, job.fence, a_score(1.0, not_scored="unlike anything"), None)
    unscored = ledger.study(UID)
    assert (unscored.state, unscored.priority, unscored.percentile) == (State.UNSUITABLE, Priority.HIGH, 97.0)
    ledger.record_instance(an_object(UID, 3))
    third = ledger.study(UID)
    assert (third.priority, third.percentile) == (Priority.HIGH, 97.0)
    to_scored(ledger, third, priority=Priority.LOW, percentile=12.0)
    kept = ledger.study(UID)
    assert (kept.state, kept.priority, kept.percentile) == (State.SCORED, Priority.HIGH, 97.0)
    assert kept.score is not None
    assert kept.score.percentile == 12.0
    assert kept.notes.endswith("HIGH of an earlier score stays; percentile now 12.0")


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (("LOW", 30.0), ("LOW", 12.0), ("LOW", 12.0)),
        (("LOW", 30.0), ("MEDIUM", 85.0), ("MEDIUM", 85.0)),
        (("MEDIUM", 85.0), ("LOW", 12.0), ("MEDIUM", 85.0)),
        (("MEDIUM", 85.0), ("MEDIUM", 82.0), ("MEDIUM", 82.0)),
        (("MEDIUM", 85.0), ("HIGH", 96.0), ("HIGH", 96.0)),
        (("HIGH", 99.0), ("MEDIUM", 82.0), ("HIGH", 99.0)),
        (("HIGH", 99.0), ("HIGH", 96.0), ("HIGH", 96.0)),
    ],
)
def test_a_late_image_lifts_a_study_or_leaves_it_where_it_is(
    ledger: Ledger, before: tuple[str, float], after: tuple[str, float], shown: tuple[str, float]
) -> None:
    to_scored(ledger, receive(ledger, UID), priority=Priority(before[0]), percentile=before[1])
    ledger.record_instance(an_object(UID, 2))
    to_scored(ledger, ledger.study(UID), priority=Priority(after[0]), percentile=after[1])
    study = ledger.study(UID)
    assert (study.revision, study.priority, study.percentile) == (2, *shown)
    assert ("earlier score stays" in study.notes) is (shown != after)


@pytest.mark.parametrize("priority", [Priority.LOW, None])
def test_a_revision_that_was_not_lifted_leaves_nothing_behind(ledger: Ledger, priority: Priority | None) -> None:
    to_scored(ledger, receive(ledger, UID), priority=priority, percentile=30.0)
    ledger.record_instance(an_object(UID, 2))
    second = ledger.study(UID)
    to_complete(ledger, second)
    job = lease(ledger, Stage.PREPARE, second)
    ledger.unsuitable(job.id, job.fence, "lateral view")
    assert (ledger.study(UID).priority, ledger.study(UID).percentile) == (None, None)


@pytest.mark.parametrize(
    ("priority", "percentile", "stays"),
    [(Priority.HIGH, 97.0, True), (Priority.MEDIUM, 91.0, True), (Priority.LOW, 12.0, False)],
)
def test_of_a_score_that_was_thrown_away_only_what_lifted_the_study_stays(
    ledger: Ledger, priority: Priority, percentile: float, stays: bool
) -> None:
    study = receive(ledger, UID)
    job = to_scored(ledger, study, priority=priority, percentile=percentile)
    ledger.fail(job.id, job.fence, "no report can be built")
    again = ledger.requeue(UID, "operator")
    shown = (priority, percentile) if stays else (None, None)
    assert (again.priority, again.percentile) == shown
    assert (again.score, again.log_posterior, again.notes, ledger.sources_of(again.id)) == (None, None, "", [])
    job = lease(ledger, Stage.PREPARE, again)
    ledger.unsuitable(job.id, job.fence, "lateral view")
    ended = ledger.study(UID)
    assert (ended.state, ended.priority, ended.percentile) == (State.UNSUITABLE, *shown)


def test_a_study_without_anything_to_score_keeps_its_reason_when_it_is_requeued(ledger: Ledger) -> None:
    """No worker is asked, and no report promised, which would have no image to refer to."""
    reason = "not scored: Secondary Capture Image Storage"
    study = receive(ledger, UID, scorable=False, not_scored=reason)
    ledger.complete_study(study.id, "quiet")
    again = ledger.requeue(UID, "operator")
    assert (again.state, again.reason) == (State.UNSUITABLE, reason)
    assert ledger.jobs_of(study.id) == []


def test_a_requeued_revision_shows_what_the_one_before_it_did(ledger: Ledger) -> None:
    to_reported(ledger, receive(ledger, UID))
    ledger.record_instance(an_object(UID, 2))
    second = ledger.study(UID)
    job = to_scored(ledger, second, priority=Priority.LOW, percentile=3.0)
    ledger.fail(job.id, job.fence, "no report can be built")
    again = ledger.requeue(UID, "operator")
    assert (again.priority, again.percentile) == (Priority.HIGH, 97.0)


def test_a_requeued_study_does_not_sink_by_its_next_score(ledger: Ledger) -> None:
    study = receive(ledger, UID)
    job = to_scored(ledger, study)
    ledger.fail(job.id, job.fence, "no report can be built")
    again = ledger.requeue(UID, "operator")
    job = lease(ledger, Stage.PREPARE, again)
    ledger.prepared(job.id, job.fence, DIGEST, [])
    job = lease(ledger, Stage.SCORE, again)
    ledger.scored(job.id, job.fence, a_score(12.0), Priority.LOW)
    scored = ledger.study(UID)
    assert (scored.state, scored.priority, scored.percentile) == (State.SCORED, Priority.HIGH, 97.0)
    assert scored.notes.endswith("HIGH of an earlier score stays; percentile now 12.0")


@pytest.mark.parametrize("state", LATE)
def test_a_late_object_that_nothing_scores_is_filed(ledger: Ledger, clock: Clock, state: State) -> None:
    before = to_state(ledger, receive(ledger, UID), state)
    clock.go(5)
    assert ledger.record_instance(an_object(UID, 2, modality="SR", scorable=False)) is Recorded.NEW
    (after,) = ledger.revisions(UID)
    assert (after.state, after.last_object_at, after.instance_count) == (state, before.last_object_at, 2)
    assert (after.manifest_hash, after.modality, after.image_count) == (before.manifest_hash, "CR", 1)
    assert len(ledger.instances_of(after.id)) == 2


@pytest.mark.parametrize(
    ("modalities", "telling"),
    [("SR CT", "CT"), ("CR DX", "DX"), ("OT CR", "CR"), ("PR OT", "OT"), ("CT SR CR", "CT"), ("OT MG", "OT")],
)
def test_the_most_telling_modality(ledger: Ledger, modalities: str, telling: str) -> None:
    for number, modality in enumerate(modalities.split()):
        ledger.record_instance(an_object(UID, number, modality=modality))
    study = ledger.study(UID)
    assert study.modality == telling
    assert study.image_count == sum(m not in ("SR", "PR", "KO") for m in modalities.split())


def test_text_that_a_database_cannot_hold(ledger: Ledger) -> None:
    ledger.record_instance(an_object(UID, patient_name="Doe\0\udce4"))
    assert ledger.study(UID).patient_name == "Doe ?"


def test_release_of_an_association(ledger: Ledger, clock: Clock) -> None:
    mine = receive(ledger, association_id="a")
    other = receive(ledger, association_id="b")
    done = to_complete(ledger, receive(ledger, association_id="a"))
    clock.go(1)
    assert ledger.association_released("a", clock.now) == [mine.id]
    assert ledger.study_by_id(mine.id).released_at == clock.now
    assert ledger.study_by_id(other.id).released_at is None
    assert ledger.study_by_id(done.id).released_at is None
    assert ledger.association_released("nobody", clock.now) == []


def test_completion(ledger: Ledger) -> None:
    study = receive(ledger, UID)
    ledger.record_instance(an_object(UID, 0))
    assert [s.id for s in ledger.receiving_studies()] == [study.id]
    assert ledger.complete_study(study.id, "quiet")
    done = ledger.study(UID)
    assert (done.state, done.completed_by) == (State.COMPLETE, "quiet")
    lines = sorted(f"{i.sop_instance_uid} {i.digest}\n" for i in ledger.instances_of(study.id))
    assert done.manifest_hash == hashlib.sha256("".join(lines).encode()).hexdigest()
    (job,) = ledger.jobs_of(study.id)
    assert (job.stage, job.state, job.fence, job.attempts) == (Stage.PREPARE, JobState.READY, 0, 0)
    assert ledger.receiving_studies() == []
    assert not ledger.complete_study(study.id, "cap")
    assert ledger.study(UID) == done
    with pytest.raises(NotFoundError):
        ledger.complete_study(4711, "quiet")


def test_a_study_without_anything_to_score_is_unsuitable(ledger: Ledger) -> None:
    study = receive(ledger, UID, scorable=False, not_scored="secondary capture", modality="OT")
    assert ledger.complete_study(study.id, "quiet")
    done = ledger.study(UID)
    assert (done.state, done.reason, done.completed_by) == (State.UNSUITABLE, "secondary capture", "quiet")
    assert ledger.jobs_of(study.id) == []


def test_the_next_revision_scores_what_the_first_one_had(ledger: Ledger) -> None:
    """An image that came late completes a study whose first revision had nothing to score."""
    first = receive(ledger, UID, scorable=False, not_scored="localizer")
    ledger.complete_study(first.id, "quiet")
    ledger.record_instance(an_object(UID, 2))
    second = ledger.study(UID)
    assert second.revision == 2
    assert to_complete(ledger, second).state is State.COMPLETE


def test_predecessors(ledger: Ledger) -> None:
    study = receive(ledger, UID)
    assert ledger.previous_report(study.id) is None
    first = to_reported(ledger, study, "pacs", "archive")
    ledger.record_instance(an_object(UID, 2))
    second = ledger.study(UID)
    found = ledger.previous_report(second.id)
    assert found is not None
    assert found.sop_instance_uid == a_report(first).sop_instance_uid
    # The first revision's report is still delivered: the second one's names it.
    assert [item.state for item in ledger.outbox_of(first.id)] == [OutboxState.PENDING] * 2
    to_reported(ledger, second)
    ledger.record_instance(an_object(UID, 3))
    third = ledger.study(UID)
    assert ledger.previous_report(third.id).study_id == second.id  # type: ignore[union-attr]
    ledger.outbox_discard(ledger.outbox_of(second.id)[0].id, "operator")
    assert ledger.previous_report(third.id).study_id == first.id  # type: ignore[union-attr]
