"""The order that the ledger's SQL gives is the order of `triage.rank`."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert

from tests.support.web import NOW
from triage.config.schema import Rank
from triage.ledger import Ledger, State, schema
from triage.messages import Priority
from triage.rank import order_key

pytest_plugins = ["tests.support.ledger_fixtures"]

HIDDEN = {State.SUPERSEDED, State.DISCARDED}
RANK = Rank(max_wait_s=3600)

rows = st.fixed_dictionaries(
    {
        # Few distinct times, the limit of overdue among them, so that ties come up.
        "arrived_at": st.sampled_from([NOW, NOW - 10, NOW - 3599.5, NOW - 3600, NOW - 3600.5, NOW - 9000]),
        "priority": st.sampled_from([*Priority, None]),
        "stat": st.booleans(),
        "state": st.sampled_from(list(State)),
        "read_at": st.sampled_from([None, None, NOW - 5]),
        "is_current": st.sampled_from([True, True, True, False]),
    }
)


def _fill(ledger: Ledger, studies: list[dict[str, object]]) -> None:
    common = {"revision": 1, "first_object_at": 0, "last_object_at": 0, "instance_count": 1, "image_count": 1}
    with ledger._database.write() as connection:
        connection.execute(delete(schema.study))
        for number, study in enumerate(studies):
            connection.execute(insert(schema.study).values(study_instance_uid=f"1.2.{number}", **common, **study))


@given(st.lists(rows, max_size=12), st.integers(1, 5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_ledgers_order_is_the_policy(ledger: Ledger, studies: list[dict[str, object]], limit: int) -> None:
    _fill(ledger, studies)
    listed, cursor = [], None
    while True:
        part, cursor = ledger.worklist(NOW, RANK, limit=limit, cursor=cursor)
        assert len(part) <= limit
        listed += part
        if cursor is None:
            break
    assert listed == sorted(listed, key=lambda study: order_key(study, NOW, RANK))
    shown = [s for s in studies if s["is_current"] and s["read_at"] is None and s["state"] not in HIDDEN]
    assert len({study.id for study in listed}) == len(listed) == len(shown)
