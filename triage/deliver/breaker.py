"""A circuit breaker: a PACS that is down is asked again ever more rarely, and nobody waits for it."""

import threading
from collections.abc import Callable
from enum import StrEnum

from triage.deliver.policy import DeliveryPolicy, jittered_s


class BreakerState(StrEnum):
    """Closed: all is well. Open: not asked. Half open: one trial is due or under way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Counts a destination's failed associations in a row. Safe from several threads.

    Parameters
    ----------
    policy : DeliveryPolicy
        Its ``breaker_*`` limits.
    clock : callable
        Returns seconds.
    """

    def __init__(self, policy: DeliveryPolicy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0

    @property
    def state(self) -> BreakerState:
        """Its state now."""
        with self._lock:
            if self._failures < self._policy.breaker_failures:
                return BreakerState.CLOSED
            return BreakerState.OPEN if self._clock() < self._open_until else BreakerState.HALF_OPEN

    def allows(self) -> bool:
        """Tell whether the destination may be tried now: always, unless a wait after a failure is running."""
        with self._lock:
            return self._clock() >= self._open_until

    def succeeded(self) -> bool:
        """The destination answered; tell whether it had failed before."""
        with self._lock:
            recovered = self._failures > 0
            self._failures = 0
            self._open_until = 0.0
        return recovered

    def failed(self) -> None:
        """The destination could not be spoken with, or has no resources."""
        policy = self._policy
        with self._lock:
            self._failures += 1
            beyond = self._failures - policy.breaker_failures + 1
            wait_s = (
                jittered_s(beyond, policy.breaker_initial_s, policy.breaker_max_s)
                if beyond > 0
                # Before it opens: a moment, so that the failures counted are not one and the same instant's.
                else policy.breaker_initial_s / 2
            )
            self._open_until = self._clock() + wait_s
