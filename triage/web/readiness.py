"""Whether the node can do its work, part by part."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog

from triage.config.schema import Configuration
from triage.ledger import Ledger
from triage.probes import Probe, probe_broker, probe_disk, probe_ledger, probe_listener, probe_models, probe_role
from triage.web.schemas import Part, ReadinessAnswer

log = structlog.get_logger(__name__)

CACHE_S = 5.0
# Verifying a bundle reads all its bytes; it cannot change under a running node without being refused there.
BUNDLE_CACHE_S = 300.0

ROLES = {"score worker": "score", "prepare worker": "prepare", "dispatcher": "dispatcher"}
"""Part name to the role whose sign of life (`triage.transport.Pulse`) it is."""


class Readiness:
    """Runs the probes, all at once, and keeps the answer for a few seconds so that asking often costs nothing.

    Parameters
    ----------
    probes : mapping of str to Probe
        By the name of the part.
    ttl_s : float
        For how many seconds an answer is kept.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self,
        probes: Mapping[str, Probe],
        *,
        ttl_s: float = CACHE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probes = dict(probes)
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._answer: ReadinessAnswer | None = None
        self._until = 0.0

    def check(self) -> ReadinessAnswer:
        """Return the state of every part, at most ``ttl_s`` old."""
        with self._lock:
            if self._answer is None or self._clock() >= self._until:
                with ThreadPoolExecutor(max_workers=max(1, len(self._probes))) as pool:
                    parts = dict(zip(self._probes, pool.map(_ask, self._probes.values()), strict=True))
                self._answer = ReadinessAnswer(ready=all(part.ok for part in parts.values()), parts=parts)
                self._until = self._clock() + self._ttl_s
            return self._answer


def _ask(probe: Probe) -> Part:
    try:
        ok, detail = probe()
    except Exception as exc:  # noqa: BLE001 - the edge to parts that may fail in any way
        log.warning("web.probe_failed", error=type(exc).__name__)
        return Part(ok=False, detail=f"the check itself failed: {type(exc).__name__}")
    return Part(ok=ok, detail=detail)


def default_probes(config: Configuration, ledger: Ledger) -> dict[str, Probe]:
    """Return the probes of every part a node needs: listener, disk, ledger, broker, the workers, dispatcher, models."""
    probes: dict[str, Probe] = {
        "listener": lambda: probe_listener(config.listen),
        "disk": lambda: probe_disk(config),
        "ledger": lambda: probe_ledger(ledger),
        "broker": lambda: probe_broker(config),
        "models": _remembered(lambda: probe_models(config), BUNDLE_CACHE_S),
    }
    for part, role in ROLES.items():
        probes[part] = partial(probe_role, config, role)
    return probes


def _remembered(probe: Probe, seconds: float) -> Probe:
    """Keep a good answer for so many seconds; a bad one is asked again."""
    kept: tuple[float, tuple[bool, str]] | None = None

    def remembered() -> tuple[bool, str]:
        nonlocal kept
        if kept is None or time.monotonic() >= kept[0]:
            answer = probe()
            kept = (time.monotonic() + seconds, answer) if answer[0] else None
            return answer
        return kept[1]

    return remembered
