"""Delivery: a thread for each destination, so that a PACS that is down delays its own results only."""

import threading
import time
from collections.abc import Callable

import structlog

from triage.config.schema import Configuration, Destination
from triage.deliver.courier import Courier
from triage.deliver.means import Means, Rebuild
from triage.deliver.policy import DEFAULT_POLICY, DeliveryPolicy
from triage.ledger import Ledger
from triage.store import ObjectStore

log = structlog.get_logger(__name__)

_STOP_S = 5.0


class Deliverer:
    """Empties the outbox, one thread a destination.

    Parameters
    ----------
    config : Configuration
        Its destinations, and our AE title.
    ledger : Ledger
        The outbox.
    store : ObjectStore
        The objects.
    rebuild : callable, optional
        ``rebuild(item, sop_class_uid) -> OutboxNew``: builds and stores the item's report as another SR class, for a
        destination that turns out not to accept the first one. Without it such an item becomes a dead letter.
    policy : DeliveryPolicy
        Limits and waits.
    clock : callable
        Returns seconds since the epoch, UTC.
    """

    def __init__(
        self,
        config: Configuration,
        ledger: Ledger,
        store: ObjectStore,
        *,
        rebuild: Rebuild | None = None,
        policy: DeliveryPolicy = DEFAULT_POLICY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stopping = threading.Event()
        means = Means(
            ledger=ledger,
            store=store,
            calling_ae_title=config.listen.ae_title,
            policy=policy,
            rebuild=rebuild,
            clock=clock,
            stopping=self._stopping,
        )
        self._rounds = [_Rounds(destination, means) for destination in config.destination]

    def start(self) -> None:
        """Start the threads. They do nothing until `tick`."""
        for rounds in self._rounds:
            rounds.thread.start()

    def tick(self) -> None:
        """Wake every destination that is not at work; returns at once."""
        for rounds in self._rounds:
            rounds.wake.set()

    def stop(self) -> None:
        """Stop after the object under way; what was not sent stays in the outbox."""
        self._stopping.set()
        for rounds in self._rounds:
            rounds.wake.set()
        deadline = time.monotonic() + _STOP_S
        for rounds in self._rounds:
            if rounds.thread.ident is not None:
                rounds.thread.join(max(0.0, deadline - time.monotonic()))


class _Rounds:
    """A courier's thread."""

    def __init__(self, destination: Destination, means: Means) -> None:
        self.courier = Courier(destination, means)
        self.wake = threading.Event()
        self._stopping = means.stopping
        # A daemon: a PACS that never answers must not keep the process from ending.
        self.thread = threading.Thread(target=self._run, name=f"deliver-{destination.name}", daemon=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.wake.wait()
            self.wake.clear()
            try:
                while not self._stopping.is_set() and self.courier.round():
                    pass
            except Exception as exc:  # The thread's edge: nothing may end delivery for good.
                log.error("delivery_round_failed", destination=self.courier.destination.name, exc_info=exc)
                self._stopping.wait(1.0)
