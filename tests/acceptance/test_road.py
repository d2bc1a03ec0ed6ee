"""The whole road: dcmsend → node → Orthanc, as its users walk it."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.node import Node, running_node
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.postgresql import run_postgresql
from tests.support.redis import running_redis
from tests.support.studies import StudyFiles, chest_studies, dcmsend, head_studies
from triage.config import Configuration
from triage.messages import Priority
from triage.rank import Tier

pytestmark = [pytest.mark.orthanc, pytest.mark.dcmtk, pytest.mark.timeout(600)]


@pytest.fixture
def studies() -> list[StudyFiles]:
    return chest_studies(20) + head_studies(2)


def send_all(studies: Sequence[StudyFiles], port: int) -> None:
    for study in studies:
        dcmsend(study.files, port)


def reports_in(orthanc: Orthanc, studies: Sequence[StudyFiles]) -> dict[str, int]:
    """How many SRs Orthanc holds in each study."""
    return {study.study_instance_uid: orthanc.count_reports(study.study_instance_uid) for study in studies}


def assert_all_reported_once(orthanc: Orthanc, node: Node, studies: Sequence[StudyFiles]) -> None:
    assert reports_in(orthanc, studies) == {study.study_instance_uid: 1 for study in studies}
    assert orthanc.count_reports() == len(studies)
    for item in node.worklist():
        detail = node.get(f"/api/studies/{item['study_instance_uid']}")
        assert [row["state"] for row in detail["outbox"]] == ["committed"], detail["outbox"]
        assert item["result_sop_instance_uid"] == detail["outbox"][0]["sop_instance_uid"]


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


def node_for(tmp_path: Path, orthanc: Orthanc, **sections: dict) -> Node:
    destination = {"name": "orthanc", "host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": orthanc.ae_title}
    node = Node(tmp_path / "node", sections=dict(sections), destinations=[destination])
    orthanc.register("triage", "TRIAGE", node.port)
    return node


def test_22_studies_give_22_reports_and_sending_again_changes_nothing(tmp_path, studies):
    with running_orthanc(tmp_path / "orthanc") as orthanc, running_node(node_for(tmp_path, orthanc)) as node:
        send_all(studies, node.port)
        items = node.wait_for(len(studies))
        assert_all_reported_once(orthanc, node, studies)
        assert_ordered_by_policy(items)

        before = {item["study_instance_uid"]: node.get(f"/api/studies/{item['study_instance_uid']}") for item in items}
        send_all(studies, node.port)
        time.sleep(4)  # longer than every quiet time: whatever would follow has begun
        after = {uid: node.get(f"/api/studies/{uid}") for uid in before}
        for uid, detail in before.items():
            assert after[uid]["events"] == detail["events"]
            assert after[uid]["jobs"] == detail["jobs"]
        assert_all_reported_once(orthanc, node, studies)
        assert node.stop() == 0


@pytest.mark.parametrize("objects_before_kill", [3, 21, 40])
def test_a_node_killed_in_the_middle_ends_in_the_same_22(tmp_path, studies, objects_before_kill):
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        node = node_for(tmp_path, orthanc)
        node.start()
        sent: list[int] = []

        def send_and_retry() -> None:
            """A modality: what was not acknowledged is sent again."""
            for study in studies:
                for file in study.files:
                    while True:
                        try:
                            dcmsend([file], node.port)
                            sent.append(1)
                            break
                        except Exception:  # noqa: BLE001 - the node is down: that is what is tested
                            time.sleep(0.2)

        sender = threading.Thread(target=send_and_retry, daemon=True)
        sender.start()
        while len(sent) < objects_before_kill:
            time.sleep(0.01)
        node.kill()
        node.start()
        sender.join(timeout=200)
        assert not sender.is_alive()
        node.wait_for(len(studies), timeout_s=200)
        assert_all_reported_once(orthanc, node, studies)
        node.stop()


def test_a_node_killed_while_it_scores_ends_in_the_same_reports(tmp_path, studies):
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        node = node_for(tmp_path, orthanc)
        node.start()
        send_all(studies, node.port)
        node.wait_for(4, ("preparing", "scoring", "scored", "reported", "delivered"))
        node.kill()
        node.start()
        node.wait_for(len(studies), timeout_s=200)
        assert_all_reported_once(orthanc, node, studies)
        node.stop()


@pytest.mark.postgresql
@pytest.mark.redis
def test_postgresql_and_redis_with_a_score_worker_that_reaches_only_the_broker(tmp_path, studies):
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
            send_all(studies, node.port)
            items = node.wait_for(len(studies))
            assert_all_reported_once(orthanc, node, studies)
            assert_ordered_by_policy(items)
        assert not list(scorer.folder.rglob("*.dcm"))
        assert not (scorer.data_dir / "ledger.sqlite3").exists()
        assert not (node.data_dir / "ledger.sqlite3").exists()
