"""The score task: a job number, a bundle digest and an image in; two log densities out, and a map where wanted.

It knows no patient.

This process reaches the broker and the bundles, nothing else: no ledger, no object store, no DICOM network
(enforced by an import contract).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
import torch
from celery import Celery

from triage.bundles import active_bundles
from triage.config import Configuration
from triage.errors import BundleError
from triage.messages import ModelInput, Relevance, Score, Stage
from triage.transport import MAPPED_TASK, REFUSED_TASK, SCORE_TASK, SCORED_TASK, Pulse, send
from workers.flows.engine import Engine
from workers.flows.golden_check import require_golden
from workers.request import end_after_this_task

log = structlog.get_logger(__name__)


def load_engines(config: Configuration) -> dict[str, Engine]:
    """Load every configured bundle once, and try this machine on its golden input; returns the engines by digest.

    Raises
    ------
    BundleError
        If a bundle is missing, altered or unknown.
    MachineError
        If this machine doesn't score as the bundle's maker did.
    """
    engines = {}
    for bundle in active_bundles(config.models).values():
        engine = Engine(bundle, config.worker.device, precision=config.worker.precision)
        golden = require_golden(engine)
        log.info(
            "bundle_loaded",
            bundle=bundle.name,
            version=bundle.version,
            digest=bundle.digest,
            compute=engine.compute,
            golden_ratio_error_nats=golden.ratio_error,
        )
        engines[bundle.digest] = engine
    return engines


def register(app: Celery, config: Configuration, pulse: Pulse) -> None:
    """Load the models and register the task on `app`."""
    run = make_task(app, load_engines(config), pulse)
    app.task(name=SCORE_TASK)(run)


def make_task(app: Celery, engines: dict[str, Engine], pulse: Pulse) -> Callable[..., None]:
    """Return the task's function."""

    def run(job_id: int, fence: int, bundle_digest: str, wire: dict[str, Any]) -> None:
        with pulse.busy(Stage.SCORE, job_id):
            answer = _answer(engines, job_id, bundle_digest, wire)
            pulse.answered(job_id, fence)
            send(app, answer.task, job_id, fence, *answer.args)
            # The score is on its way, and can't be lost with its map.
            if answer.to_map is not None:
                relevance = map_one(engines[bundle_digest], answer.to_map)
                send(app, MAPPED_TASK, job_id, fence, None if relevance is None else relevance.to_wire())

    return run


@dataclass(frozen=True)
class _Answer:
    """The task that takes an answer in, what it gets beside job and fence, and the image of which a map is wanted."""

    task: str
    args: tuple[Any, ...]
    to_map: ModelInput | None = None


def _answer(engines: dict[str, Engine], job_id: int, bundle_digest: str, wire: dict[str, Any]) -> _Answer:
    try:
        model_input = ModelInput.from_wire(wire)
        score = score_one(engines, bundle_digest, model_input)
    except (BundleError, ValueError) as exc:
        log.error("score_refused", job=job_id, error=str(exc))
        return _Answer(REFUSED_TASK, (str(exc),))
    except (RuntimeError, MemoryError) as exc:  # torch: out of memory, a lost device
        log.error("score_broke", job=job_id, error=type(exc).__name__)
        _end_if_lost(exc)
        return _Answer(REFUSED_TASK, (f"the score worker broke: {type(exc).__name__}",))
    log.info("scored", job=job_id, model_time_s=round(score.model_time_s, 3))
    wanted = model_input.relevance and not score.not_scored and _makes_maps(engines[bundle_digest])
    to_map = model_input.each()[score.chosen] if wanted else None
    return _Answer(SCORED_TASK, (score.to_wire(), wanted), to_map)


def _makes_maps(engine: Engine) -> bool:
    try:
        return engine.mapper is not None
    except BundleError as exc:
        log.error("relevance_map_failed", bundle=engine.bundle.name, error=str(exc))
        return False


def map_one(engine: Engine, model_input: ModelInput) -> Relevance | None:
    """Return the relevance map of a scored input; None if its bundle makes none, or if anything goes wrong."""
    try:
        return engine.mapper(model_input.pixels) if engine.mapper is not None else None
    except Exception as exc:  # noqa: BLE001 - as said
        log.error("relevance_map_failed", bundle=engine.bundle.name, error=type(exc).__name__)
        _end_if_lost(exc)
        return None


def _end_if_lost(exc: Exception) -> None:
    """After an error of the device every later call to it fails in this process; only a new one gets it back."""
    if isinstance(exc, torch.AcceleratorError):
        log.error("device_lost", restarts=True)
        end_after_this_task()


def score_one(engines: dict[str, Engine], bundle_digest: str, model_input: ModelInput) -> Score:
    """Score one input with the bundle that was asked for, and no other; of several images the most abnormal counts.

    Raises
    ------
    BundleError
        If this worker has no bundle of that digest, or the input does not fit it.
    """
    engine = engines.get(bundle_digest)
    if engine is None:
        raise BundleError(
            f"this score worker has no bundle {bundle_digest[:12]}", remedy="give node and workers the same bundles"
        )
    scores = [engine.score(one) for one in model_input.each()]
    return scores[0] if len(scores) == 1 else _most_abnormal(scores)


def _most_abnormal(scores: Sequence[Score]) -> Score:
    usable = [number for number, score in enumerate(scores) if not score.not_scored]
    chosen = max(usable, key=lambda number: scores[number].combined, default=0)
    p_value = scores[chosen].p_value
    reasons = dict.fromkeys(score.not_scored for score in scores if score.not_scored)
    left = f"{len(scores) - len(usable)} of {len(scores)} images not scored: {'; '.join(reasons)}"
    return replace(
        scores[chosen],
        images=len(scores),
        chosen=chosen,
        passed_over=left if 0 < len(usable) < len(scores) else "",
        p_value=None if p_value is None else min(1.0, len(usable) * p_value),
        calibrated=None,
        prevalence=None,
        model_time_s=sum(score.model_time_s for score in scores),
    )
