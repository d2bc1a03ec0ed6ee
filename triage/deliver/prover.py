"""Proof that a destination holds what it took: storage commitment, else C-FIND, else its word."""

from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum

import structlog
from pynetdicom.association import Association

from triage.config.schema import Destination
from triage.deliver.commitment import can_commit, new_transaction_uid, request_commitment
from triage.deliver.means import Means, Parcel, give_up_or_retry
from triage.deliver.policy import Outcome
from triage.deliver.proof import can_find, holds
from triage.errors import DeliveryError, NotFoundError, UnparsableObjectError
from triage.ledger import OutboxItem, OutboxState
from triage.statuses import SUCCESS

log = structlog.get_logger(__name__)

PROOF_FIND = "C-FIND"
PROOF_NONE = "C-STORE success only"

_POLL_S = 0.05
_COUNTED_ITEMS = 4096


class _Service(StrEnum):
    COMMITMENT = "storage commitment"
    FIND = "C-FIND"


class _Reluctance:
    """Remembers a destination that breaks the association whenever it is asked for a service that it accepted.

    Some do so for a node that is not registered with them (Orthanc does). After a few times in a row the service
    is not asked for any more, for a while.
    """

    def __init__(self, times: int, for_s: float, clock: Callable[[], float]) -> None:
        self._times = times
        self._for_s = for_s
        self._clock = clock
        self._broken: Counter[_Service] = Counter()
        self._until: dict[_Service, float] = {}

    def permits(self, service: _Service) -> bool:
        return self._clock() >= self._until.get(service, 0.0)

    def obliged(self, service: _Service) -> None:
        self._broken[service] = 0

    def broke(self, service: _Service) -> None:
        self._broken[service] += 1
        if self._broken[service] >= self._times:
            self._until[service] = self._clock() + self._for_s


