"""How a delivery is proved: storage commitment, else a query, else the PACS's word, each by a real archive."""

import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.delivery import FAST, data_set_bytes, delivering, policy, post_office
from tests.support.pacs import Pacs, running_pacs
from tests.support.peers import free_port, wait_until
from triage.deliver import PROOF_FIND, PROOF_NONE, CommitmentReports
from triage.ledger import OutboxItem, OutboxState, State
from triage.receive.listener import Listener

COMMITTED, DEAD, SENT = OutboxState.COMMITTED, OutboxState.DEAD, OutboxState.SENT


def test_commitment_on_the_same_association(tmp_path: Path) -> None:
    with running_pacs(Pacs(commitment="same")) as pacs, post_office(tmp_path, [pacs.destination]) as office:
        office.post(1, 2, 3)
        with delivering(office):
            items = office.wait_for(COMMITTED)
        assert {item.proof for item in items} == {"storage commitment"}
        assert {item.last_status for item in items} == {"0000"}
        assert [office.study(n).state for n in (1, 2, 3)] == [State.DELIVERED] * 3
        assert set(pacs.held) == {item.sop_instance_uid for item in items}
        assert len(pacs.received) == 3
        assert pacs.calling == {"TRIAGE"}
        for item in items:
            assert pacs.held[item.sop_instance_uid] == data_set_bytes(office, item)


def test_commitment_on_a_new_association_to_the_listener(tmp_path: Path) -> None:
    port = free_port()
    with (
        running_pacs(Pacs(commitment="new", report_to=port)) as pacs,
        post_office(tmp_path, [pacs.destination], port) as office,
        Listener(office.config, office.ledger, office.store, CommitmentReports(office.ledger)),
    ):
        office.post(1, 2)
        with delivering(office, policy(report_after_s=60)):
            items = office.wait_for(COMMITTED)
        assert {item.proof for item in items} == {"storage commitment"}
        assert len(pacs.received) == 2


def test_a_late_report_counts(tmp_path: Path) -> None:
    with running_pacs(Pacs(commitment="silent")) as pacs, post_office(tmp_path, [pacs.destination]) as office:
        office.post(1)
        with delivering(office, policy(report_after_s=600, report_on_association_s=0.1)):
            [item] = office.wait_for(SENT)
            wait_until(lambda: pacs.transactions, what="the request")
        pacs.commitment, pacs.report_to = "new", office.config.listen.port
        request = _request_for(pacs, item)
        with Listener(office.config, office.ledger, office.store, CommitmentReports(office.ledger)):
            pacs._report(request, None)
            assert office.wait_for(COMMITTED)[0].proof == "storage commitment"


def test_without_commitment_a_query_proves(tmp_path: Path) -> None:
    with running_pacs(Pacs(find=True)) as pacs, post_office(tmp_path, [pacs.destination]) as office:
        office.post(1, 2)
        with delivering(office):
            items = office.wait_for(COMMITTED)
        assert {item.proof for item in items} == {PROOF_FIND}


def test_commitment_that_is_not_wanted_is_not_asked_for(tmp_path: Path) -> None:
    with running_pacs(Pacs(find=True, commitment="same")) as pacs:
        quiet = pacs.destination.model_copy(update={"storage_commitment": False})
        with post_office(tmp_path, [quiet]) as office, delivering(office):
            office.post(1)
            assert office.wait_for(COMMITTED)[0].proof == PROOF_FIND
        assert not pacs.transactions


def test_without_any_proof_success_is_believed_and_said_so(tmp_path: Path) -> None:
    with running_pacs(Pacs()) as pacs, post_office(tmp_path, [pacs.destination]) as office:
        office.post(1)
        with delivering(office):
            assert office.wait_for(COMMITTED)[0].proof == PROOF_NONE
        assert office.study(1).state is State.DELIVERED


@pytest.mark.parametrize(("habit", "find", "proof"), [
    ("silent", True, PROOF_FIND), ("silent", False, PROOF_NONE),
    ("declines", True, PROOF_FIND), ("declines", False, PROOF_NONE),
])  # fmt: skip
def test_a_report_that_never_comes_is_replaced(habit: str, find: bool, proof: str, tmp_path: Path) -> None:
    with running_pacs(Pacs(commitment=habit, find=find)) as pacs:
        with post_office(tmp_path, [pacs.destination]) as office, delivering(office):
            office.post(1)
            assert office.wait_for(COMMITTED)[0].proof == proof
        assert len(pacs.received) == 1
        assert len(pacs.transactions) == (1 if find else FAST.commitment_requests)
        assert len(set(pacs.transactions)) == len(pacs.transactions)


