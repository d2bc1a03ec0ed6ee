"""Delivery to PACS of many kinds, each a real archive on a real port."""

import subprocess
import sys
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from structlog.testing import capture_logs

from tests.support.delivery import FAST, breaker_is, data_set_bytes, delivering, policy, post_office
from tests.support.pacs import Pacs, running_pacs
from tests.support.peers import free_port, wait_until
from triage.config.schema import Destination
from triage.deliver import PROOF_FIND, PROOF_NONE, Negotiator
from triage.errors import ReportError
from triage.ledger import OutboxItem, OutboxNew, OutboxState, State
from triage.sop_classes import COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR, ENHANCED_SR

COMMITTED, DEAD, PENDING = OutboxState.COMMITTED, OutboxState.DEAD, OutboxState.PENDING


@pytest.mark.parametrize("accepted", [COMPREHENSIVE_SR, ENHANCED_SR])
def test_a_report_is_rebuilt_as_the_class_that_is_accepted(accepted: str, tmp_path: Path) -> None:
    with running_pacs(Pacs(commitment="same", sop_classes=(accepted,))) as pacs:
        with post_office(tmp_path, [pacs.destination]) as office:
            office.post(1)

            def rebuild(item: OutboxItem, sop_class_uid: str) -> OutboxNew:
                return office.build(1, sop_class_uid)

            with delivering(office, rebuild=rebuild):
                [item] = office.wait_for(COMMITTED)
        assert item.sop_class_uid == accepted
        assert [str(ds.SOPClassUID) for ds in pacs.datasets()] == [accepted]


def test_the_first_class_in_order_is_negotiated_once(tmp_path: Path) -> None:
    both = (ENHANCED_SR, COMPREHENSIVE_SR)
    with running_pacs(Pacs(sop_classes=both)) as pacs:
        negotiator = Negotiator("TRIAGE", FAST)
        assert negotiator(pacs.destination) == COMPREHENSIVE_SR
        assert negotiator.negotiate(pacs.destination) == COMPREHENSIVE_SR
        assert pacs.associations == 1


def test_an_unreachable_destination_is_not_asked_for_every_report() -> None:
    now = [0.0]
    negotiator = Negotiator("TRIAGE", FAST, clock=lambda: now[0])
    pacs = Pacs()
    assert negotiator(pacs.destination) is None
    with running_pacs(pacs):
        assert negotiator(pacs.destination) is None
        now[0] += 61
        assert negotiator(pacs.destination) == COMPREHENSIVE_3D_SR


@pytest.mark.parametrize("failing", [False, True])
def test_a_report_that_fits_no_accepted_class_is_a_dead_letter(failing: bool, tmp_path: Path) -> None:
    def rebuild(item: OutboxItem, sop_class_uid: str) -> OutboxNew:
        raise ReportError("the sources are gone")

    classes = (ENHANCED_SR,) if failing else ()
    with running_pacs(Pacs(sop_classes=classes)) as pacs, post_office(tmp_path, [pacs.destination]) as office:
        office.post(1)
        with delivering(office, policy(attempts_failed=2), rebuild=rebuild):
            [item] = office.wait_for(DEAD)
        assert ("gone" if failing else "accepts no SOP class") in item.last_error
        assert not pacs.received


def test_a_pacs_that_takes_only_implicit_vr_gets_it(tmp_path: Path) -> None:
    with running_pacs(Pacs(syntaxes=("1.2.840.10008.1.2",))) as pacs:
        with post_office(tmp_path, [pacs.destination]) as office, delivering(office):
            [posted] = office.post(1)
            office.wait_for(COMMITTED)
        [content] = pacs.held.values()
        assert content != data_set_bytes(office, posted)
        assert dcmread(BytesIO(content), force=True).SOPInstanceUID == posted.sop_instance_uid


@pytest.mark.parametrize("status", [0xB000, 0xB007, 0x0111])
def test_a_warning_means_stored(status: int, tmp_path: Path) -> None:
    with (
        running_pacs(Pacs(status=lambda n: status)) as pacs,
        post_office(tmp_path, [pacs.destination]) as office,
        delivering(office),
    ):
        office.post(1)
        assert office.wait_for(COMMITTED)[0].last_status == f"{status:04X}"


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0x0122])
def test_a_refusal_is_a_dead_letter_after_a_few_tries(status: int, tmp_path: Path) -> None:
    with running_pacs(Pacs(status=lambda n: status)) as pacs:
        with post_office(tmp_path, [pacs.destination]) as office, delivering(office):
            office.post(1)
            [item] = office.wait_for(DEAD)
        assert len(pacs.received) == FAST.attempts_refused
        assert item.last_error == f"C-STORE status {status:04X}"
        assert office.study(1).state is State.REPORTED


