"""The worklist's order, its pages, what is on it; the reader's and operator's marks."""

import random
from collections.abc import Callable

import pytest

from tests.support.ledgers import (
    LEASE_S,
    Clock,
    a_report,
    an_object,
    lease,
    receive,
    to_complete,
    to_preparing,
    to_reported,
    to_scored,
    to_state,
)
from triage.config.schema import Rank
from triage.errors import LedgerError, NotFoundError
from triage.ledger import Ledger, OutboxNew, State, Study
from triage.messages import Priority, Stage

pytest_plugins = ["tests.support.ledger_fixtures"]

RANK = Rank(max_wait_s=1000)
HIDDEN = {State.SUPERSEDED, State.DISCARDED}


def scored(ledger: Ledger, priority: Priority | None, **kwargs: str) -> Study:
    """A study with a score, and no lease left that time could end."""
    study = receive(ledger, **kwargs)
    job = to_scored(ledger, study, priority)
    ledger.reported(job.id, job.fence, [a_report(study, "")])
    return ledger.study_by_id(study.id)


def ids(studies: list[Study]) -> list[int]:
    return [study.id for study in studies]


def test_the_order(ledger: Ledger, clock: Clock) -> None:
    """STAT, overdue, HIGH, MEDIUM, then by arrival whatever the model said; in each by arrival."""
    overdue_low = scored(ledger, Priority.LOW)
    overdue_receiving = receive(ledger)
    clock.go(1001)
    low = scored(ledger, Priority.LOW)
    clock.go(1)
    unscored = receive(ledger)
    clock.go(1)
    medium = scored(ledger, Priority.MEDIUM)
    clock.go(1)
    late_low = scored(ledger, Priority.LOW)
    high = scored(ledger, Priority.HIGH)
    clock.go(1)
    late_high = scored(ledger, Priority.HIGH)
    stat = scored(ledger, Priority.LOW)
    ledger.stat(stat.study_instance_uid, "reader")
    page, cursor = ledger.worklist(clock.now, RANK, None, None, 100, None)
    expected = [stat, overdue_low, overdue_receiving, high, late_high, medium, low, unscored, late_low]
    assert ids(page) == ids(expected)
    assert cursor is None
    ledger.stat(stat.study_instance_uid, "reader", on=False)
    assert ids(ledger.worklist(clock.now, RANK)[0]) == [*ids(expected[1:]), stat.id]


def test_overdue_is_strictly_more_than_the_maximum(ledger: Ledger, clock: Clock) -> None:
    first = receive(ledger)
    high = scored(ledger, Priority.HIGH)
    clock.go(1000)
    assert ids(ledger.worklist(clock.now, RANK)[0]) == [high.id, first.id]
    assert ids(ledger.worklist(clock.now + 0.001, RANK)[0]) == [first.id, high.id]


def test_ties_go_by_arrival_then_number(ledger: Ledger, clock: Clock) -> None:
    studies = [receive(ledger) for _ in range(4)]
    assert ids(ledger.worklist(clock.now, RANK)[0]) == ids(studies)


def test_a_late_revision_keeps_its_place(ledger: Ledger, clock: Clock) -> None:
    first = scored(ledger, Priority.HIGH)
    clock.go(10)
    second = scored(ledger, Priority.HIGH)
    ledger.record_instance(an_object(first.study_instance_uid, 2))
    page, _ = ledger.worklist(clock.now, RANK)
    assert [s.study_instance_uid for s in page] == [first.study_instance_uid, second.study_instance_uid]
    assert page[0].revision == 2


def fill(ledger: Ledger, clock: Clock, number: int) -> None:
    chance = random.Random(7)
    for _ in range(number):
        clock.go(chance.choice([0, 1, 1, 90]))
        priority = chance.choice([None, *Priority])
        study = scored(ledger, priority) if priority else receive(ledger)
        if chance.random() < 0.1:
            ledger.stat(study.study_instance_uid, "reader")


def test_pages_are_the_list_cut_in_pieces(ledger: Ledger, clock: Clock) -> None:
    fill(ledger, clock, 25)
    whole, _ = ledger.worklist(clock.now, RANK)
    began = clock.now
    pieces: list[Study] = []
    cursor: str | None = None
    while True:
        page, cursor = ledger.worklist(clock.now, RANK, None, None, 4, cursor)
        pieces += page
        if cursor is None:
            break
        # The clock goes on and studies come in; the pages are still those of the moment of the first.
        clock.go(500)
        receive(ledger)
    assert clock.now - began > RANK.max_wait_s
    assert ids(pieces)[: len(whole)] == ids(whole)
    assert len(set(ids(pieces))) == len(pieces)


