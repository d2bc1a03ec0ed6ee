"""The rank policy as a function."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triage.config.schema import Rank
from triage.messages import Priority
from triage.rank import Tier, is_overdue, order_key, suggested_priority, tier_of, waited_s

RANK = Rank(high_percentile=95, medium_percentile=80, max_wait_s=3600)
NOW = 1_000_000.0


@dataclass(frozen=True)
class Waiting:
    id: int
    arrived_at: float
    priority: Priority | None = None
    stat: bool = False
    read_at: float | None = None


@pytest.mark.parametrize(
    ("percentile", "priority"),
    [
        (100.0, Priority.HIGH),
        (95.0, Priority.HIGH),
        (94.999, Priority.MEDIUM),
        (80.0, Priority.MEDIUM),
        (79.999, Priority.LOW),
        (0.0, Priority.LOW),
        (None, None),
    ],
)
def test_a_percentile_gets_its_priority(percentile: float | None, priority: Priority | None) -> None:
    assert suggested_priority(percentile, RANK) is priority


def test_overdue_begins_after_the_maximum_wait() -> None:
    assert not is_overdue(Waiting(1, NOW - 3600), NOW, RANK)
    assert is_overdue(Waiting(1, NOW - 3601), NOW, RANK)
    assert not is_overdue(Waiting(1, NOW - 9000, read_at=NOW - 5000), NOW, RANK)


def test_the_wait_ends_when_it_is_read_and_is_never_negative() -> None:
    assert waited_s(Waiting(1, NOW - 60), NOW) == 60
    assert waited_s(Waiting(1, NOW - 60, read_at=NOW - 20), NOW) == 40
    assert waited_s(Waiting(1, NOW + 5), NOW) == 0


@pytest.mark.parametrize(
    ("study", "tier"),
    [
        (Waiting(1, NOW - 9000, Priority.LOW, stat=True), Tier.STAT),
        (Waiting(1, NOW - 9000, Priority.HIGH), Tier.OVERDUE),
        (Waiting(1, NOW, Priority.HIGH), Tier.HIGH),
        (Waiting(1, NOW, Priority.MEDIUM), Tier.MEDIUM),
        (Waiting(1, NOW, Priority.LOW), Tier.ARRIVAL),
        (Waiting(1, NOW), Tier.ARRIVAL),
    ],
)
def test_each_study_belongs_to_one_tier(study: Waiting, tier: Tier) -> None:
    assert tier_of(study, NOW, RANK) is tier


waiting = st.builds(
    Waiting,
    id=st.integers(1, 10_000),
    arrived_at=st.floats(NOW - 8000, NOW),
    priority=st.sampled_from([*Priority, None]),
    stat=st.booleans(),
)


@given(st.lists(waiting, min_size=1, max_size=20, unique_by=lambda s: s.id), st.data())
def test_a_model_never_lowers_anybody_below_arrival_order(studies: list[Waiting], data: st.DataObject) -> None:
    """Whatever the model says of one study, it stands no later than if it had said nothing of that study."""
    chosen = data.draw(st.sampled_from(studies))
    silent = Waiting(chosen.id, chosen.arrived_at, None, chosen.stat, chosen.read_at)
    others = [s for s in studies if s is not chosen]

    def before(study: Waiting) -> int:
        return sum(order_key(o, NOW, RANK) < order_key(study, NOW, RANK) for o in others)

    assert before(chosen) <= before(silent)


@given(st.lists(waiting, max_size=20, unique_by=lambda s: s.id))
def test_people_and_waiting_go_before_models(studies: list[Waiting]) -> None:
    ordered = sorted(studies, key=lambda s: order_key(s, NOW, RANK))
    tiers = [tier_of(s, NOW, RANK) for s in ordered]
    assert tiers == sorted(tiers)
    assert [s for s in ordered if s.stat] == ordered[: sum(s.stat for s in ordered)]
    for tier in Tier:
        arrivals = [s.arrived_at for s in ordered if tier_of(s, NOW, RANK) is tier]
        assert arrivals == sorted(arrivals)
