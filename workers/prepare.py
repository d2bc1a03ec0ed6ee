"""The node-side tasks: a study's objects → model input (queue ``prepare``); a score → SR (queue ``report``)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import structlog
from celery import Celery

from triage.bundles import active_bundles
from triage.config import Configuration
from triage.deliver import Negotiator
from triage.dispatch import Doorbell
from triage.errors import NotScoredError, TriageError
from triage.ledger import Job, Ledger, State, Study, open_ledger
from triage.messages import LEASE_S, Relevance, Score, Stage
from triage.pictures import Backdrop
from triage.publish import HEATMAP, Publisher
from triage.rank import suggested_priority
from triage.sop_classes import scored_as
from triage.store import ObjectStore
from triage.transport import MAPPED_TASK, PREPARE_TASK, REFUSED_TASK, REPORT_TASK, SCORED_TASK, Pulse, connect
from triage.worktray import WorkTray
from workers.images import Source, prepare
from workers.images.backdrop import backdrop

log = structlog.get_logger(__name__)

_RETRY_S = 10.0
#: So long a report waits for a map at most: its score worker may have died. The worklist has the score meanwhile. The
#: slowest maps, gradients of paper-size flows on a CPU, take four minutes.
_MAP_WAIT_S = 300.0


class NodeTasks:
    """What the prepare worker does with a job; every method is safe to be called twice or too late.

    Parameters
    ----------
    config : Configuration
        The node's configuration.
    ledger : Ledger
        Where the jobs are.
    doorbell : Doorbell
        Sends what became ready, without waiting for the dispatcher's next turn.
    pulse : Pulse
        Shows which job this process is at.
    """

    def __init__(self, config: Configuration, ledger: Ledger, doorbell: Doorbell, pulse: Pulse) -> None:
        self._config = config
        self._ledger = ledger
        self._store = ObjectStore(config.data_dir)
        self._tray = WorkTray(config.data_dir)
        self._doorbell = doorbell
        self._pulse = pulse
        self._publisher = Publisher(config, ledger, self._store)
        self._negotiator = Negotiator(config.listen.ae_title)
        self._bundles = active_bundles(config.models)
        self._report_not_scored = any("not_scored" in d.send for d in config.destination)
        self._maps_wanted = any(HEATMAP in d.send for d in config.destination)

    def prepare(self, job_id: int, fence: int) -> None:
        """Choose the series, gate it, and make the model's input of a study."""
        with self._pulse.busy(Stage.PREPARE, job_id):
            study = self._ledger.start(job_id, fence, LEASE_S)
            if study is None:
                return
            try:
                self._prepare(study, job_id, fence)
            except NotScoredError as exc:
                log.info("not_scored", study=study.id, reason=exc.message)
                self._ledger.unsuitable(job_id, fence, exc.message, report=self._report_not_scored)
            except Exception as exc:  # noqa: BLE001 - the task's edge: the job goes back, counted, and ends as failed
                self._give_back(study, job_id, fence, exc)
            self._tidy(study.id)  # it may be too late, or not to be scored
        self._doorbell.ring(Stage.SCORE)
        self._doorbell.ring(Stage.REPORT)

    def scored(self, job_id: int, fence: int, wire: dict[str, Any], map_follows: bool = False) -> None:
        """Take a score in, then report it: at once, or when its relevance map has come, or takes too long."""
        with self._pulse.busy(Stage.SCORE, job_id):
            score = Score.from_wire(wire)
            priority = suggested_priority(score.percentile, self._config.rank) if not score.not_scored else None
            self._ledger.scored(
                job_id,
                fence,
                score,
                priority,
                report_not_scored=self._report_not_scored,
                # A program of before sent the map itself here.
                report_after_s=_MAP_WAIT_S if map_follows is True else 0.0,
            )
            study_id = self._ledger.job(job_id).study_id
            if map_follows and self._tray.get_relevance(study_id) is not None:  # another worker took it in meanwhile
                self._ledger.report_now(study_id)
            self._tidy(study_id)
        self._doorbell.ring(Stage.REPORT)
        self._doorbell.ring(Stage.SCORE)

    def mapped(self, job_id: int, fence: int, wire: dict[str, Any] | None) -> None:
        """Take in the relevance map of a study that was scored under this lease, or that there is none; report it.

        It may come before the score, where several workers take answers in.
        """
        job = self._ledger.job(job_id)
        if job.fence == fence and self._ledger.study_by_id(job.study_id).state in (State.SCORING, State.SCORED):
            if wire is not None:
                self._keep_map(job, wire)
            self._ledger.report_now(job.study_id)
        self._tidy(job.study_id)
        self._doorbell.ring(Stage.REPORT)

    def _keep_map(self, job: Job, wire: dict[str, Any]) -> None:
        try:
            self._tray.put_relevance(job.study_id, Relevance.from_wire(wire))
        except Exception as exc:  # noqa: BLE001 - a report is never lost with its map
            log.error("relevance_map_lost", job=job.id, error=type(exc).__name__)

    def _tidy(self, study_id: int) -> None:
        """Forget what a study has no use for any more, whatever became of the job that was at it."""
        self._tray.keep_what(self._ledger.study_by_id(study_id).state, study_id)

    def refused(self, job_id: int, fence: int, error: str) -> None:
        """Take note that a score worker could not score; the job is tried again and in the end fails visibly."""
        self._ledger.give_back(job_id, fence, error, _RETRY_S)
        self._tidy(self._ledger.job(job_id).study_id)

    def report(self, job_id: int, fence: int) -> None:
        """Build the SR of a scored or declined study and put it into the outbox."""
        with self._pulse.busy(Stage.REPORT, job_id):
            study = self._ledger.start(job_id, fence, LEASE_S)
            if study is None:
                return
            try:
                rows = self._publisher.publish(study, self._negotiator, partial(self._map_of, study))
                self._ledger.reported(job_id, fence, rows)
            except Exception as exc:  # noqa: BLE001 - as above
                self._give_back(study, job_id, fence, exc)
            self._tidy(study.id)

    def _map_of(self, study: Study) -> tuple[Relevance, Backdrop] | None:
        """Return a study's map and the images to show it on, decoded once more."""
        relevance = self._tray.get_relevance(study.id)
        if relevance is None:
            log.warning("no_relevance_map", study=study.id)
            return None
        instances = self._ledger.sources_of(study.id)
        modality = scored_as(instance.sop_class_uid for instance in instances)
        sources = [Source(instance.sop_instance_uid, self._store.path(instance.digest)) for instance in instances]
        return relevance, backdrop(sources, modality, relevance, self._bundles[modality].preprocessing)

    def _prepare(self, study: Study, job_id: int, fence: int) -> None:
        instances = [instance for instance in self._ledger.instances_of(study.id) if instance.scorable]
        sources = [Source(instance.sop_instance_uid, self._store.path(instance.digest)) for instance in instances]
        grids = {modality: bundle.preprocessing for modality, bundle in self._bundles.items()}
        prepared = prepare(sources, grids)
        self._tray.put(study.id, replace(prepared.model_input, relevance=self._maps_wanted))
        digest = self._bundles[prepared.modality].digest
        self._ledger.prepared(job_id, fence, digest, prepared.sources, prepared.notes)

    def _give_back(self, study: Study, job_id: int, fence: int, exc: Exception) -> None:
        # The message of a foreign exception may quote a data set; its type, and the system's own words, never do.
        what = exc.message if isinstance(exc, TriageError) else getattr(exc, "strerror", "") or type(exc).__name__
        log.error("task_failed", study=study.id, job=job_id, error=what, exc_info=exc)
        self._ledger.give_back(job_id, fence, f"could not be processed: {what}", _RETRY_S)


def register(app: Celery, config: Configuration, pulse: Pulse) -> None:
    """Register the node-side tasks on `app`.

    Raises
    ------
    TriageError
        If the ledger cannot be opened or a configured bundle is missing or altered.
    """
    ledger = open_ledger(config)
    doorbell = Doorbell(ledger, app, WorkTray(config.data_dir), connect(config))
    tasks = NodeTasks(config, ledger, doorbell, pulse)
    for name, function in (
        (PREPARE_TASK, tasks.prepare),
        (SCORED_TASK, tasks.scored),
        (REFUSED_TASK, tasks.refused),
        (MAPPED_TASK, tasks.mapped),
        (REPORT_TASK, tasks.report),
    ):
        app.task(name=name)(_as_function(function))


def _as_function(method: Callable[..., None]) -> Callable[..., None]:
    """Celery sets attributes on what it registers, which a bound method does not allow."""

    @wraps(method)
    def function(*args: Any) -> None:
        method(*args)

    return function
