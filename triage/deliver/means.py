"""What every courier works with, and the parcel it carries."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from pydicom.dataset import Dataset

from triage.deliver.policy import DeliveryPolicy, Outcome
from triage.ledger import Ledger, OutboxItem, OutboxNew
from triage.store import ObjectStore

log = structlog.get_logger(__name__)

Rebuild = Callable[[OutboxItem, str], OutboxNew]
"""Builds an item's report again as another SOP class and returns it as a row for the outbox."""


@dataclass(frozen=True)
class Parcel:
    """An item and its object."""

    item: OutboxItem
    ds: Dataset


@dataclass(frozen=True, kw_only=True)
class Means:
    """Ledger, store and limits, the same for every destination."""

    ledger: Ledger
    store: ObjectStore
    calling_ae_title: str
    policy: DeliveryPolicy
    rebuild: Rebuild | None
    clock: Callable[[], float]
    stopping: threading.Event


def give_up_or_retry(
    ledger: Ledger,
    policy: DeliveryPolicy,
    item: OutboxItem,
    *,
    attempts: int,
    outcome: Outcome,
    error: str,
    now: float,
) -> None:
    """Put an item off after its n-th sending failed, or among the dead letters if that was the last.

    Parameters
    ----------
    attempts : int
        Sendings so far, this one included.
    now : float
        Seconds since the epoch, UTC.
    """
    if attempts >= policy.attempts(outcome):
        if ledger.outbox_dead(item.id, error):
            log.error("dead_letter", item=item.id, study=item.study_id, destination=item.destination, error=error)
    elif ledger.outbox_retry(item.id, error, now + policy.retry_delay_s(attempts)):
        log.warning("not_delivered", item=item.id, destination=item.destination, attempt=attempts, error=error)
