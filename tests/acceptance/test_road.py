"""The whole road: dcmsend → node → Orthanc, as its users walk it."""

from collections.abc import Sequence

import pytest

from tests.support.node import Node, running_node
from tests.support.orthanc import running_orthanc
from tests.support.postgresql import run_postgresql
from tests.support.redis import running_redis
from tests.support.road import assert_all_reported_once, node_for, send_all
from tests.support.studies import StudyFiles, chest_studies, head_studies
from triage.config import Configuration
from triage.messages import Priority
from triage.rank import Tier

pytestmark = [pytest.mark.orthanc, pytest.mark.dcmtk, pytest.mark.timeout(600)]


@pytest.fixture
def studies() -> list[StudyFiles]:
    return chest_studies(20) + head_studies(2)


@pytest.fixture
def few() -> list[StudyFiles]:
    return chest_studies(4) + head_studies(1)


def assert_ordered_by_policy(items: Sequence[dict]) -> None:
    """HIGH, then MEDIUM, then everything else by arrival: the policy, worked out anew from what the API says."""
    rank = Configuration().rank

    def key(item: dict) -> tuple[int, str]:
        percentile = item["percentile"]
        if percentile is not None and percentile >= rank.high_percentile:
            assert item["priority"] == Priority.HIGH
            return Tier.HIGH, item["arrived_at"]
        if percentile is not None and percentile >= rank.medium_percentile:
            assert item["priority"] == Priority.MEDIUM
            return Tier.MEDIUM, item["arrived_at"]
        assert item["priority"] in (Priority.LOW, None)
        return Tier.ARRIVAL, item["arrived_at"]

    assert [item["study_instance_uid"] for item in items] == [
        item["study_instance_uid"] for item in sorted(items, key=key)
    ]
    assert len({item["percentile"] for item in items}) > len(items) // 2  # real scores, not one number


def test_22_studies_give_22_reports_and_sending_again_changes_nothing(tmp_path, studies):
    with running_orthanc(tmp_path / "orthanc") as orthanc, running_node(node_for(tmp_path, orthanc)) as node:
        send_all(studies, node.port)
        items = node.wait_for(len(studies))
        assert_all_reported_once(orthanc, node, studies)
        assert_ordered_by_policy(items)

        before = {item["study_instance_uid"]: node.get(f"/api/studies/{item['study_instance_uid']}") for item in items}
        send_all(studies, node.port)
        # With the longest quiet time: when it is delivered, whatever would follow from the others has been.
        sentinel = head_studies(3)[2]
        send_all([sentinel], node.port)
        node.wait_for(len(studies) + 1)
        after = {uid: node.get(f"/api/studies/{uid}") for uid in before}
        for uid, detail in before.items():
            assert after[uid]["events"] == detail["events"]
            assert after[uid]["jobs"] == detail["jobs"]
        assert_all_reported_once(orthanc, node, [*studies, sentinel])
        assert node.stop() == 0


@pytest.mark.postgresql
@pytest.mark.redis
def test_postgresql_and_redis_with_a_score_worker_that_reaches_only_the_broker(tmp_path, few):
    with (
        run_postgresql() as postgresql,
        running_redis(tmp_path / "redis") as broker_url,
        running_orthanc(tmp_path / "orthanc") as orthanc,
    ):
        node = node_for(
            tmp_path,
            orthanc,
            ledger={"url": postgresql.new_database()},
            broker={"url": broker_url},
            worker={"score_processes": 0},
        )
        # Its configuration names nothing but the broker: it could not find ledger or objects if it tried.
        scorer = Node(tmp_path / "scorer", sections={"broker": {"url": broker_url}}, roles=["score"])
        with running_node(scorer), running_node(node):
            send_all(few, node.port)
            items = node.wait_for(len(few))
            assert_all_reported_once(orthanc, node, few)
            assert_ordered_by_policy(items)
        assert not list(scorer.folder.rglob("*.dcm"))
        assert not (scorer.data_dir / "ledger.sqlite3").exists()
        assert not (node.data_dir / "ledger.sqlite3").exists()
