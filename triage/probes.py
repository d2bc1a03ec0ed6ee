"""Asks the parts of a node whether they work, each itself: a real C-ECHO, a real query, a real ping."""

from collections.abc import Callable

import redis
from pynetdicom import build_context

from triage.association import VERIFICATION, Timeouts, associate
from triage.bundles import active_bundles
from triage.config.schema import Configuration, Listen, Web
from triage.errors import AssociationError, BundleError, DeliveryError, LedgerError, RejectedError
from triage.ledger import Ledger
from triage.statuses import SUCCESS
from triage.store import GIB, IMPLEMENTATION_CLASS_UID, free_bytes
from triage.transport import alive, connect

Probe = Callable[[], tuple[bool, str]]
"""Asks one part: (works, one line that says more). It may raise; that counts as not working."""

_ECHO_TIMEOUT_S = 3.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - looked up, not bound


def reachable(host: str) -> str:
    """Return the address at which this machine reaches what listens on `host`, which may mean every address."""
    return _ANY_ADDRESS.get(host, host)


def url_of(web: Web) -> str:
    """Return the worklist's address, without a slash at its end, as this machine reaches it."""
    host = reachable(web.host)
    return f"http://[{host}]:{web.port}" if ":" in host else f"http://{host}:{web.port}"


def echo(host: str, port: int, ae_title: str, *, calling_ae_title: str, timeout_s: float) -> tuple[int, str]:
    """Send a C-ECHO; return its status and the peer's Implementation Class UID.

    Raises
    ------
    DeliveryError
        If there is no association, or no answer.
    """
    with associate(
        host,
        port,
        ae_title,
        calling_ae_title=calling_ae_title,
        contexts=[build_context(VERIFICATION)],
        timeouts=Timeouts.each(timeout_s),
    ) as assoc:
        try:
            status = assoc.send_c_echo().get("Status")
        except (RuntimeError, ValueError) as exc:
            raise DeliveryError("the association could not carry the C-ECHO") from exc
        if status is None:
            raise DeliveryError("no answer to C-ECHO: the association was aborted or timed out")
        return int(status), str(assoc.acceptor.implementation_class_uid)


def probe_listener(listen: Listen) -> tuple[bool, str]:
    """Ask our own DICOM port by C-ECHO.

    A refused association is a living listener too: the allow-list need not name the node itself.
    """
    where, ours = reachable(listen.host), listen.ae_title
    try:
        status, program = echo(where, listen.port, ours, calling_ae_title=ours, timeout_s=_ECHO_TIMEOUT_S)
    except RejectedError:
        return True, f"port {listen.port} answers (and refuses callers that are not in listen.peer)"
    except AssociationError:
        return False, f"no answer on port {listen.port}"
    except DeliveryError:
        return False, f"no C-ECHO response on port {listen.port}"
    if program != IMPLEMENTATION_CLASS_UID:
        return False, f"another program answers on port {listen.port}"
    return status == SUCCESS, f"C-ECHO on port {listen.port}: 0x{status:04X}"


def probe_ledger(ledger: Ledger) -> tuple[bool, str]:
    """Ask the ledger's database for anything at all."""
    try:
        ledger.ping()
    except LedgerError as exc:
        return False, exc.message
    return True, "answers"


def probe_disk(config: Configuration) -> tuple[bool, str]:
    """Look whether this machine has room for what comes: below ``listen.min_free_gib`` every C-STORE is refused."""
    free_gib = free_bytes(config.data_dir) / GIB
    if free_gib < config.listen.min_free_gib:
        return False, f"{free_gib:.1f} GiB free, below listen.min_free_gib: no object is taken in"
    return True, f"{free_gib:.0f} GiB free"


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


def probe_role(config: Configuration, role: str, wanted: int = 1) -> tuple[bool, str]:
    """Count a role's signs of life (`triage.transport.Pulse`); so many are wanted."""
    try:
        with connect(config) as client:
            count = alive(client, role)
    except redis.RedisError as exc:
        return False, f"unknown, the broker does not answer: {type(exc).__name__}"
    seen = f"{count} of {wanted} alive" if wanted > 1 else f"{count} alive"
    return count >= wanted, seen if count else "no sign of life in the last seconds"
