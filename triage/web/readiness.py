"""Whether the node can do its work, asked of each part itself: a real C-ECHO, a real query, a real ping."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import redis
import structlog
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined] # made at run time

from triage.bundles import active_bundles
from triage.config.schema import Configuration, Listen
from triage.errors import BundleError, LedgerError
from triage.ledger import Ledger
from triage.transport import alive, connect
from triage.web.schemas import Part, ReadinessAnswer

log = structlog.get_logger(__name__)

Probe = Callable[[], tuple[bool, str]]
"""Asks one part: (works, one line that says more). It may raise; that counts as not working."""

CACHE_S = 5.0
# Verifying a bundle reads all its bytes; it cannot change under a running node without being refused there.
BUNDLE_CACHE_S = 300.0
_ECHO_TIMEOUT_S = 3.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - looked up, not bound

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
    """Return the probes of every part a node needs: listener, ledger, broker, the workers, dispatcher, models."""
    probes: dict[str, Probe] = {
        "listener": lambda: probe_listener(config.listen),
        "ledger": lambda: probe_ledger(ledger),
        "broker": lambda: probe_broker(config),
        "models": _remembered(lambda: probe_models(config), BUNDLE_CACHE_S),
    }
    for part, role in ROLES.items():
        probes[part] = _sign_of_life(config, role)
    return probes


def probe_listener(listen: Listen) -> tuple[bool, str]:
    """Ask our own DICOM port by C-ECHO.

    A refused association is a living listener too: the allow-list need not name the node itself.
    """
    ae = AE(ae_title=listen.ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = _ECHO_TIMEOUT_S
    ae.add_requested_context(Verification)
    assoc = ae.associate(_ANY_ADDRESS.get(listen.host, listen.host), listen.port, ae_title=listen.ae_title)
    if assoc.is_rejected:
        return True, f"port {listen.port} answers (and refuses callers that are not in listen.peer)"
    if not assoc.is_established:
        return False, f"no answer on port {listen.port}"
    status = assoc.send_c_echo()
    assoc.release()
    if "Status" not in status:
        return False, f"no C-ECHO response on port {listen.port}"
    return status.Status == 0x0000, f"C-ECHO on port {listen.port}: 0x{status.Status:04X}"


def probe_ledger(ledger: Ledger) -> tuple[bool, str]:
    """Ask the ledger's database for anything at all."""
    try:
        ledger.ping()
    except LedgerError as exc:
        return False, exc.message
    return True, "answers"


def probe_broker(config: Configuration) -> tuple[bool, str]:
    """Ping the broker."""
    try:
        with connect(config) as client:
            client.ping()
    except redis.RedisError as exc:
        return False, f"no answer: {type(exc).__name__}"
    return True, "answers"


def probe_models(config: Configuration) -> tuple[bool, str]:
    """Verify the active bundles; at least one must be configured."""
    try:
        bundles = active_bundles(config.models).values()
    except BundleError as exc:
        return False, str(exc)
    found = [f"{bundle.name} {bundle.version} ({bundle.digest[:12]})" for bundle in bundles]
    return (True, ", ".join(found)) if found else (False, "no model is configured")


def _sign_of_life(config: Configuration, role: str) -> Probe:
    def probe() -> tuple[bool, str]:
        try:
            with connect(config) as client:
                count = alive(client, role)
        except redis.RedisError as exc:
            return False, f"unknown, the broker does not answer: {type(exc).__name__}"
        return (True, f"{count} alive") if count else (False, "no sign of life in the last seconds")

    return probe


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