class Prover:
    """Proves items of one destination. It raises nothing: what stays unproven is looked at again.

    Parameters
    ----------
    destination : Destination
        Who holds them.
    means : Means
        Ledger, store and limits.
    """

    def __init__(self, destination: Destination, means: Means) -> None:
        self._destination = destination
        self._means = means
        self._ledger = means.ledger
        self._policy = means.policy
        # How often proof of an item was asked for since it was sent last.
        self._asked: dict[int, int] = {}
        self._reluctance = _Reluctance(means.policy.commitment_requests, means.policy.reluctance_s, means.clock)

    def prove(self, assoc: Association, sent: Sequence[Parcel]) -> None:
        """Prove what was just sent on this association; what is not proved now is looked at again."""
        if not self._offers_proof(assoc):
            for parcel in sent:
                self._done(parcel.item, PROOF_NONE)
            return
        if not (sent and assoc.is_established):
            return
        if len(self._asked) > _COUNTED_ITEMS:
            self._asked.clear()
        self._asked.update(dict.fromkeys((parcel.item.id for parcel in sent), 1))
        if self._may_ask(assoc) and self._ask(assoc, [parcel.item for parcel in sent]):
            return
        for parcel in sent:
            if self._may_find(assoc):
                self._find(assoc, parcel)

    def prove_late(self, assoc: Association, unproven: Sequence[OutboxItem]) -> None:
        """Prove what was sent a while ago and was not reported on: query, else ask again, in the end believe."""
        if self._offers_proof(assoc) and not (self._may_ask(assoc) or self._may_find(assoc)):
            self._look_later(unproven)
            return
        # All of them, asked or not: a destination that breaks off at the first one would else take for ever.
        self._asked.update({item.id: self._asked.get(item.id, 0) + 1 for item in unproven})
        ask: list[OutboxItem] = []
        for place, item in enumerate(unproven):
            if not self._offers_proof(assoc) or self._asked[item.id] > self._policy.commitment_requests:
                self._done(item, PROOF_NONE)
                continue
            found = self._find_late(assoc, item) if self._may_find(assoc) else None
            if not assoc.is_established:
                self._look_later(unproven[place:])
                return
            if found is None and self._may_ask(assoc):
                ask.append(item)
            elif found is None:
                self._look_later([item])
        if ask:
            self._ask(assoc, ask)

    def _offers_proof(self, assoc: Association) -> bool:
        """Tell whether the destination accepted anything that could prove; whether it may be asked now or not."""
        return self._wants_commitment(assoc) or can_find(assoc)

    def _wants_commitment(self, assoc: Association) -> bool:
        return self._destination.storage_commitment and can_commit(assoc)

    def _look_later(self, items: Sequence[OutboxItem]) -> None:
        """Leave items as sent: they are due again `DeliveryPolicy.report_after_s` from now, with their transaction."""
        for item in items:
            self._ledger.outbox_sent(item.id, item.last_status, item.transaction_uid)

    def _may_ask(self, assoc: Association) -> bool:
        return assoc.is_established and self._wants_commitment(assoc) and self._reluctance.permits(_Service.COMMITMENT)

    def _may_find(self, assoc: Association) -> bool:
        return assoc.is_established and can_find(assoc) and self._reluctance.permits(_Service.FIND)

    def _ask(self, assoc: Association, items: Sequence[OutboxItem]) -> bool:
        """Request commitment and wait a moment for the report; False if the destination declined the request."""
        transaction_uid = new_transaction_uid()
        for item in items:
            self._ledger.outbox_sent(item.id, item.last_status, transaction_uid)
        try:
            status = request_commitment(assoc, transaction_uid, items)
        except DeliveryError as exc:
            self._broke(assoc, _Service.COMMITMENT, exc)
            return False
        self._reluctance.obliged(_Service.COMMITMENT)
        if status != SUCCESS:
            log.info("commitment_declined", destination=self._destination.name, status=f"{status:04X}")
            return False
        self._await_report(assoc, items)
        return True

    def _await_report(self, assoc: Association, items: Sequence[OutboxItem]) -> None:
        """Keep the association open for a moment: the report may come on it, or on one of its own."""
        waiting = {item.id for item in items}
        for _ in range(max(1, round(self._policy.report_on_association_s / _POLL_S))):
            reported = {i for i in waiting if self._ledger.outbox_item(i).state is not OutboxState.SENT}
            for item_id in reported:
                self._asked.pop(item_id, None)
            waiting -= reported
            if not (waiting and assoc.is_established) or self._means.stopping.wait(_POLL_S):
                return

    def _find_late(self, assoc: Association, item: OutboxItem) -> bool | None:
        try:
            found = self._find(assoc, Parcel(item, self._means.store.read_own(item.digest)))
        except (NotFoundError, UnparsableObjectError):
            # Our own copy is gone, so it cannot be sent again: commitment or the destination's word must do.
            return None
        if found is False:
            give_up_or_retry(
                self._ledger,
                self._policy,
                item,
                attempts=item.attempts,
                outcome=Outcome.FAILED,
                error="the destination took it, but does not hold it",
                now=self._means.clock(),
            )
        return found

    def _find(self, assoc: Association, parcel: Parcel) -> bool | None:
        try:
            found = holds(assoc, parcel.ds)
        except DeliveryError as exc:
            self._broke(assoc, _Service.FIND, exc)
            return None
        self._reluctance.obliged(_Service.FIND)
        if found:
            self._done(parcel.item, PROOF_FIND)
        return found

    def _done(self, item: OutboxItem, proof: str) -> None:
        """Note the proof; `PROOF_NONE`: the destination offers none, or never answered, and its word must do."""
        self._asked.pop(item.id, None)
        if self._ledger.outbox_committed(item.id, proof):
            name, event = self._destination.name, "believed" if proof == PROOF_NONE else "committed"
            log.info(event, item=item.id, study=item.study_id, destination=name, proof=proof)

    def _broke(self, assoc: Association, service: _Service, exc: DeliveryError) -> None:
        self._reluctance.broke(service)
        if assoc.is_established:
            assoc.abort()  # an answer may be under way for ever
        log.warning("proof_failed", destination=self._destination.name, service=service.value, error=exc.message)