def test_one_refused_object_does_not_hold_up_the_others(tmp_path: Path) -> None:
    with running_pacs(Pacs(commitment="same")) as pacs, post_office(tmp_path, [pacs.destination]) as office:
        office.post(1, 2, 3)
        bad = office.items()[0].sop_instance_uid
        pacs.status = lambda n: 0xC000 if pacs.received[-1][0] == bad else 0x0000
        with delivering(office):
            wait_until(lambda: sorted(office.states()) == [COMMITTED, COMMITTED, DEAD], what="two of three")


def test_a_pacs_out_of_resources_is_retried_until_it_has_some(tmp_path: Path) -> None:
    busy = 6
    with running_pacs(Pacs(status=lambda n: 0xA700 if n <= busy else 0x0000)) as pacs:
        with post_office(tmp_path, [pacs.destination]) as office, delivering(office):
            office.post(1)
            [item] = office.wait_for(COMMITTED)
        assert len(pacs.received) == busy + 1
        assert item.attempts == busy + 1


def test_a_pacs_that_aborts_is_retried_and_its_items_end_as_dead_letters(tmp_path: Path) -> None:
    with running_pacs(Pacs(on_store=lambda assoc: assoc.abort())) as pacs:
        with post_office(tmp_path, [pacs.destination]) as office, delivering(office, policy(attempts_failed=4)):
            office.post(1)
            [item] = office.wait_for(DEAD)
        assert len(pacs.received) == 4
        assert "no answer to C-STORE" in item.last_error


def test_dead_letters_are_listed_requeued_and_discarded(tmp_path: Path) -> None:
    pacs = Pacs(status=lambda n: 0xC000)
    with running_pacs(pacs), post_office(tmp_path, [pacs.destination]) as office, delivering(office):
        office.post(1, 2)
        office.wait_for(DEAD)
        first, second = office.ledger.list_outbox(state="dead")
        pacs.status = lambda n: 0x0000
        office.ledger.outbox_requeue(first.id, "tester")
        office.ledger.outbox_discard(second.id, "tester")
        wait_until(lambda: office.ledger.outbox_item(first.id).state is COMMITTED, what="the requeued item")
        assert office.ledger.outbox_item(second.id).state is OutboxState.DISCARDED
        assert not office.ledger.list_outbox(state="dead")
        assert second.sop_instance_uid not in pacs.held


def test_slow_and_dead_destinations_delay_nobody_else(tmp_path: Path) -> None:
    let_go = threading.Event()
    slow = Pacs(name="slow", ae_title="SLOW", on_store=lambda assoc: let_go.wait(20) and None)
    quick = Pacs(name="quick", ae_title="QUICK", commitment="same")
    dead = Destination(name="dead", host="127.0.0.1", port=free_port(), ae_title="DEAD")
    with running_pacs(slow), running_pacs(quick):
        destinations = [dead, slow.destination, quick.destination]
        with post_office(tmp_path, destinations) as office, delivering(office, policy(response_timeout_s=30)):
            office.post(1, 2, 3)
            office.wait_for(COMMITTED, "quick")
            assert set(office.states("dead")) == {PENDING}
            assert set(office.states("slow")) == {PENDING}
            let_go.set()
            office.wait_for(COMMITTED, "slow")


def test_a_pacs_that_never_answers_times_out(tmp_path: Path) -> None:
    let_go = threading.Event()
    with running_pacs(Pacs(on_store=lambda assoc: let_go.wait(20) and None)) as pacs:
        with post_office(tmp_path, [pacs.destination]) as office:
            office.post(1)
            with delivering(office, policy(response_timeout_s=0.5, attempts_failed=2)):
                [item] = office.wait_for(DEAD)
            let_go.set()
        assert "timed out" in item.last_error


def test_the_breaker_opens_and_closes(tmp_path: Path) -> None:
    pacs = Pacs(commitment="same")
    with capture_logs() as logs, post_office(tmp_path, [pacs.destination]) as office, delivering(office):
        office.post(1)
        wait_until(lambda: breaker_is(logs, "pacs") == "open", what="an open breaker")
        assert "nobody answers" in logs[-1]["error"]
        # A PACS that is down costs its items none of their attempts.
        assert [item.attempts for item in office.items()] == [0]
        with running_pacs(pacs):
            office.wait_for(COMMITTED)
            wait_until(lambda: breaker_is(logs, "pacs") == "closed", what="a closed breaker")


def test_a_rejected_association_says_what_to_do(tmp_path: Path) -> None:
    with running_pacs(Pacs()) as pacs:
        wrong = pacs.destination.model_copy(update={"ae_title": "WRONG"})
        with capture_logs() as logs, post_office(tmp_path, [wrong]) as office, delivering(office):
            office.post(1)
            wait_until(lambda: any("rejected" in entry.get("error", "") for entry in logs), what="the rejection")
            assert "Called AE title not recognised" in str(logs)


