"""Which SR class a destination takes."""

import threading
import time
from collections.abc import Callable

import structlog
from pynetdicom.association import Association

from triage.config.schema import Destination
from triage.deliver.link import accepts, associate, report_contexts
from triage.deliver.policy import DEFAULT_POLICY, DeliveryPolicy
from triage.errors import DeliveryError
from triage.sop_classes import SR_CLASSES

log = structlog.get_logger(__name__)

KNOWN_FOR_S = 600.0
UNREACHABLE_FOR_S = 60.0


def accepted_class(assoc: Association) -> str | None:
    """Return the best SR class accepted on an association; None if none was."""
    return next((uid for uid in SR_CLASSES if accepts(assoc, uid)), None)


class Negotiator:
    """Asks destinations which SR class they accept, and remembers the answers. Safe from several threads.

    Parameters
    ----------
    calling_ae_title : str
        Our AE title.
    policy : DeliveryPolicy
        Its time limits.
    clock : callable
        Returns seconds.
    """

    def __init__(
        self,
        calling_ae_title: str,
        policy: DeliveryPolicy = DEFAULT_POLICY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calling_ae_title = calling_ae_title
        self._policy = policy
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[Destination, tuple[str | None, float]] = {}

    def __call__(self, destination: Destination) -> str | None:
        """Return `negotiate`'s answer."""
        return self.negotiate(destination)

    def negotiate(self, destination: Destination) -> str | None:
        """Return the best SR class that a destination accepts.

        Returns
        -------
        str or None
            A SOP class UID; None if the destination cannot be reached now or accepts none. An answer is kept for
            ten minutes, and "cannot be reached" for one: a report must not wait for a PACS that is down.
        """
        with self._lock:
            answer, until = self._known.get(destination, (None, 0.0))
        if self._clock() < until:
            return answer
        answer = self._ask(destination)
        kept_s = UNREACHABLE_FOR_S if answer is None else KNOWN_FOR_S
        with self._lock:
            self._known[destination] = (answer, self._clock() + kept_s)
        return answer

    def _ask(self, destination: Destination) -> str | None:
        try:
            with associate(
                destination,
                calling_ae_title=self._calling_ae_title,
                policy=self._policy,
                contexts=report_contexts(),
            ) as assoc:
                return accepted_class(assoc)
        except DeliveryError as exc:
            log.info("negotiation_failed", destination=destination.name, error=exc.message)
            return None
