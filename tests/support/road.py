"""The whole road: dcmsend → node → Orthanc; what holds at its end, whatever happened on the way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.node import Node
from tests.support.orthanc import Orthanc
from tests.support.studies import StudyFiles, dcmsend


def send_all(studies: Sequence[StudyFiles], port: int) -> None:
    """Send every study by an association of its own."""
    for study in studies:
        dcmsend(study.files, port)


def reports_in(orthanc: Orthanc, studies: Sequence[StudyFiles]) -> dict[str, int]:
    """Return how many SRs Orthanc holds in each study."""
    return {study.study_instance_uid: orthanc.count_reports(study.study_instance_uid) for study in studies}


def assert_all_reported_once(orthanc: Orthanc, node: Node, studies: Sequence[StudyFiles]) -> None:
    """Every study has one report, it is committed, and the worklist names it."""
    assert reports_in(orthanc, studies) == {study.study_instance_uid: 1 for study in studies}
    assert orthanc.count_reports() == len(studies)
    for item in node.worklist():
        detail = node.get(f"/api/studies/{item['study_instance_uid']}")
        assert [row["state"] for row in detail["outbox"]] == ["committed"], detail["outbox"]
        assert item["result_sop_instance_uid"] == detail["outbox"][0]["sop_instance_uid"]


def node_for(tmp_path: Path, orthanc: Orthanc, **sections: dict[str, Any]) -> Node:
    """Return a node that knows an Orthanc as its destination, and that Orthanc knows."""
    destination = {"name": "orthanc", "host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": orthanc.ae_title}
    node = Node(tmp_path / "node", sections=dict(sections), destinations=[destination])
    orthanc.register("triage", "TRIAGE", node.port)
    return node
