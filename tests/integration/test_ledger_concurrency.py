"""Several threads and processes on one ledger, and processes that are killed at it."""

import contextlib
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.support.ledgers import LEASE_S, an_object, ledger_config, receive, to_complete
from triage.errors import ConflictingObjectError
from triage.ledger import Ledger, Recorded, State, open_ledger
from triage.ledger.engine import make_engine
from triage.messages import Stage

pytest_plugins = ["tests.support.ledger_fixtures"]

SPAWN = get_context("spawn")
UID = "1.2.3.4"


def _claim_all(url: str, barrier: Any, answers: Any) -> None:
    ledger = Ledger(make_engine(url))
    barrier.wait()
    mine = []
    while jobs := ledger.claim_jobs(Stage.PREPARE, 2, 600):
        mine += [(job.id, job.fence) for job in jobs]
    answers.put(mine)
    ledger.close()


def test_two_processes_never_claim_the_same_job(ledger_url: str) -> None:
    ledger = Ledger(make_engine(ledger_url))
    for _ in range(60):
        to_complete(ledger, receive(ledger))
    barrier, answers = SPAWN.Barrier(3), SPAWN.Queue()
    processes = [SPAWN.Process(target=_claim_all, args=(ledger_url, barrier, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    claimed = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    counted = Counter(job_id for mine in claimed for job_id, _ in mine)
    assert len(counted) == 60
    assert set(counted.values()) == {1}
    assert {fence for mine in claimed for _, fence in mine} == {1}
    assert ledger.leased_count(Stage.PREPARE) == 60
    ledger.close()


def test_eight_threads_record_one_study(ledger: Ledger) -> None:
    """The first objects of a study on several associations at once: one study, nothing lost, nothing twice."""
    barrier = threading.Barrier(8)

    def record(thread: int) -> list[Recorded]:
        barrier.wait()
        own = [an_object(UID, 100 * thread + n, association_id=f"association-{thread}") for n in range(15)]
        shared = [an_object(UID, 10_000 + n) for n in range(5)]
        return [ledger.record_instance(obj) for obj in (*shared, *own)]

    with ThreadPoolExecutor(8) as pool:
        answers = Counter(answer for done in pool.map(record, range(8)) for answer in done)
    (study,) = ledger.revisions(UID)
    assert study.instance_count == len(ledger.instances_of(study.id)) == 8 * 15 + 5
    assert answers == {Recorded.NEW: 8 * 15 + 5, Recorded.DUPLICATE: 7 * 5}


def test_threads_race_with_completion(ledger: Ledger) -> None:
    """Whatever comes while a study is being completed is in its manifest or in the next revision, never in neither."""
    receive(ledger, UID)
    stop = threading.Event()

    def complete() -> None:
        while not stop.is_set():
            for study in ledger.receiving_studies():
                ledger.complete_study(study.id, "quiet")

    completer = threading.Thread(target=complete)
    completer.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: ledger.record_instance(an_object(UID, n)), range(2, 42)))
    stop.set()
    completer.join()
    for study in ledger.receiving_studies():
        ledger.complete_study(study.id, "quiet")
    revisions = ledger.revisions(UID)
    assert [r.revision for r in revisions] == list(range(1, len(revisions) + 1))
    assert [r.current for r in revisions] == [False] * (len(revisions) - 1) + [True]
    assert {r.state for r in revisions[:-1]} <= {State.SUPERSEDED}
    for revision in revisions:
        held = ledger.instances_of(revision.id)
        assert revision.instance_count == len(held)
        # The hash was taken of exactly what the revision holds.
        assert revision.manifest_hash == _hash(ledger, revision.id)
    assert revisions[-1].instance_count == 41


def _hash(ledger: Ledger, study_id: int) -> str:
    from triage.ledger.reception import _manifest_hash

    return _manifest_hash(ledger.instances_of(study_id))


def test_threads_with_different_bytes_for_one_uid(ledger: Ledger) -> None:
    """One of them wins, under one study or under two."""
    barrier = threading.Barrier(6)

    def record(thread: int) -> object:
        obj = an_object(UID if thread % 2 else "1.2.3.5", 1)
        barrier.wait()
        with contextlib.suppress(ConflictingObjectError):
            changed = {**obj.__dict__, "sop_instance_uid": "1.2.3.9", "digest": f"{thread:064d}"}
            return ledger.record_instance(type(obj)(**changed))
        return None

    with ThreadPoolExecutor(6) as pool:
        assert Counter(pool.map(record, range(6))) == {Recorded.NEW: 1, None: 5}


def _record_for_ever(url: str, folder: str, answers: Any) -> None:
    ledger = open_ledger(ledger_config(url, Path(folder)))
    number = 0
    while True:
        number += 1
        ledger.record_instance(an_object(f"1.2.9.{number // 5}", number))
        answers.send(number)


@pytest.mark.parametrize("after", [1, 40, 77])
def test_a_writer_that_is_killed_loses_nothing_it_was_told(ledger_url: str, tmp_path: Path, after: int) -> None:
    """SIGKILL in the middle: what was acknowledged is there, whole, and others go on writing at once."""
    here, there = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_record_for_ever, args=(ledger_url, str(tmp_path), there))
    process.start()
    there.close()
    told = 0
    while told < after:
        told = here.recv()
    process.kill()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    with contextlib.suppress(EOFError):
        while True:
            told = here.recv()

    ledger = open_ledger(ledger_config(ledger_url, tmp_path))
    for number in range(1, told + 1):
        assert ledger.find_instance(f"1.2.9.{number // 5}.1.{number}") is not None
    # What was being recorded may have been committed, and not told any more.
    known = told + (ledger.find_instance(f"1.2.9.{(told + 1) // 5}.1.{told + 1}") is not None)
    for study in ledger.studies(None, 1000):
        assert study.instance_count == len(ledger.instances_of(study.id))
        assert ledger.events(study.id)
        to_complete(ledger, study)
    assert len(ledger.claim_jobs(Stage.PREPARE, 1000, LEASE_S)) == known // 5 + 1
    ledger.close()


