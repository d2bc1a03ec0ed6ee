"""The ledger: studies, objects, jobs, outbox and events in SQLite or PostgreSQL. It is the node's queue and memory."""

from triage.ledger.ledger import Ledger, ledger_url, open_ledger
from triage.ledger.records import (
    NON_IMAGE_MODALITIES,
    Event,
    Instance,
    Job,
    JobState,
    OutboxItem,
    OutboxNew,
    OutboxState,
    ReceivedInstance,
    Recorded,
    State,
    Study,
)

__all__ = [
    "NON_IMAGE_MODALITIES",
    "Event",
    "Instance",
    "Job",
    "JobState",
    "Ledger",
    "OutboxItem",
    "OutboxNew",
    "OutboxState",
    "ReceivedInstance",
    "Recorded",
    "State",
    "Study",
    "ledger_url",
    "open_ledger",
]
