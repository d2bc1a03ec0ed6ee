"""The outbox: from pending to proved, and the ways round."""

import pytest

from tests.support.ledgers import SR, Clock, receive, to_reported
from triage.errors import ForbiddenTransitionError, NotFoundError
from triage.ledger import Ledger, OutboxItem, OutboxState, State

pytest_plugins = ["tests.support.ledger_fixtures"]


def one_item(ledger: Ledger) -> OutboxItem:
    study = to_reported(ledger, receive(ledger))
    (item,) = ledger.outbox_of(study.id)
    return item


def test_sent_then_proved_then_delivered(ledger: Ledger, clock: Clock) -> None:
    study = to_reported(ledger, receive(ledger), "pacs", "archive")
    (item,) = ledger.due_outbox("pacs", 10)
    assert (item.state, item.attempts, item.sop_class_uid) == (OutboxState.PENDING, 0, SR)
    assert ledger.outbox_sent(item.id, "0000", "2.25.7")
    sent = ledger.outbox_item(item.id)
    assert (sent.state, sent.attempts, sent.last_status, sent.sent_at) == (OutboxState.SENT, 1, "0000", clock.now)
    assert ledger.due_outbox("pacs", 10) == []
    assert ledger.find_outbox_by_transaction("2.25.7") == [sent]
    assert ledger.find_outbox_by_transaction("") == []
    clock.go(30)
    assert ledger.outbox_committed(item.id, "commitment")
    proved = ledger.outbox_item(item.id)
    assert (proved.state, proved.proof, proved.committed_at) == (OutboxState.COMMITTED, "commitment", clock.now)
    assert ledger.study_by_id(study.id).state is State.REPORTED

    (other,) = ledger.due_outbox("archive", 10)
    ledger.outbox_sent(other.id, "0000", "")
    ledger.outbox_committed(other.id, "find")
    assert ledger.study_by_id(study.id).state is State.DELIVERED


def test_a_proof_counts_once_and_stays(ledger: Ledger) -> None:
    item = one_item(ledger)
    ledger.outbox_sent(item.id, "0000", "2.25.7")
    assert ledger.outbox_committed(item.id, "commitment")
    proved = ledger.outbox_item(item.id)
    events = ledger.events(item.study_id)
    assert not ledger.outbox_committed(item.id, "find")
    assert not ledger.outbox_sent(item.id, "0000", "2.25.8")
    assert not ledger.outbox_retry(item.id, "refused", 0)
    assert not ledger.outbox_dead(item.id, "refused")
    assert not ledger.outbox_rebuilt(item.id, SR, "2.25.1", "0" * 64)
    with pytest.raises(ForbiddenTransitionError):
        ledger.outbox_requeue(item.id)
    with pytest.raises(ForbiddenTransitionError):
        ledger.outbox_discard(item.id, "operator")
    assert ledger.outbox_item(item.id) == proved
    assert ledger.events(item.study_id) == events


def test_a_retry_waits_its_time(ledger: Ledger, clock: Clock) -> None:
    item = one_item(ledger)
    assert ledger.outbox_retry(item.id, "connection refused", clock.now + 10)
    assert ledger.due_outbox("pacs", 10) == []
    clock.go(10)
    (again,) = ledger.due_outbox("pacs", 10)
    assert (again.attempts, again.last_error) == (1, "connection refused")


def test_an_attempt_counts_once_though_the_proof_fails_later(ledger: Ledger, clock: Clock) -> None:
    item = one_item(ledger)
    ledger.outbox_sent(item.id, "0000", "2.25.7")
    ledger.outbox_sent(item.id, "0000", "2.25.8")
    assert ledger.outbox_item(item.id).attempts == 1
    assert ledger.find_outbox_by_transaction("2.25.7") == []
    ledger.outbox_retry(item.id, "not held", clock.now)
    (again,) = ledger.due_outbox("pacs", 10)
    assert again.attempts == 1
    ledger.outbox_sent(item.id, "0000", "2.25.9")
    assert ledger.outbox_item(item.id).attempts == 2


def test_what_is_sent_but_not_proved(ledger: Ledger, clock: Clock) -> None:
    item = one_item(ledger)
    ledger.outbox_sent(item.id, "0000", "2.25.7")
    assert ledger.sent_unproven("pacs", clock.now, 10) == []
    assert [i.id for i in ledger.sent_unproven("pacs", clock.now + 1, 10)] == [item.id]
    assert ledger.sent_unproven("archive", clock.now + 1, 10) == []


def test_dead_letters(ledger: Ledger, clock: Clock) -> None:
    item = one_item(ledger)
    assert ledger.outbox_dead(item.id, "refused: A900")
    assert ledger.due_outbox("pacs", 10) == []
    assert [i.id for i in ledger.list_outbox("dead", None, 10)] == [item.id]
    assert ledger.list_outbox("dead", "archive", 10) == []
    ledger.outbox_requeue(item.id, "operator")
    (again,) = ledger.due_outbox("pacs", 10)
    assert (again.id, again.attempts) == (item.id, 0)
    assert "requeued" in ledger.events(item.study_id)[-1].reason
    ledger.outbox_discard(item.id, "operator")
    assert ledger.due_outbox("pacs", 10) == []
    assert ledger.events(item.study_id)[-1].actor == "operator"
    # Nothing was delivered: the study doesn't say so.
    assert ledger.study_by_id(item.study_id).state is State.REPORTED
    ledger.outbox_requeue(item.id)
    assert [i.id for i in ledger.due_outbox("pacs", 10)] == [item.id]


def test_a_study_is_delivered_without_what_was_discarded(ledger: Ledger) -> None:
    study = to_reported(ledger, receive(ledger), "pacs", "archive")
    first, second = ledger.outbox_of(study.id)
    ledger.outbox_sent(first.id, "0000", "")
    ledger.outbox_committed(first.id, "find")
    ledger.outbox_dead(second.id, "refused")
    assert ledger.study_by_id(study.id).state is State.REPORTED
    ledger.outbox_discard(second.id, "operator")
    assert ledger.study_by_id(study.id).state is State.DELIVERED


def test_rebuilding_as_another_class(ledger: Ledger) -> None:
    item = one_item(ledger)
    assert ledger.outbox_rebuilt(item.id, "1.2.840.10008.5.1.4.1.1.88.33", "2.25.5", "5" * 64)
    again = ledger.outbox_item(item.id)
    assert (again.sop_class_uid, again.digest) == ("1.2.840.10008.5.1.4.1.1.88.33", "5" * 64)
    assert (again.state, again.attempts) == (OutboxState.PENDING, 0)


def test_stat_goes_first(ledger: Ledger) -> None:
    first = to_reported(ledger, receive(ledger))
    second = to_reported(ledger, receive(ledger))
    ledger.stat(second.study_instance_uid, "reader")
    assert [item.study_id for item in ledger.due_outbox("pacs", 10)] == [second.id, first.id]
    assert len(ledger.due_outbox("pacs", 1)) == 1


def test_an_unknown_item(ledger: Ledger) -> None:
    for ask in (ledger.outbox_item, ledger.outbox_requeue):
        with pytest.raises(NotFoundError):
            ask(4711)


def test_a_clock_that_is_set_back_delays_no_delivery(ledger: Ledger, clock: Clock) -> None:
    to_reported(ledger, receive(ledger))
    clock.go(-86_400)
    (item,) = ledger.due_outbox("pacs", 10)
    ledger.outbox_retry(item.id, "no answer", clock.now + 600)
    assert ledger.due_outbox("pacs", 10) == []
    clock.go(600)
    assert [due.id for due in ledger.due_outbox("pacs", 10)] == [item.id]
