"""The rank policy: from a percentile to a priority, and from studies to the worklist's order.

This is the one statement of the policy. The ledger says the same in SQL so that it can sort and page in the
database; a test compares the two.

The model may only lift a study: whoever is not lifted stays in arrival order, and a human's STAT and a wait that
has become too long both go before anything a model says (design section 6).
"""

from enum import IntEnum
from typing import Protocol

from triage.config.schema import Rank
from triage.messages import Priority

ORDER_IN_WORDS = (
    "STAT set by a person",
    "overdue: waited longer than the maximum wait",
    "HIGH",
    "MEDIUM",
    "everything else, in order of arrival",
)
"""The tiers from first to last, in the words of the page and the manual; within a tier, by arrival."""


class Tier(IntEnum):
    """The groups of the worklist, first to last."""

    STAT = 0
    OVERDUE = 1
    HIGH = 2
    MEDIUM = 3
    ARRIVAL = 4


class Rankable(Protocol):
    """What the policy looks at; a ledger `Study` has it all."""

    @property
    def id(self) -> int:
        """Number in the ledger; the last tie-break."""

    @property
    def stat(self) -> bool:
        """A person asked for it to be read first."""

    @property
    def priority(self) -> Priority | None:
        """The model's suggestion, none while there is no score."""

    @property
    def arrived_at(self) -> float:
        """When the first object came, seconds since the epoch."""

    @property
    def read_at(self) -> float | None:
        """When a person marked it read, seconds since the epoch."""


def suggested_priority(percentile: float | None, rank: Rank) -> Priority | None:
    """Return the priority that belongs to an abnormality percentile (0 to 100); none without a percentile."""
    if percentile is None:
        return None
    if percentile >= rank.high_percentile:
        return Priority.HIGH
    if percentile >= rank.medium_percentile:
        return Priority.MEDIUM
    return Priority.LOW


def waited_s(study: Rankable, now: float) -> float:
    """Return for how many seconds the study has waited, or did wait until it was read; never negative."""
    until = now if study.read_at is None else study.read_at
    return max(0.0, until - study.arrived_at)


def is_overdue(study: Rankable, now: float, rank: Rank) -> bool:
    """Tell whether the study has waited longer than the policy allows (strictly more than ``max_wait_s``)."""
    return study.read_at is None and study.arrived_at < now - rank.max_wait_s


def tier_of(study: Rankable, now: float, rank: Rank) -> Tier:
    """Return the study's group in the worklist at the time `now` (seconds since the epoch)."""
    if study.stat:
        return Tier.STAT
    if is_overdue(study, now, rank):
        return Tier.OVERDUE
    if study.priority is Priority.HIGH:
        return Tier.HIGH
    if study.priority is Priority.MEDIUM:
        return Tier.MEDIUM
    return Tier.ARRIVAL


def order_key(study: Rankable, now: float, rank: Rank) -> tuple[int, float, int]:
    """Return the key that sorts studies into the worklist's order: tier, arrival, number in the ledger."""
    return int(tier_of(study, now, rank)), study.arrived_at, study.id
