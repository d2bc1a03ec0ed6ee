"""The doorbell and the tray: what one bad file, a broker that hangs and a busy node do to everybody else's studies."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgpack
import numpy as np
import pytest

from tests.support.ledgers import (
    DIGEST,
    LEASE_S,
    Clock,
    a_score,
    ledger_at_broker,
    receive,
    to_preparing,
    to_scored,
    to_scoring,
)
from tests.support.peers import wait_until
from tests.support.redis import running_redis
from triage.config import Configuration
from triage.config.schema import Complete, Models
from triage.deliver import Deliverer
from triage.dispatch import WINDOW, Doorbell, run_dispatcher
from triage.ledger import JobState, Ledger, State, Study, open_ledger
from triage.ledger.jobs import MAX_ATTEMPTS
from triage.messages import ModelInput, Relevance, Stage
from triage.store import ObjectStore
from triage.transport import Pulse, connect, make_app, queue_length
from triage.worktray import WorkTray
from workers.prepare import NodeTasks

PICTURE = ModelInput(modality="CXR", pixels=np.zeros((8, 8), np.uint8))
MAP = Relevance(method="test", values=np.zeros((2, 2), np.uint8))


@dataclass
class Node:
    """A ledger, a tray and a doorbell, with nobody at work."""

    ledger: Ledger
    config: Configuration
    clock: Clock

    def __post_init__(self) -> None:
        self.tray = WorkTray(self.config.data_dir)
        self.client = connect(self.config)
        self.doorbell = Doorbell(self.ledger, make_app(self.config), self.tray, self.client)

    def ready(self) -> Study:
        """A study whose SCORE job is ready and whose input lies in the tray."""
        study = receive(self.ledger)
        job = to_preparing(self.ledger, study)
        self.tray.put(study.id, PICTURE)
        assert self.ledger.prepared(job.id, job.fence, DIGEST, [f"{study.study_instance_uid}.1.1"])
        return study

    def several(self, number: int) -> list[Study]:
        """Studies that were received one after the other, all ready to be scored."""
        return [self.ready() for _ in range(number)]

    def file(self, study: Study) -> Path:
        """Where a study's input lies."""
        return self.config.data_dir / "work" / f"{study.id}.msgpack"

    def attempts(self, study: Study) -> int:
        """How often a study's SCORE job has been leased."""
        return {job.stage: job.attempts for job in self.ledger.jobs_of(study.id)}[Stage.SCORE]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_redis(tmp_path / "redis") as url, ledger_at_broker(tmp_path, url) as parts:
        yield Node(*parts)


