"""One destination's round: send what is due, prove what was sent."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import structlog
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from triage.config.schema import Destination
from triage.deliver.breaker import CircuitBreaker
from triage.deliver.commitment import CommitmentReports
from triage.deliver.link import accepts, associate, delivery_contexts
from triage.deliver.means import Means, Parcel, give_up_or_retry
from triage.deliver.negotiation import accepted_class
from triage.deliver.policy import Outcome, outcome_of
from triage.deliver.prover import Prover
from triage.deliver.sender import store
from triage.errors import DeliveryError, NotFoundError, TriageError, UnparsableObjectError
from triage.ledger import OutboxItem

log = structlog.get_logger(__name__)


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
        self._prover = Prover(destination, means)
        self._reports = CommitmentReports(means.ledger, means.policy, means.clock)

    def round(self) -> bool:
        """Do what is due now; return whether there may be more to send at once."""
        name, batch = self.destination.name, self._policy.batch
        due = self._ledger.due_outbox(name, batch)
        more = bool(due) and self.breaker.allows() and self._send_and_prove(due)
        sent_before = self._means.clock() - self._policy.report_after_s
        unproven = self._ledger.sent_unproven(name, sent_before, batch)
        # On an association of its own: a PACS that breaks off when asked must not break off the sending.
        if unproven and self.breaker.allows():
            self._prove_late(unproven)
        return more

    def _send_and_prove(self, due: Sequence[OutboxItem]) -> bool:
        try:
            with self._associate() as assoc:
                sent, busy = self._send(assoc, due)
                self._prover.prove(assoc, sent)
        except DeliveryError as exc:
            self._failed(exc.message)
            return False
        if busy:
            self._failed(busy)
            return False
        self._worked()
        return True

    def _prove_late(self, unproven: Sequence[OutboxItem]) -> None:
        try:
            with self._associate() as assoc:
                self._prover.prove_late(assoc, unproven)
        except DeliveryError as exc:
            self._failed(exc.message)
            return
        self._worked()

    def _associate(self) -> AbstractContextManager[Association]:
        return associate(
            self.destination,
            calling_ae_title=self._means.calling_ae_title,
            policy=self._policy,
            contexts=delivery_contexts(),
            handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report)],
        )

    def _on_report(self, event: Event) -> tuple[int, None]:
        return self._reports(event), None

    def _worked(self) -> None:
        if self.breaker.succeeded():
            log.info("destination_recovered", destination=self.destination.name)

    def _failed(self, error: str) -> None:
        self.breaker.failed()
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
                self._put_off(item, Outcome.FAILED, exc.message)
                raise
            except UnparsableObjectError as exc:
                self._put_off(item, Outcome.FAILED, exc.message)
                continue
            outcome = outcome_of(status)
            if outcome is Outcome.STORED:
                sent = replace(parcel.item, last_status=f"{status:04X}", attempts=item.attempts + 1)
                self._ledger.outbox_sent(item.id, sent.last_status, "")
                taken.append(Parcel(sent, parcel.ds))
                continue
            error = f"C-STORE status {status:04X}"
            self._put_off(item, outcome, error)
            if outcome is Outcome.BUSY:
                return taken, error
        return taken, ""

    def _packed(self, assoc: Association, item: OutboxItem) -> Parcel | None:
        """Return the item with its object, rebuilt if need be; None if it cannot be sent now."""
        try:
            if not accepts(assoc, item.sop_class_uid):
                if item.kind != "sr":
                    self._give_up(item)
                    return None
                item = self._rebuilt(assoc, item)
            return Parcel(item, self._means.store.read_own(item.digest))
        except NotFoundError as exc:
            log.error("object_missing", item=item.id, study=item.study_id, destination=item.destination)
            self._ledger.outbox_dead(item.id, exc.message)
        except DeliveryError as exc:
            self._put_off(item, Outcome.REFUSED, exc.message)
        except TriageError as exc:
            self._put_off(item, Outcome.FAILED, exc.message)
        except Exception as exc:  # Whatever one object does, the others behind it are sent; its attempts are counted.
            log.error("object_unusable", item=item.id, destination=item.destination, exc_info=exc)
            self._put_off(item, Outcome.FAILED, f"cannot be made ready: {type(exc).__name__}")
        return None

    def _give_up(self, item: OutboxItem) -> None:
        """Drop an addition that the destination cannot take, so that it doesn't keep its study from being delivered."""
        name, uid = self.destination.name, item.sop_class_uid
        log.warning("not_accepted", item=item.id, destination=name, sop_class=uid)
        self._ledger.outbox_discard(item.id, "deliver")

    def _rebuilt(self, assoc: Association, item: OutboxItem) -> OutboxItem:
        best = accepted_class(assoc)
        if best is None or self._means.rebuild is None:
            raise DeliveryError("the destination accepts no SOP class that the report can be sent as")
        new = self._means.rebuild(item, best)
        self._ledger.outbox_rebuilt(item.id, new.sop_class_uid, new.sop_instance_uid, new.digest)
        log.info("rebuilt", item=item.id, study=item.study_id, destination=item.destination)
        return replace(item, sop_class_uid=new.sop_class_uid, sop_instance_uid=new.sop_instance_uid, digest=new.digest)

    def _put_off(self, item: OutboxItem, outcome: Outcome, error: str) -> None:
        give_up_or_retry(
            self._ledger,
            self._policy,
            item,
            attempts=item.attempts + 1,
            outcome=outcome,
            error=error,
            now=self._means.clock(),
        )