def test_a_lost_object_is_a_dead_letter(tmp_path: Path) -> None:
    with running_pacs(Pacs()) as pacs, post_office(tmp_path, [pacs.destination]) as office:
        [item] = office.post(1)
        office.store.remove(item.digest)
        with delivering(office):
            [item] = office.wait_for(DEAD)
        assert "no such object" in item.last_error


@pytest.mark.parametrize("damage", [lambda content: bytes(len(content)), lambda content: content[:-1]])
def test_a_damaged_object_keeps_none_of_the_others_from_being_sent(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    with running_pacs(Pacs(commitment="same")) as pacs, post_office(tmp_path, [pacs.destination]) as office:
        first, second = office.post(1, 2)
        path = office.store.path(first.digest)
        path.write_bytes(damage(path.read_bytes()))
        with delivering(office, policy(attempts_failed=3)):
            wait_until(lambda: office.states() == [DEAD, COMMITTED], what="the second, and the end of the first")
        assert set(pacs.held) == {second.sop_instance_uid}
        assert office.items()[0].last_error == "the stored object is damaged"
        assert office.items()[0].attempts == 2


def test_whatever_one_object_does_the_others_are_sent(tmp_path: Path) -> None:
    def rebuild(item: OutboxItem, sop_class_uid: str) -> OutboxNew:
        if item.id == 1:
            raise KeyError("Doe^Jane")
        return office.build(item.id, sop_class_uid)

    with (
        running_pacs(Pacs(sop_classes=(ENHANCED_SR,))) as pacs,
        post_office(tmp_path, [pacs.destination]) as office,
        delivering(office, policy(attempts_failed=2), rebuild),
    ):
        office.post(1, 2)
        wait_until(lambda: office.states() == [DEAD, COMMITTED], what="the second, and the end of the first")
        assert office.items()[0].last_error == "cannot be made ready: KeyError"


def test_a_copy_that_is_damaged_after_it_was_sent_keeps_no_proof_from_the_others(tmp_path: Path) -> None:
    with running_pacs(Pacs(commitment="silent", find=True)) as pacs:
        with post_office(tmp_path, [pacs.destination]) as office:
            first, _ = office.post(1, 2)
            with delivering(office, policy(report_after_s=600)):
                office.wait_for(OutboxState.SENT)
            office.store.path(first.digest).write_bytes(bytes(1000))
            with delivering(office):
                items = office.wait_for(COMMITTED)
        assert [item.proof for item in items] == [PROOF_NONE, PROOF_FIND]


KILLED = """
import os, sys, threading, time
from pathlib import Path
from triage.config.schema import Configuration
from triage.deliver import Deliverer
from triage.ledger import Ledger, open_ledger
from triage.store import ObjectStore

class Killed(Ledger):
    def outbox_sent(self, *args):
        os.kill(os.getpid(), 9)

config = Configuration.model_validate_json(sys.argv[1])
ledger = open_ledger(config)
ledger.__class__ = Killed
deliverer = Deliverer(config, ledger, ObjectStore(config.data_dir))
deliverer.start()
deliverer.tick()
threading.Event().wait(30)
"""


def test_a_kill_between_storing_and_noting_it_leaves_one_instance(tmp_path: Path) -> None:
    with running_pacs(Pacs(commitment="same")) as pacs, post_office(tmp_path, [pacs.destination]) as office:
        [item] = office.post(1)
        command = [sys.executable, "-c", KILLED, office.config.model_dump_json()]
        assert subprocess.run(command, timeout=60, check=False).returncode == -9
        assert len(pacs.received) == 1
        assert office.states() == [PENDING]
        with delivering(office):
            office.wait_for(COMMITTED)
        assert len(pacs.received) == 2
        assert len(set(pacs.received)) == 1
        assert set(pacs.held) == {item.sop_instance_uid}


def test_stopping_leaves_the_rest_in_the_outbox(tmp_path: Path) -> None:
    first, let_go = threading.Event(), threading.Event()

    def held(assoc: object) -> None:
        first.set()
        let_go.wait(20)

    with running_pacs(Pacs(on_store=held)) as pacs:
        with post_office(tmp_path, [pacs.destination]) as office:
            office.post(*range(5))
            with delivering(office, policy(response_timeout_s=30)) as deliverer:
                assert first.wait(20)
                stopping = threading.Thread(target=deliverer.stop)
                stopping.start()
                wait_until(deliverer._stopping.is_set, what="the stop to begin")
                let_go.set()
                stopping.join(20)
            left = office.states().count(PENDING)
            with delivering(office):
                office.wait_for(COMMITTED)
        assert len(pacs.held) == 5
        assert left == 4
