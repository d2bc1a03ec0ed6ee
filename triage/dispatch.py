"""The loop that moves studies along: completes them, rings for workers, takes dead workers' jobs back, delivers.

One dispatcher leads per ledger; a second one waits for its lease to end.
"""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import redis
import structlog
from celery import Celery

from triage.complete import Silence, completion, count_at_destination, is_capped, is_quiet
from triage.config import Configuration
from triage.deliver import Deliverer
from triage.errors import BrokerError, NotFoundError
from triage.ledger import Job, Ledger, Study
from triage.messages import LEASE_S, Stage
from triage.store import ObjectStore
from triage.transport import (
    PREPARE_TASK,
    REPORT_TASK,
    SCORE_TASK,
    Pulse,
    alive,
    answered_key,
    busy_key,
    connect,
    queue_length,
    send,
)
from triage.worktray import WorkTray

log = structlog.get_logger(__name__)

# Messages that wait on the broker at once: few, so that a STAT study overtakes all but these.
WINDOW = 8
_ROLE = {Stage.PREPARE: "prepare", Stage.SCORE: "score", Stage.REPORT: "prepare"}
_TICK_S = 0.2
_LEADER_TTL_S = 15.0
_RECLAIM_EVERY_S = 2.0
_RECOUNT_S = 15.0
_TIDY_EVERY_S = 600.0


