"""One destination's round: send what is due, prove what was sent."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from triage.config.schema import Destination
from triage.deliver.breaker import CircuitBreaker
from triage.deliver.commitment import (
    CommitmentReports,
    can_commit,
    give_up_or_retry,
    new_transaction_uid,
    request_commitment,
)
from triage.deliver.link import accepts, associate, delivery_contexts
from triage.deliver.negotiation import accepted_class
from triage.deliver.policy import DeliveryPolicy, Outcome, outcome_of
from triage.deliver.proof import can_find, holds
from triage.deliver.sender import store
from triage.errors import DeliveryError, NotFoundError, TriageError
from triage.ledger import Ledger, OutboxItem, OutboxNew, OutboxState
from triage.store import ObjectStore

log = structlog.get_logger(__name__)

Rebuild = Callable[[OutboxItem, str], OutboxNew]
"""Builds an item's report again as another SOP class and returns it as a row for the outbox."""

PROOF_FIND = "C-FIND"
PROOF_NONE = "C-STORE success only"

_POLL_S = 0.05
_COUNTED_REQUESTS = 4096


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a courier works with, the same for every destination."""

    ledger: Ledger
    store: ObjectStore
    calling_ae_title: str
    policy: DeliveryPolicy
    rebuild: Rebuild | None
    clock: Callable[[], float]
    stopping: threading.Event


@dataclass(frozen=True)
class Parcel:
    """An item and its object."""

    item: OutboxItem
    ds: Dataset


class Courier:
    """Brings items to one destination. Not safe from several threads: each destination has its own.

    Parameters
    ----------
    destination : Destination
        Where to.
    means : Means
        Ledger, store and limits.
    """

    def __init__(self, destination: Destination, means: Means) -> None:
        self.destination = destination
        self.breaker = CircuitBreaker(means.policy, means.clock)
        self._means = means
        self._ledger = means.ledger
        self._policy = means.policy
        self._reports = CommitmentReports(means.ledger, means.policy, means.clock)
        self._requests: Counter[int] = Counter()

    def round(self) -> bool:
        """Do what is due now; return whether there may be more to do at once."""
        batch = self._policy.batch
        due = self._ledger.due_outbox(self.destination.name, batch)
        sent_before = self._means.clock() - self._policy.report_after_s
        unproven = self._ledger.sent_unproven(self.destination.name, sent_before)[:batch]
        if not (due or unproven) or not self.breaker.allows():
            return False
        try:
            with associate(
                self.destination,
                calling_ae_title=self._means.calling_ae_title,
                policy=self._policy,
                contexts=delivery_contexts(),
                handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report)],
            ) as assoc:
                self._prove_late(assoc, unproven)
                sent, busy = self._send(assoc, due)
                self._prove(assoc, sent)
        except DeliveryError as exc:
            self._failed(exc.message)
            return False
        if busy:
            self._failed(busy)
            return False
        self.breaker.succeeded()
        return bool(due)

    def _on_report(self, event: Event) -> tuple[int, None]:
        return self._reports(event), None

    def _failed(self, error: str) -> None:
        self.breaker.failed(error)
        name, state = self.destination.name, self.breaker.state.value
        log.warning("destination_failed", destination=name, error=error, breaker=state)

    def _send(self, assoc: Association, due: Sequence[OutboxItem]) -> tuple[list[Parcel], str]:
        """Send items; return what the destination took, and its words if it has no resources for more."""
        taken: list[Parcel] = []
        for item in due:
            if self._means.stopping.is_set():
                break
            parcel = self._packed(assoc, item)
            if parcel is None:
                continue
            try:
                status = store(assoc, parcel.ds)
            except DeliveryError as exc:
                self._put_off(item, item.attempts + 1, Outcome.FAILED, exc.message)
                raise
            outcome = outcome_of(status)
            if outcome is Outcome.STORED:
                self._ledger.outbox_sent(item.id, f"{status:04X}", "")
                taken.append(parcel)
                continue
            error = f"C-STORE status {status:04X}"
            self._put_off(item, item.attempts + 1, outcome, error)
            if outcome is Outcome.BUSY:
                return taken, error
        return taken, ""

    def _packed(self, assoc: Association, item: OutboxItem) -> Parcel | None:
        """Return the item with its object, rebuilt if need be; None if it cannot be sent now."""
        try:
            if not accepts(assoc, item.sop_class_uid):
                item = self._rebuilt(assoc, item)
            return Parcel(item, self._means.store.read(item.digest))
        except NotFoundError as exc:
            log.error("object_missing", item=item.id, study=item.study_id, destination=item.destination)
            self._ledger.outbox_dead(item.id, exc.message)
        except DeliveryError as exc:
            self._put_off(item, item.attempts + 1, Outcome.REFUSED, exc.message)
        except TriageError as exc:
            self._put_off(item, item.attempts + 1, Outcome.FAILED, exc.message)
        return None

    def _rebuilt(self, assoc: Association, item: OutboxItem) -> OutboxItem:
        best = accepted_class(assoc)
        if best is None or self._means.rebuild is None:
            raise DeliveryError("the destination accepts no SOP class that the report can be sent as")
        new = self._means.rebuild(item, best)
        self._ledger.outbox_rebuilt(item.id, new.sop_class_uid, new.sop_instance_uid, new.digest)
        log.info("rebuilt", item=item.id, study=item.study_id, destination=item.destination)
        return replace(item, sop_class_uid=new.sop_class_uid, sop_instance_uid=new.sop_instance_uid, digest=new.digest)

    def _prove(self, assoc: Association, sent: Sequence[Parcel]) -> None:
        """Prove what was just sent. What stays unproven is looked at again after `report_after_s`."""
        if not sent:
            return
        if self._may_ask(assoc):
            if self._ask(assoc, [parcel.item for parcel in sent]):
                return
        elif not can_find(assoc):
            for parcel in sent:
                self._proved(parcel.item, PROOF_NONE)
            return
        if can_find(assoc):
            for parcel in sent:
                self._find(assoc, parcel)

    def _prove_late(self, assoc: Association, unproven: Sequence[OutboxItem]) -> None:
        """Prove what was sent a while ago and was not reported on: query, else ask again, else believe."""
        ask: list[OutboxItem] = []
        for item in unproven:
            found = self._find(assoc, Parcel(item, self._means.store.read(item.digest))) if can_find(assoc) else None
            if found is False:
                error = "the destination took it, but does not hold it"
                self._put_off(item, item.attempts, Outcome.FAILED, error)
            elif found is None and self._may_ask(assoc) and self._requests[item.id] < self._policy.commitment_requests:
                ask.append(item)
            elif found is None:
                self._proved(item, PROOF_NONE)
        if ask:
            self._ask(assoc, ask)

    def _may_ask(self, assoc: Association) -> bool:
        return self.destination.storage_commitment and can_commit(assoc)

    def _ask(self, assoc: Association, items: Sequence[OutboxItem]) -> bool:
        """Request commitment and wait a moment for the report; False if the destination declined the request."""
        transaction_uid = new_transaction_uid()
        if len(self._requests) > _COUNTED_REQUESTS:
            self._requests.clear()
        for item in items:
            self._ledger.outbox_sent(item.id, item.last_status, transaction_uid)
            self._requests[item.id] += 1
        status = request_commitment(assoc, transaction_uid, items)
        if status != 0x0000:
            log.info("commitment_declined", destination=self.destination.name, status=f"{status:04X}")
            return False
        self._await_report(assoc, items)
        return True

    def _await_report(self, assoc: Association, items: Sequence[OutboxItem]) -> None:
        """Keep the association open for a moment: the report may come on it, or on one of its own."""
        waiting = {item.id for item in items}
        rounds = max(1, round(self._policy.report_on_association_s / _POLL_S))
        for _ in range(rounds):
            reported = {i for i in waiting if self._ledger.outbox_item(i).state is not OutboxState.SENT}
            for item_id in reported:
                del self._requests[item_id]
            waiting -= reported
            if not (waiting and assoc.is_established) or self._means.stopping.wait(_POLL_S):
                return

    def _find(self, assoc: Association, parcel: Parcel) -> bool | None:
        found = holds(assoc, parcel.ds)
        if found:
            self._proved(parcel.item, PROOF_FIND)
        return found

    def _proved(self, item: OutboxItem, proof: str) -> None:
        del self._requests[item.id]
        if self._ledger.outbox_committed(item.id, proof):
            log.info("committed", item=item.id, study=item.study_id, destination=item.destination, proof=proof)

    def _put_off(self, item: OutboxItem, attempts: int, outcome: Outcome, error: str) -> None:
        now = self._means.clock()
        log.warning("not_delivered", item=item.id, destination=item.destination, attempt=attempts, error=error)
        give_up_or_retry(self._ledger, self._policy, item, attempts=attempts, outcome=outcome, error=error, now=now)