@pytest.mark.parametrize(
    "cursor",
    [
        *("x", "[1,2]", '{"a":1}', "[1,2,3,null]", "7"),
        *("[1,Infinity,1,1]", "[Infinity,1,1,1]", "[1,1,NaN,1]", "[1e999,1,1,1]"),
        *("[1,1,1,-1]", "[1,7,1,1]", f"[1,1,1,{10**40}]", f"[1,{10**40},1,1]", f"[{10**400},1,1,1]"),
        "[" * 100_000 + "]" * 100_000,
    ],
    ids=lambda cursor: cursor[:20],
)
def test_a_foreign_cursor_is_refused(ledger: Ledger, clock: Clock, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        ledger.worklist(clock.now, RANK, None, None, 10, cursor)


@pytest.mark.parametrize("state", list(State))
def test_everything_is_listed_but_what_is_superseded_or_discarded(ledger: Ledger, clock: Clock, state: State) -> None:
    study = receive(ledger)
    if state is not State.RECEIVING:
        to_state(ledger, study, state)
    listed = ids(ledger.worklist(clock.now, RANK)[0])
    assert (study.id in listed) is (state not in HIDDEN)
    by_state = ids(ledger.worklist(clock.now, RANK, None, state)[0])
    # A superseded revision is never the current one: asking for it brings nothing.
    assert by_state == ([] if state is State.SUPERSEDED else [study.id])
    assert study.id in ids(ledger.studies(state, 10))
    expected = dict.fromkeys(State, 0)
    expected[State.RECEIVING if state is State.SUPERSEDED else state] = 1
    assert ledger.counts_by_state() == expected


def test_filters(ledger: Ledger, clock: Clock) -> None:
    radiograph = receive(ledger, modality="CR")
    tomogram = receive(ledger, modality="CT")
    to_preparing(ledger, tomogram)
    assert ids(ledger.worklist(clock.now, RANK, "CT")[0]) == [tomogram.id]
    assert ids(ledger.worklist(clock.now, RANK, "CT", "receiving")[0]) == []
    assert ids(ledger.worklist(clock.now, RANK, None, "receiving")[0]) == [radiograph.id]
    assert ids(ledger.studies(None, 10)) == [tomogram.id, radiograph.id]
    assert len(ledger.studies(None, 1)) == 1


def test_what_is_read_leaves_the_list_until_something_new_comes(ledger: Ledger, clock: Clock) -> None:
    study = to_state(ledger, receive(ledger), State.DELIVERED)
    uid = study.study_instance_uid
    clock.go(7)
    assert ledger.mark_read(uid, "reader").read_at == clock.now
    assert ledger.worklist(clock.now, RANK)[0] == []
    assert ledger.worklist(clock.now, RANK, None, "delivered")[0] == []
    assert ids(ledger.worklist(clock.now, RANK, None, "read")[0]) == [study.id]
    clock.go(1)
    assert ledger.mark_read(uid, "another").read_at == clock.now - 1
    ledger.record_instance(an_object(uid, 2))
    assert [s.revision for s in ledger.worklist(clock.now, RANK)[0]] == [2]


@pytest.mark.parametrize("state", [s for s in State if s not in HIDDEN])
@pytest.mark.parametrize("modality", ["MR", "CR"])
def test_an_image_that_comes_after_it_was_read_is_seen(
    ledger: Ledger, clock: Clock, state: State, modality: str
) -> None:
    """Read while it was still coming, or long ago; what came later can be scored, or not."""
    study = receive(ledger)
    if state is not State.RECEIVING:
        to_state(ledger, study, state)
    uid = study.study_instance_uid
    ledger.mark_read(uid, "reader")
    ledger.record_instance(an_object(uid, 2, modality="SR", scorable=False))
    assert ledger.worklist(clock.now, RANK)[0] == []
    ledger.record_instance(an_object(uid, 3, modality=modality, scorable=modality == "CR"))
    [listed], _ = ledger.worklist(clock.now, RANK)
    assert (listed.study_instance_uid, listed.read_at) == (uid, None)
    if listed.revision == 1:
        assert ledger.events(study.id)[-1].reason == "not read any more: an image came later"


@pytest.mark.parametrize("scorable", [True, False])
def test_an_image_brings_a_discarded_study_back(ledger: Ledger, clock: Clock, scorable: bool) -> None:
    study = to_state(ledger, receive(ledger), State.DISCARDED)
    uid = study.study_instance_uid
    ledger.record_instance(an_object(uid, 2, modality="KO", scorable=False))
    assert ledger.worklist(clock.now, RANK)[0] == []
    ledger.record_instance(an_object(uid, 3, modality="CR" if scorable else "US", scorable=scorable))
    [listed], _ = ledger.worklist(clock.now, RANK)
    assert (listed.revision, listed.state, listed.arrived_at) == (2, State.RECEIVING, study.arrived_at)
    ledger.complete_study(listed.id, "quiet")
    assert ledger.study(uid).state is State.COMPLETE


@pytest.mark.parametrize("before", [State.RECEIVING, State.SCORING, State.DELIVERED])
def test_a_discarded_study_can_be_brought_back(ledger: Ledger, clock: Clock, before: State) -> None:
    """Whatever it was when it was discarded; the same images, sent again, are duplicates and wouldn't."""
    study = receive(ledger)
    if before is not State.RECEIVING:
        to_state(ledger, study, before)
    uid = study.study_instance_uid
    ledger.stat(uid, "reader")
    ledger.discard(uid, "operator", "thought to be sent by mistake")
    clock.go(5)
    again = ledger.requeue(uid, "operator")
    assert (again.revision, again.state, again.stat) == (2, State.RECEIVING, True)
    assert (again.arrived_at, again.patient_name, again.image_count) == (study.arrived_at, "Doe^Jane", 1)
    assert ids(ledger.worklist(clock.now, RANK)[0]) == [again.id]
    assert [(e.actor, e.reason) for e in ledger.events(again.id)] == [
        ("operator", "requeued when revision 1 was discarded")
    ]
    to_reported(ledger, again)
    assert ledger.study(uid).state is State.REPORTED


@pytest.mark.parametrize("end", ["read", "discarded"])
def test_our_own_map_on_its_way_back_is_no_news(ledger: Ledger, clock: Clock, end: str) -> None:
    study = receive(ledger)
    uid = study.study_instance_uid
    back = an_object(uid, 2, modality="OT", scorable=False)
    job = to_scored(ledger, study)
    sent = OutboxNew("pacs", "heatmap", back.sop_class_uid, back.sop_instance_uid, back.digest)
    ledger.reported(job.id, job.fence, [sent])
    if end == "read":
        ledger.mark_read(uid, "reader")
    else:
        ledger.discard(uid, "operator", "sent by mistake")
    ledger.record_instance(back)
    assert ledger.worklist(clock.now, RANK)[0] == []
    ledger.record_instance(an_object(uid, 3, modality="OT", scorable=False))
    assert len(ledger.worklist(clock.now, RANK)[0]) == 1


def test_a_failed_study_keeps_what_it_inherited(ledger: Ledger, clock: Clock) -> None:
    """A study that was HIGH doesn't sink because its next revision could not be worked on."""
    first = scored(ledger, Priority.HIGH)
    ledger.record_instance(an_object(first.study_instance_uid, 2))
    second = ledger.study(first.study_instance_uid)
    to_complete(ledger, second)
    job = lease(ledger, Stage.PREPARE, second)
    ledger.start(job.id, job.fence, LEASE_S)
    ledger.fail(job.id, job.fence, "broken")
    assert ledger.study(first.study_instance_uid).priority is Priority.HIGH


def test_claims_of_readers(ledger: Ledger) -> None:
    uid = receive(ledger).study_instance_uid
    assert ledger.claim(uid, "anna").claimed_by == "anna"
    assert ledger.claim(uid, "anna").claimed_by == "anna"
    with pytest.raises(LedgerError, match="somebody else"):
        ledger.claim(uid, "bert")
    assert ledger.release(uid, "bert").claimed_by == ""
    assert ledger.claim(uid, "bert").claimed_by == "bert"
    told = [(e.actor, e.reason) for e in ledger.events(ledger.study(uid).id)][1:]
    assert told == [("anna", "claimed"), ("bert", "released"), ("bert", "claimed")]


def test_marks_are_events_once(ledger: Ledger) -> None:
    study = receive(ledger)
    last = ledger.last_event_id()
    for _ in range(2):
        assert ledger.stat(study.study_instance_uid, "anna").stat
    (event,) = ledger.changes_since(last)
    assert (event.actor, event.reason, event.from_state, event.to_state) == ("anna", "STAT", "receiving", "receiving")
    assert ledger.last_event_id() == event.id
    assert ledger.changes_since(event.id) == []


def test_what_is_unknown(ledger: Ledger) -> None:
    assert ledger.last_event_id() == 0
    assert ledger.revisions("1.9") == []
    asks: list[Callable[[], object]] = [
        lambda: ledger.study("1.9"),
        lambda: ledger.study_by_id(4711),
        lambda: ledger.instances_of(4711),
        lambda: ledger.job(4711),
        lambda: ledger.requeue("1.9", "anna"),
        lambda: ledger.discard("1.9", "anna", ""),
        lambda: ledger.stat("1.9", "anna"),
        lambda: ledger.mark_read("1.9", "anna"),
    ]
    for ask in asks:
        with pytest.raises(NotFoundError):
            ask()


def test_one_leader(ledger: Ledger, clock: Clock) -> None:
    assert ledger.acquire_leader("dispatcher", "a", 10)
    assert not ledger.acquire_leader("dispatcher", "b", 10)
    assert ledger.acquire_leader("another", "b", 10)
    clock.go(8)
    assert ledger.acquire_leader("dispatcher", "a", 10)
    clock.go(8)
    assert not ledger.acquire_leader("dispatcher", "b", 10)
    clock.go(3)
    assert ledger.acquire_leader("dispatcher", "b", 10)
    assert not ledger.acquire_leader("dispatcher", "a", 10)
