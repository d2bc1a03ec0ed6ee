"""How patient delivery is: limits, waits, and what a status of the PACS means."""

from dataclasses import dataclass
from enum import Enum

from tenacity import RetryCallState, Retrying, wait_random_exponential

from triage.association import Timeouts
from triage.statuses import says_stored


class Outcome(Enum):
    """What became of a C-STORE."""

    STORED = "stored"
    BUSY = "busy"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class DeliveryPolicy:
    """Limits and waits of delivery; seconds unless said otherwise.

    Attributes
    ----------
    batch : int
        Items sent on one association.
    connect_timeout_s, acse_timeout_s, response_timeout_s : float
        For the TCP connection, the association's negotiation, and each DIMSE response.
    report_on_association_s : float
        How long an association is kept open for the commitment report.
    report_after_s : float
        A report that has not come by then is asked for again, or replaced by a C-FIND.
    commitment_requests : int
        How often proof of an item is asked for, without any answer, before the destination is believed.
    reluctance_s : float
        How long a service is not asked for after the destination broke the association for it as often as that;
        what is sent meanwhile stays unproved until then.
    retry_initial_s, retry_max_s : float
        Window of the first and of the longest wait before an item is sent again.
    breaker_failures : int
        Failed associations in a row that open the circuit breaker.
    breaker_initial_s, breaker_max_s : float
        How long it stays open at first and at most.
    attempts_refused, attempts_failed, attempts_busy : int
        Sendings after which an item is dead: refused for good by the PACS's own words (A9xx, Cxxx, 0122), failed
        for no clear reason (aborted, timed out, not proved), or put off by a PACS out of resources (A7xx).
    """

    batch: int = 32
    connect_timeout_s: float = 5
    acse_timeout_s: float = 15
    response_timeout_s: float = 60
    report_on_association_s: float = 2
    report_after_s: float = 60
    commitment_requests: int = 3
    reluctance_s: float = 600
    retry_initial_s: float = 4
    retry_max_s: float = 600
    breaker_failures: int = 3
    breaker_initial_s: float = 2
    breaker_max_s: float = 60
    attempts_refused: int = 3
    attempts_failed: int = 10
    attempts_busy: int = 200

    @property
    def timeouts(self) -> Timeouts:
        """How long a destination is waited for."""
        return Timeouts(
            connect_s=self.connect_timeout_s, acse_s=self.acse_timeout_s, response_s=self.response_timeout_s
        )

    def attempts(self, outcome: Outcome) -> int:
        """Return the number of sendings after which an item with this outcome is given up."""
        limits = {Outcome.REFUSED: self.attempts_refused, Outcome.BUSY: self.attempts_busy}
        return limits.get(outcome, self.attempts_failed)

    def retry_delay_s(self, attempt: int) -> float:
        """Return a jittered wait after the n-th failed attempt (from 1)."""
        return jittered_s(attempt, self.retry_initial_s, self.retry_max_s)


DEFAULT_POLICY = DeliveryPolicy()


def jittered_s(attempt: int, initial_s: float, max_s: float) -> float:
    """Return a random wait from a window that doubles with each attempt: between half the first window and `max_s`."""
    state = RetryCallState(Retrying(), None, (), {})
    # 2**30 windows are above any maximum; larger exponents overflow.
    state.attempt_number = min(max(attempt, 1), 30)
    return wait_random_exponential(multiplier=initial_s, max=max_s, min=min(initial_s / 2, max_s))(state)


def outcome_of(status: int) -> Outcome:
    """Tell what a C-STORE status means for the object.

    References
    ----------
    PS3.4 table B.2-1, PS3.7 annex C.
    """
    if says_stored(status):
        return Outcome.STORED
    if 0xA700 <= status <= 0xA7FF:
        return Outcome.BUSY
    if 0xA900 <= status <= 0xA9FF or 0xC000 <= status <= 0xCFFF or status in {0x0122, 0x0124, 0x0117, 0x0118}:
        return Outcome.REFUSED
    return Outcome.FAILED
