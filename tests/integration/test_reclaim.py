"""Whose job is taken back: a dead worker's, soon and on a busy node too; never one that waits its turn."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.ledgers import LEASE_S, Clock, ledger_at_broker, receive, to_preparing, to_scoring
from tests.support.redis import running_redis
from triage.config import Configuration
from triage.dispatch import Reclaimer
from triage.ledger import Job, JobState, Ledger
from triage.messages import Stage
from triage.transport import PREPARE_TASK, SCORE_TASK, SCORED_TASK, Pulse, connect, make_app, send

pytestmark = pytest.mark.redis


@dataclass
class Node:
    """A ledger and a broker without anybody at work."""

    ledger: Ledger
    config: Configuration
    clock: Clock

    def __post_init__(self) -> None:
        self.app = make_app(self.config)
        self.client = connect(self.config)
        self.pulse = Pulse(self.config, "score")
        self.reclaimer = Reclaimer(self.ledger, self.client)

    def sent(self) -> Job:
        """A study's SCORE job, leased a second after the last one, its message sent."""
        self.clock.go(1)
        job = to_scoring(self.ledger, receive(self.ledger))
        send(self.app, SCORE_TASK, job.id, job.fence)
        return job

    def pop(self, queue: str) -> None:
        """Take a message from a queue as a worker does."""
        assert self.client.rpop(queue)

    def swept(self) -> int:
        """How many jobs two sweeps take back."""
        return self.reclaimer.sweep() + self.reclaimer.sweep()

    def is_held(self, job: Job) -> bool:
        """Whether a job's lease still runs."""
        now = self.ledger.job(job.id)
        return now.state is JobState.LEASED and now.lease_until > self.clock()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_redis(tmp_path / "redis") as url, ledger_at_broker(tmp_path, url) as parts:
        yield Node(*parts)


def test_a_waiting_job_is_not_taken_back(node: Node) -> None:
    jobs = [node.sent() for _ in range(3)]
    assert node.swept() == 0
    assert all(map(node.is_held, jobs))


def test_a_dead_workers_job_is_taken_back_while_others_wait(node: Node) -> None:
    dead, working, waiting = node.sent(), node.sent(), node.sent()
    node.pop("score")
    node.pop("score")
    with node.pulse.busy(Stage.SCORE, working.id):
        assert node.swept() == 1
    assert not node.is_held(dead)
    assert node.is_held(working)
    assert node.is_held(waiting)


def test_a_score_that_waits_to_be_taken_in_is_not_made_again(node: Node) -> None:
    """The node's only prepare worker may be at a large study for long: that is nobody's death."""
    job, dead = node.sent(), node.sent()
    node.pop("score")
    node.pop("score")
    node.pulse.answered(job.id, job.fence)
    send(node.app, SCORED_TASK, job.id, job.fence, {})
    assert node.swept() == 1
    assert node.is_held(job)
    assert not node.is_held(dead)


def test_an_answer_that_was_lost_is_asked_for_again(node: Node) -> None:
    job = node.sent()
    node.pop("score")
    node.pulse.answered(job.id, job.fence)
    send(node.app, SCORED_TASK, job.id, job.fence, {})
    node.pop("report")
    assert node.swept() == 1
    assert not node.is_held(job)


def test_one_look_takes_nothing_back(node: Node) -> None:
    job = node.sent()
    node.pop("score")
    assert node.reclaimer.sweep() == 0
    with node.pulse.busy(Stage.SCORE, job.id):
        assert node.reclaimer.sweep() == 0
    assert node.reclaimer.sweep() == 0
    assert node.is_held(job)


def test_jobs_of_one_claim_are_told_apart_only_when_none_waits(node: Node) -> None:
    """Their messages' order isn't known from the ledger: it goes by STAT, then by arrival."""
    for _ in range(2):
        to_preparing(node.ledger, receive(node.ledger))
    node.clock.go(LEASE_S + 1)
    jobs = node.ledger.claim_jobs(Stage.PREPARE, 2, LEASE_S)
    for job in jobs:
        send(node.app, PREPARE_TASK, job.id, job.fence)
    node.pop("prepare")
    assert node.swept() == 0
    node.pop("prepare")
    assert node.swept() == 2