@pytest.mark.parametrize("find", [True, False])
def test_a_pacs_that_breaks_off_when_asked_for_proof_still_gets_everything(find: bool, tmp_path: Path) -> None:
    with running_pacs(Pacs(commitment="same", find=find, aborts_when_asked=True)) as pacs:
        hasty = policy(batch=1, report_after_s=0.1, reluctance_s=0.2)
        with capture_logs() as logs, post_office(tmp_path, [pacs.destination]) as office, delivering(office, hasty):
            office.post(1, 2, 3)
            wait_until(lambda: len(pacs.held) == 3, what="all three")
            items = office.wait_for(COMMITTED)
            assert {item.proof for item in items} == {PROOF_NONE}
        assert "destination_failed" not in [entry["event"] for entry in logs]
        assert len(pacs.received) == 3


@pytest.mark.parametrize(("commitment", "find"), [("same", False), ("", True)])
def test_what_is_sent_while_nothing_may_be_asked_is_proved_afterwards(
    commitment: str, find: bool, tmp_path: Path
) -> None:
    with running_pacs(Pacs(commitment=commitment, find=find, aborts_when_asked=True)) as pacs:
        patient = policy(report_after_s=0.1, reluctance_s=3)
        with capture_logs() as logs, post_office(tmp_path, [pacs.destination]) as office, delivering(office, patient):
            office.post(1)

            def broken_off() -> bool:
                return [entry["event"] for entry in logs].count("proof_failed") >= FAST.commitment_requests

            wait_until(broken_off, what="the association to be broken for proof again and again")
            pacs.aborts_when_asked = False
            office.post(2)
            wait_until(lambda: office.items()[1].state is not OutboxState.PENDING, what="the second to be sent")
            assert office.items()[1].state is SENT
            assert office.study(2).state is State.REPORTED
            wait_until(lambda: office.items()[1].state is COMMITTED, what="the second to be proved")
        assert office.items()[1].proof == (PROOF_FIND if find else "storage commitment")
        assert len(pacs.received) == 2


def test_a_query_that_is_answered_without_end_keeps_nobody(tmp_path: Path) -> None:
    with running_pacs(Pacs(find=True, endless=True)) as pacs, post_office(tmp_path, [pacs.destination]) as office:
        office.post(1)
        with capture_logs() as logs, delivering(office, policy(response_timeout_s=0.3)):
            wait_until(lambda: "C-FIND never came to its end" in str(logs), what="the end of the patience")
            office.post(2)
            wait_until(lambda: len(pacs.held) == 2, what="the next report")
            pacs.endless = False
            office.wait_for(COMMITTED)


def test_what_the_pacs_says_it_does_not_hold_is_sent_again(tmp_path: Path) -> None:
    with running_pacs(Pacs(commitment="failure")) as pacs, post_office(tmp_path, [pacs.destination]) as office:
        office.post(1)
        with delivering(office, policy(attempts_failed=3)):
            [item] = office.wait_for(DEAD)
        assert item.last_error == "storage commitment refused: 0112"
        assert len(pacs.received) == 3
        assert len({content for _, content in pacs.received}) == 1
        pacs.commitment = "same"
        office.ledger.outbox_requeue(item.id, "tester")
        with delivering(office):
            office.wait_for(COMMITTED)


def test_what_a_query_does_not_find_is_sent_again(tmp_path: Path) -> None:
    # Success without keeping the object: the archive that lies.
    with running_pacs(Pacs(find=True)) as pacs, post_office(tmp_path, [pacs.destination]) as office:
        forget = threading.Event()
        forget.set()
        pacs.on_store = lambda assoc: None
        pacs.held = _Forgetful(forget)
        office.post(1)
        with delivering(office):
            wait_until(lambda: len(pacs.received) >= 2, what="a second sending")
            forget.clear()
            assert office.wait_for(COMMITTED)[0].proof == PROOF_FIND


class _Forgetful(dict[str, bytes]):
    """Holds nothing while it is told to forget."""

    def __init__(self, forget: threading.Event) -> None:
        super().__init__()
        self._forget = forget

    def __setitem__(self, uid: str, content: bytes) -> None:
        if not self._forget.is_set():
            super().__setitem__(uid, content)


def _request_for(pacs: Pacs, item: OutboxItem) -> object:
    from pydicom.dataset import Dataset

    from triage.deliver.commitment import _reference

    request = Dataset()
    request.TransactionUID = pacs.transactions[-1]
    request.ReferencedSOPSequence = [_reference(item)]
    return request