def _die_inside(url: str) -> None:
    """Die in the middle of a transaction that has moved a study but not said so."""
    import os

    ledger = Ledger(make_engine(url))
    study = ledger.study(UID)
    with ledger._database.write() as connection:
        locked = ledger._lock_study(connection, study.id)
        ledger._move(connection, locked, State.COMPLETE, actor="test", reason="")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_transaction_that_is_killed_never_was(ledger_url: str) -> None:
    ledger = Ledger(make_engine(ledger_url))
    before = receive(ledger, UID)
    process = SPAWN.Process(target=_die_inside, args=(ledger_url,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert ledger.study(UID) == before
    assert len(ledger.events(before.id)) == 1
    assert ledger.complete_study(before.id, "quiet")
    ledger.close()


def test_a_forked_child_uses_its_own_connections(ledger: Ledger) -> None:
    receive(ledger, UID)
    context = get_context("fork")
    children = [context.Process(target=ledger.stat, args=(UID, f"child-{n}")) for n in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert ledger.study(UID).stat
    ledger.ping()


def test_two_dispatchers_have_one_leader(ledger: Ledger) -> None:
    barrier = threading.Barrier(6)

    def acquire(n: int) -> bool:
        barrier.wait()
        return ledger.acquire_leader("dispatcher", f"holder-{n}", 10)

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(acquire, range(6))) == 1


def test_readers_are_not_kept_waiting_by_a_writer(ledger: Ledger) -> None:
    """SQLite's write-ahead log, PostgreSQL's row versions: the worklist shows while reception writes."""
    study = receive(ledger, UID)
    with ledger._database.write() as connection:
        ledger._lock_study(connection, study.id)
        assert ledger.study(UID) == study
        assert ledger.counts_by_state()[State.RECEIVING] == 1