class Doorbell:
    """Turns ready jobs of the ledger into messages on the broker, in the worklist's order, a window at a time.

    Parameters
    ----------
    ledger : Ledger
        Where the jobs are.
    app : celery.Celery
        What takes messages.
    tray : WorkTray
        Where the model inputs lie.
    client : redis.Redis
        Asks the broker how many workers there are.
    clock : callable
        Returns seconds, monotonic.
    """

    def __init__(
        self,
        ledger: Ledger,
        app: Celery,
        tray: WorkTray,
        client: redis.Redis,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._app = app
        self._tray = tray
        self._client = client
        self._clock = clock
        self._quiet_until = 0.0

    def ring(self, stage: Stage) -> int:
        """Claim and send as many jobs of a stage as its window has room for; returns how many.

        A broker that is away is no loss: the jobs become claimable again. So do those behind a job that cannot be
        sent for a reason of its own.
        """
        began = self._clock()
        room = self._room(stage) if began >= self._quiet_until else 0
        waiting = deque(self._ledger.claim_jobs(stage, room, LEASE_S) if room > 0 else ())
        sent = 0
        try:
            while waiting:
                job = waiting.popleft()
                sent += self._sent(job)
        except BrokerError as exc:
            waiting.append(job)
            self._leave_alone(began, exc.message)
        finally:
            for job in waiting:
                self._ledger.unclaim(job.id, job.fence)
        return sent

    def _room(self, stage: Stage) -> int:
        """Return for how many more messages there is room, beside one for each worker, which is at work on it."""
        leased = self._ledger.leased_count(stage)
        if leased < WINDOW:
            return WINDOW - leased
        began = self._clock()
        try:
            return WINDOW + alive(self._client, _ROLE[stage]) - leased
        except redis.RedisError as exc:
            self._leave_alone(began, type(exc).__name__)
            return 0

    def _leave_alone(self, since: float, error: str) -> None:
        """Don't ask a broker again for as long as it kept us waiting: no study is completed in that time."""
        log.warning("broker_away", error=error)
        now = self._clock()
        self._quiet_until = now + (now - since)

    def _sent(self, job: Job) -> bool:
        """Send a job; False if its model input is lost (or was prepared on another host): it is prepared again."""
        try:
            self._send(job)
        except NotFoundError:
            self._ledger.prepare_again(job.id, job.fence)
            return False
        return True

    def _send(self, job: Job) -> None:
        if job.stage is Stage.PREPARE:
            send(self._app, PREPARE_TASK, job.id, job.fence)
        elif job.stage is Stage.REPORT:
            send(self._app, REPORT_TASK, job.id, job.fence)
        else:
            send(self._app, SCORE_TASK, job.id, job.fence, job.bundle_digest, self._tray.get(job.study_id).to_wire())


@dataclass
class Reclaimer:
    """Takes back leased jobs that nobody is at: no message waits for them and no worker shows them as its own.

    A job is taken back when it is seen orphaned twice in a row, some seconds apart; should a worker have had it
    after all, its late result is stale by the fence and changes nothing.
    """

    ledger: Ledger
    client: redis.Redis
    _suspects: dict[int, int] = field(default_factory=dict)

    def sweep(self) -> int:
        """Look once at every leased job; returns how many were taken back."""
        reclaimed = 0
        seen: dict[int, int] = {}
        for stage in Stage:
            for job in self._orphans(stage):
                if self._suspects.get(job.id) == job.fence:
                    log.warning("job_taken_back", job=job.id, stage=stage.value, attempt=job.attempts)
                    self.ledger.expire_lease(job.id, job.fence)
                    reclaimed += 1
                else:
                    seen[job.id] = job.fence
        self._suspects = seen
        return reclaimed

    def _orphans(self, stage: Stage) -> list[Job]:
        """Return the jobs that no worker is at, and that neither a message nor an answer of theirs waits for."""
        jobs = self.ledger.leased_jobs(stage)
        alone = [job for job in jobs if not self.client.exists(busy_key(stage, job.id))]
        if not alone:
            return []
        waiting = queue_length(self.client, stage)
        # First in, first out: what is on the queue was sent last. So a busy node too misses a dead worker's job.
        taken = [job for job in alone if sum(_since(other) > _since(job) for other in alone) >= waiting]
        if stage is Stage.SCORE and queue_length(self.client, Stage.REPORT):
            return [job for job in taken if not self.client.exists(answered_key(job.id, job.fence))]
        return taken


def _since(job: Job) -> float:
    return job.leased_at or 0.0


@dataclass(frozen=True)
class _Question:
    """A count asked of a destination, and what the study was like when it was asked."""

    asked_at: float
    last_object_at: float
    answer: Future[int | None]


class Completer:
    """Decides which studies are complete; asks a destination for its count in threads, never in the loop."""

    def __init__(
        self,
        config: Configuration,
        ledger: Ledger,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._clock = clock
        self._silence = Silence(ticks)
        self._store = ObjectStore(config.data_dir)
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="count")
        self._questions: dict[int, _Question] = {}

    def sweep(self) -> None:
        """Complete every study whose signal has fired."""
        receiving = self._ledger.receiving_studies()
        silences = self._silence.look(receiving, self._clock())
        for study in receiving:
            now, silent_s = self._clock(), silences[study.id]
            asked = self._asked(study, now, silent_s)
            capped = is_capped(study, now, silent_s, self._config.complete)
            if asked is not None and not asked.done() and not capped:
                continue  # the answer may say that more is to come
            count = asked.result() if asked is not None and asked.done() else None
            signal = completion(study, now, silent_s, self._config.complete, count)
            if signal is not None:
                self._ledger.complete_study(study.id, signal)
        for study_id in self._questions.keys() - {study.id for study in receiving}:
            del self._questions[study_id]

    def close(self) -> None:
        """Don't wait for counts under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _asked(self, study: Study, now: float, silent_s: float) -> Future[int | None] | None:
        """Return the question put to a destination about this study; None when there is nothing to ask yet."""
        config = self._config
        hinted = study.released_at is not None or is_quiet(study, silent_s, config.complete)
        if not (config.complete.count_at_destination and config.destination and hinted):
            return None
        question = self._questions.get(study.id)
        stale = question is not None and question.answer.done() and not 0 <= now - question.asked_at <= _RECOUNT_S
        if question is None or stale or question.last_object_at != study.last_object_at:
            answer = self._pool.submit(self._count, study)
            question = self._questions[study.id] = _Question(now, study.last_object_at, answer)
        return question.answer

    def _count(self, study: Study) -> int | None:
        config = self._config
        try:
            maps = self._ledger.digests_of_maps(study.study_instance_uid)
            ours = {str(self._store.read(digest, stop_before_pixels=True).SeriesInstanceUID) for digest in maps}
            if ours:  # what came back to us counts on both sides
                ours -= {instance.series_instance_uid for instance in self._ledger.instances_of(study.id)}
            return count_at_destination(
                config.destination, study.study_instance_uid, config.listen.ae_title, own_series=ours
            )
        except Exception as exc:  # noqa: BLE001 - the thread's edge: without a count, quiet time and cap decide
            log.error("count_unavailable", study=study.id, error=type(exc).__name__)
            return None


def run_dispatcher(
    config: Configuration, ledger: Ledger, app: Celery, deliverer: Deliverer, stop: threading.Event
) -> None:
    """Run the loop until `stop` is set."""
    # Not the process: a dispatcher that was killed and started again leads on at once.
    holder = f"{socket.gethostname()}:{config.data_dir.resolve()}"
    client = connect(config)
    tray = WorkTray(config.data_dir)
    doorbell = Doorbell(ledger, app, tray, client)
    completer = Completer(config, ledger)
    reclaimer = Reclaimer(ledger, client)
    reclaiming, tidying = _NowAndThen(_RECLAIM_EVERY_S), _NowAndThen(_TIDY_EVERY_S)
    pulse = Pulse(config, "dispatcher")
    pulse.start()
    deliverer.start()
    led_until = 0.0
    try:
        while not stop.is_set():
            now = time.monotonic()
            if now > led_until - _LEADER_TTL_S / 2:
                if not ledger.acquire_leader("dispatcher", holder, _LEADER_TTL_S):
                    stop.wait(1.0)
                    continue
                led_until = now + _LEADER_TTL_S
            completer.sweep()
            for stage in Stage:
                doorbell.ring(stage)
            if reclaiming.is_due(now):
                with suppress(redis.RedisError):  # the next sweep looks again
                    reclaimer.sweep()
            if tidying.is_due(now):
                tray.sweep(ledger.at_work(), time.time())
            deliverer.tick()
            stop.wait(_TICK_S)
    finally:
        deliverer.stop()
        completer.close()
        pulse.stop()


@dataclass
class _NowAndThen:
    """What isn't done in every turn of the loop, but in the first."""

    every_s: float
    _next: float = 0.0

    def is_due(self, now: float) -> bool:
        """Tell whether it is time again; if so, it next is in ``every_s`` seconds."""
        if now < self._next:
            return False
        self._next = now + self.every_s
        return True