@pytest.fixture
def node_with_a_broker_that_hangs(tmp_path: Path) -> Iterator[Node]:
    """Its broker accepts every connection and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with ledger_at_broker(tmp_path, f"redis://127.0.0.1:{listener.getsockname()[1]}/0") as parts:
            yield Node(*parts)


@pytest.mark.redis
@pytest.mark.parametrize(
    "content",
    [b"", msgpack.packb(PICTURE.to_wire())[:-3], msgpack.packb({}), msgpack.packb([1]), msgpack.packb(1)],
    ids=["empty", "cut-off", "nothing-in-it", "a-list", "a-number"],
)
def test_one_unreadable_input_is_prepared_again_and_its_neighbours_are_scored(node: Node, content: bytes) -> None:
    first, bad, *others = node.several(5)
    node.file(bad).write_bytes(content)
    assert node.doorbell.ring(Stage.SCORE) == 4
    assert queue_length(node.client, Stage.SCORE) == 4
    assert node.ledger.study_by_id(bad.id).state is State.COMPLETE
    assert [node.attempts(study) for study in (first, *others)] == [1] * 4
    assert [job.stage for job in node.ledger.claim_jobs(Stage.PREPARE, 9, LEASE_S)] == [Stage.PREPARE]


@pytest.mark.redis
def test_what_fails_without_a_name_costs_its_neighbours_no_attempt(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, *others = node.several(3)
    get = node.tray.get

    def broken(study_id: int) -> ModelInput:
        if study_id == bad.id:
            raise RuntimeError
        return get(study_id)

    monkeypatch.setattr(node.tray, "get", broken)
    with pytest.raises(RuntimeError):
        node.doorbell.ring(Stage.SCORE)
    assert [node.attempts(study) for study in (bad, *others)] == [1, 0, 0]
    # Counted, so that it ends some day; the others don't wait for that.
    assert node.doorbell.ring(Stage.SCORE) == 2


@pytest.mark.redis
def test_an_unreadable_map_is_no_map(node: Node) -> None:
    for content in (b"", msgpack.packb({"method": "x"}), msgpack.packb(7)):
        (node.config.data_dir / "work" / "1.relevance.msgpack").write_bytes(content)
        assert node.tray.get_relevance(1) is None


def test_two_processes_write_one_input_and_it_is_whole(tmp_path: Path) -> None:
    """Each has a draft of its own, and none is left."""
    tray = WorkTray(tmp_path)
    child = os.fork()
    for _ in range(50):
        tray.put(1, PICTURE)
    if child == 0:
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert tray.get(1).modality == "CXR"
    assert [file.name for file in (tmp_path / "work").iterdir()] == ["1.msgpack"]


def test_a_broker_that_hangs_costs_no_attempt_and_is_left_alone(node_with_a_broker_that_hangs: Node) -> None:
    node = node_with_a_broker_that_hangs
    studies = node.several(3)
    rung = threading.Thread(target=node.doorbell.ring, args=(Stage.SCORE,), daemon=True)
    rung.start()
    rung.join(40)
    assert not rung.is_alive()
    assert [node.attempts(study) for study in studies] == [0] * 3
    assert {job.state for study in studies for job in node.ledger.jobs_of(study.id)} == {JobState.DONE, JobState.READY}
    began = time.monotonic()
    assert node.doorbell.ring(Stage.SCORE) == 0
    assert time.monotonic() - began < 1


def test_studies_are_completed_while_the_broker_hangs(node_with_a_broker_that_hangs: Node) -> None:
    node = node_with_a_broker_that_hangs
    config = node.config.model_copy(update={"complete": Complete(quiet_s={"CR": 0.1, "CT": 0.1})})
    ledger = open_ledger(config)
    stop = threading.Event()
    deliverer = Deliverer(config, ledger, ObjectStore(config.data_dir))
    loop = threading.Thread(
        target=run_dispatcher, args=(config, ledger, make_app(config), deliverer, stop), daemon=True
    )
    loop.start()
    try:
        for _ in range(3):  # the second and the third come when the loop is at the broker for the first
            study = receive(ledger)
            wait_until(lambda study=study: ledger.study_by_id(study.id).state is State.COMPLETE, 40, "completion")
    finally:
        stop.set()
        loop.join(40)
    assert not loop.is_alive()
    ledger.close()


@pytest.mark.redis
def test_every_worker_has_a_job_beside_those_that_wait(node: Node) -> None:
    node.several(WINDOW + 12)
    assert node.doorbell.ring(Stage.SCORE) == WINDOW
    assert node.doorbell.ring(Stage.SCORE) == 0
    for number in range(10):
        node.client.set(f"triage:alive:score:elsewhere:{number}", 1, ex=60)
    node.client.set("triage:alive:prepare:elsewhere:1", 1, ex=60)
    assert node.doorbell.ring(Stage.SCORE) == 10
    assert node.doorbell.ring(Stage.SCORE) == 0


@pytest.mark.redis
def test_an_object_that_the_node_cannot_open_is_tried_again_and_ends_on_the_worklist_as_failed(node: Node) -> None:
    """It may lie there again tomorrow, and says nothing of the patient."""
    config = node.config.model_copy(update={"models": Models(cxr="", bct="")})
    tasks = NodeTasks(config, node.ledger, node.doorbell, Pulse(config, "prepare"))
    study = receive(node.ledger)
    assert node.ledger.complete_study(study.id, "quiet")
    for _ in range(MAX_ATTEMPTS):
        assert node.ledger.study_by_id(study.id).state in (State.COMPLETE, State.PREPARING)
        node.clock.go(11)
        [job] = node.ledger.claim_jobs(Stage.PREPARE, 1, LEASE_S)
        tasks.prepare(job.id, job.fence)
    failed = node.ledger.study_by_id(study.id)
    assert failed.state is State.FAILED
    assert failed.reason == "prepare: could not be processed: No such file or directory (5 attempts)"


@pytest.mark.redis
class TestPixelsDontOutlastTheirUse:
    """What lies in the tray goes when its study has no use for it."""

    def tasks(self, node: Node) -> NodeTasks:
        config = node.config.model_copy(update={"models": Models(cxr="", bct="")})
        return NodeTasks(config, node.ledger, node.doorbell, Pulse(config, "prepare"))

    def test_of_what_was_scored_or_not(self, node: Node) -> None:
        tasks = self.tasks(node)
        for score in (a_score(), a_score(not_scored="no thorax")):
            job = to_scoring(node.ledger, receive(node.ledger))
            node.tray.put(job.study_id, PICTURE)
            tasks.scored(job.id, job.fence, score.to_wire())
            assert not self.left(node)

    @pytest.mark.parametrize("end", ["discarded", "failed"])
    def test_of_what_ended_while_it_was_scored(self, node: Node, end: str) -> None:
        tasks = self.tasks(node)
        study = receive(node.ledger)
        job = to_scoring(node.ledger, study)
        node.tray.put(study.id, PICTURE)
        if end == "discarded":
            node.ledger.discard(study.study_instance_uid, "operator", "sent by mistake")
        else:
            node.ledger.fail(job.id, job.fence, "broken")
        tasks.scored(job.id, job.fence, a_score().to_wire(), True)
        tasks.mapped(job.id, job.fence, MAP.to_wire())
        assert not self.left(node)

    def test_of_what_a_worker_refused_for_the_last_time(self, node: Node) -> None:
        tasks = self.tasks(node)
        job = to_scoring(node.ledger, receive(node.ledger))
        node.tray.put(job.study_id, PICTURE)
        for _ in range(4):
            tasks.refused(job.id, job.fence, "out of memory")
            assert self.left(node)
            node.clock.go(11)
            [job] = node.ledger.claim_jobs(Stage.SCORE, 1, LEASE_S)
        tasks.refused(job.id, job.fence, "out of memory")
        assert node.ledger.study_by_id(job.study_id).state is State.FAILED
        assert not self.left(node)

    def test_a_sweep_leaves_what_is_wanted_and_what_is_young(self, node: Node) -> None:
        gone = receive(node.ledger)
        to_preparing(node.ledger, gone)
        node.tray.put(gone.id, PICTURE)
        node.ledger.discard(gone.study_instance_uid, "operator", "sent by mistake")
        mapped = receive(node.ledger)
        to_scored(node.ledger, mapped)
        wanted = node.ready()
        node.tray.put_relevance(mapped.id, MAP)
        node.tray.put_relevance(gone.id, MAP)
        node.tray.put(4711, PICTURE)
        (node.config.data_dir / "work" / "3.msgpack.99.partial").write_bytes(b"half")
        now = time.time()
        assert node.tray.sweep(node.ledger.at_work(), now) == 0
        assert node.tray.sweep(node.ledger.at_work(), now + 3600) == 4
        assert self.left(node) == {f"{wanted.id}.msgpack", f"{mapped.id}.relevance.msgpack"}

    def test_a_score_waits_for_no_map_and_its_report_does(self, node: Node) -> None:
        tasks = self.tasks(node)
        for number, relevance in enumerate((MAP.to_wire(), None, {"not": "a map"}), start=1):
            job = to_scoring(node.ledger, receive(node.ledger))
            tasks.scored(job.id, job.fence, a_score().to_wire(), True)
            assert node.ledger.study_by_id(job.study_id).state is State.SCORED
            assert node.ledger.claim_jobs(Stage.REPORT, 1, LEASE_S) == []
            tasks.mapped(job.id, job.fence - 1, MAP.to_wire())  # of a lease that ran out
            assert node.tray.get_relevance(job.study_id) is None
            assert node.ledger.claim_jobs(Stage.REPORT, 1, LEASE_S) == []
            tasks.mapped(job.id, job.fence, relevance)
            assert (node.tray.get_relevance(job.study_id) is not None) is (relevance == MAP.to_wire())
            assert job.study_id in [report.study_id for report in node.ledger.leased_jobs(Stage.REPORT)]
            assert queue_length(node.client, Stage.REPORT) == number

    def test_a_map_may_come_before_its_score(self, node: Node) -> None:
        """Two workers take answers in, and the one with the map is quicker."""
        tasks = self.tasks(node)
        job = to_scoring(node.ledger, receive(node.ledger))
        tasks.mapped(job.id, job.fence, MAP.to_wire())
        assert node.ledger.study_by_id(job.study_id).state is State.SCORING
        tasks.scored(job.id, job.fence, a_score().to_wire(), True)
        assert node.tray.get_relevance(job.study_id) is not None
        assert [report.study_id for report in node.ledger.leased_jobs(Stage.REPORT)] == [job.study_id]

    def test_a_report_whose_map_never_comes_is_made_without(self, node: Node) -> None:
        job = to_scoring(node.ledger, receive(node.ledger))
        self.tasks(node).scored(job.id, job.fence, a_score().to_wire(), True)
        assert node.ledger.claim_jobs(Stage.REPORT, 1, LEASE_S) == []
        node.clock.go(299)
        assert node.ledger.claim_jobs(Stage.REPORT, 1, LEASE_S) == []
        node.clock.go(2)
        assert [report.study_id for report in node.ledger.claim_jobs(Stage.REPORT, 1, LEASE_S)] == [job.study_id]

    def left(self, node: Node) -> set[str]:
        return {file.name for file in (node.config.data_dir / "work").iterdir()}
