"""Storage commitment: asking for it, and taking the report, on whichever association it comes.

References
----------
PS3.4 annex J (Storage Commitment Push Model).
"""

import time
from collections.abc import Callable, Sequence

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom.association import Association
from pynetdicom.events import Event

from triage.deliver.link import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, accepts
from triage.deliver.means import give_up_or_retry
from triage.deliver.policy import DEFAULT_POLICY, DeliveryPolicy, Outcome
from triage.errors import DeliveryError, TriageError
from triage.ledger import Ledger, OutboxItem
from triage.statuses import PROCESSING_FAILURE, SUCCESS

log = structlog.get_logger(__name__)

INVALID_ARGUMENT = 0x0115
_REQUEST_STORAGE_COMMITMENT = 1


def can_commit(assoc: Association) -> bool:
    """Tell whether the peer accepted storage commitment."""
    return accepts(assoc, STORAGE_COMMITMENT)


def new_transaction_uid() -> str:
    """Return a Transaction UID (0008,1195): random, so that nobody who did not get the request can report on it."""
    return str(generate_uid(prefix=None))


def request_commitment(assoc: Association, transaction_uid: str, items: Sequence[OutboxItem]) -> int:
    """Ask for commitment of items by N-ACTION. The ledger must know the transaction already.

    Returns
    -------
    int
        The N-ACTION status; the report comes later.

    Raises
    ------
    DeliveryError
        If the association ended, or no answer came.
    """
    request = Dataset()
    request.TransactionUID = transaction_uid
    request.ReferencedSOPSequence = [_reference(item) for item in items]
    try:
        status, _ = assoc.send_n_action(
            request,
            _REQUEST_STORAGE_COMMITMENT,
            STORAGE_COMMITMENT,
            STORAGE_COMMITMENT_INSTANCE,
        )
    except (RuntimeError, ValueError) as exc:
        raise DeliveryError("the association could not carry the commitment request") from exc
    if "Status" not in status:
        raise DeliveryError("no answer to the commitment request: the association was aborted or timed out")
    return int(status.Status)


class CommitmentReports:
    """Handles N-EVENT-REPORT of storage commitment. It talks to the ledger only, so it works in any process.

    Parameters
    ----------
    ledger : Ledger
        Knows the transactions.
    policy : DeliveryPolicy
        Its limits, for items that the destination says it does not hold.
    clock : callable
        Returns seconds since the epoch, UTC.
    """

    def __init__(
        self, ledger: Ledger, policy: DeliveryPolicy = DEFAULT_POLICY, clock: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._policy = policy
        self._clock = clock

    def __call__(self, event: Event) -> int:
        """Take a report and return the N-EVENT-REPORT status.

        A report on a transaction that nobody knows (any more) is acknowledged: sending it again would not help.
        """
        try:
            report = event.event_information
            transaction_uid = str(report.get("TransactionUID", ""))
            committed = {str(ref.ReferencedSOPInstanceUID) for ref in report.get("ReferencedSOPSequence", [])}
            failed = {
                str(ref.ReferencedSOPInstanceUID): int(ref.get("FailureReason") or PROCESSING_FAILURE)
                for ref in report.get("FailedSOPSequence", [])
            }
        except (AttributeError, TypeError, ValueError, KeyError, NotImplementedError):
            log.warning("commitment_report_unreadable")
            return INVALID_ARGUMENT
        try:
            self._take(transaction_uid, committed, failed)
        except TriageError as exc:
            log.warning("commitment_report_not_recorded", error=exc.message)
            return PROCESSING_FAILURE
        return SUCCESS

    def _take(self, transaction_uid: str, committed: set[str], failed: dict[str, int]) -> None:
        items = self._ledger.find_outbox_by_transaction(transaction_uid)
        if not items:
            log.info("commitment_report_unknown")
        for item in items:
            if item.sop_instance_uid in failed:
                self._not_held(item, failed[item.sop_instance_uid])
            elif item.sop_instance_uid in committed and self._ledger.outbox_committed(item.id, "storage commitment"):
                log.info("committed", item=item.id, study=item.study_id, destination=item.destination)

    def _not_held(self, item: OutboxItem, reason: int) -> None:
        error = f"storage commitment refused: {reason:04X}"
        give_up_or_retry(
            self._ledger,
            self._policy,
            item,
            attempts=item.attempts,
            outcome=Outcome.FAILED,
            error=error,
            now=self._clock(),
        )


def _reference(item: OutboxItem) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = item.sop_class_uid
    reference.ReferencedSOPInstanceUID = item.sop_instance_uid
    return reference
