"""The table of the steps that a study revision may take. The database holds the same table (migration 0001)."""

from triage.errors import ForbiddenTransitionError
from triage.ledger.records import State

ALLOWED: dict[State, frozenset[State]] = {
    # A late object joins a revision that is still receiving, so that one is never superseded.
    State.RECEIVING: frozenset({State.COMPLETE, State.DISCARDED}),
    State.COMPLETE: frozenset({State.PREPARING, State.UNSUITABLE, State.FAILED, State.SUPERSEDED, State.DISCARDED}),
    State.PREPARING: frozenset({State.SCORING, State.UNSUITABLE, State.FAILED, State.SUPERSEDED, State.DISCARDED}),
    # Complete again: the model input was lost and has to be prepared once more.
    State.SCORING: frozenset(
        {State.SCORED, State.COMPLETE, State.UNSUITABLE, State.FAILED, State.SUPERSEDED, State.DISCARDED}
    ),
    State.SCORED: frozenset({State.REPORTED, State.FAILED, State.SUPERSEDED, State.DISCARDED}),
    # What has been reported is never superseded: the next revision's report names it as its predecessor.
    State.REPORTED: frozenset({State.DELIVERED, State.DISCARDED}),
    State.DELIVERED: frozenset({State.DISCARDED}),
    State.UNSUITABLE: frozenset({State.COMPLETE, State.SUPERSEDED, State.DISCARDED}),
    State.FAILED: frozenset({State.COMPLETE, State.SUPERSEDED, State.DISCARDED}),
    State.SUPERSEDED: frozenset(),
    State.DISCARDED: frozenset(),
}

# What isn't worked on, listed or counted any more.
GONE = (State.SUPERSEDED, State.DISCARDED)

# Where the study's row keeps the reason of the step that led there.
EXPLAINED = frozenset({State.UNSUITABLE, State.FAILED, State.SUPERSEDED, State.DISCARDED})


def check(from_state: State, to_state: State) -> None:
    """Let an allowed step pass.

    Raises
    ------
    ForbiddenTransitionError
        If the table doesn't hold it.
    """
    if to_state not in ALLOWED[from_state]:
        raise ForbiddenTransitionError(f"a study that is {from_state} cannot become {to_state}")
