"""The REST interface over a real server and ledger."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.web import RunningServer, Ward, make_config, running_server
from triage.ledger import State
from triage.messages import Stage

CONTRACT = {
    "study_instance_uid",
    "patient_name",
    "patient_id",
    "accession_number",
    "modality",
    "study_date",
    "arrived_at",
    "state",
    "reason",
    "priority",
    "percentile",
    "log_posterior",
    "model",
    "waited_s",
    "overdue",
    "result_sop_instance_uid",
}


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(make_config(tmp_path))


@pytest.fixture
def server(ward: Ward) -> Iterator[RunningServer]:
    with running_server(ward) as running:
        yield running


@pytest.fixture
def api(server: RunningServer) -> Iterator[httpx.Client]:
    with server.api() as client:
        yield client


def test_the_worklist_says_what_the_contract_names(ward: Ward, api: httpx.Client) -> None:
    study = ward.reported(98.5, ago_s=100, name="Doe^Jane")
    answer = api.get("/api/worklist")
    assert answer.status_code == 200
    (item,) = answer.json()["items"]
    assert set(item) >= CONTRACT
    assert item["study_instance_uid"] == study.study_instance_uid
    assert item["patient_name"] == "Doe^Jane"
    assert item["arrived_at"] == "2026-09-21T14:11:40Z"
    assert (item["state"], item["priority"], item["percentile"], item["log_posterior"]) == (
        "reported",
        "HIGH",
        98.5,
        -10.0,
    )
    assert item["model"].startswith("cxr-starter 1.0 (")
    assert (item["rank"], item["waited_s"], item["overdue"]) == (1, 100.0, False)
    assert item["result_sop_instance_uid"] == study.result_sop_instance_uid
    assert answer.json()["next_cursor"] is None


def test_studies_without_a_score_stay_on_the_list_with_their_reason(ward: Ward, api: httpx.Client) -> None:
    ward.receive(ago_s=50, modality="CT")
    ward.unsuitable("lateral view", ago_s=40)
    ward.failed("the model did not answer", ago_s=30)
    ward.scored(10, ago_s=20)
    items = api.get("/api/worklist").json()["items"]
    assert [item["state"] for item in items] == ["receiving", "unsuitable", "failed", "scored"]
    assert [item["reason"] for item in items[1:3]] == ["lateral view", "prepare: the model did not answer"]
    assert [item["priority"] for item in items] == [None, None, None, "LOW"]


def test_a_score_that_is_no_number_hides_nobody(ward: Ward, api: httpx.Client) -> None:
    ward.exploded("unlike anything the model was calibrated on", ago_s=50)
    ward.scored(10, ago_s=40)
    first, second = api.get("/api/worklist").json()["items"]
    assert (first["state"], first["percentile"], first["percentiles"], first["calibrated"]) == (
        "unsuitable", None, {}, None,
    )  # fmt: skip
    assert second["percentile"] == 10


def test_filters(ward: Ward, api: httpx.Client) -> None:
    ward.receive(modality="CT")
    ward.scored(99, modality="DX")
    read = ward.scored(50)
    ward.ledger.mark_read(read.study_instance_uid, "Dr Roe")

    def uids(**query: str) -> list[str]:
        return [i["study_instance_uid"][-1] for i in api.get("/api/worklist", params=query).json()["items"]]

    assert uids() == ["2", "1"]
    assert uids(modality="CT") == ["1"]
    assert uids(state="scored") == ["2"]
    assert uids(state="read") == ["3"]
    assert uids(modality="MG") == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"state": "lost"}, 422),
        ({"limit": "0"}, 422),
        ({"limit": "501"}, 422),
        ({"modality": "CT' OR 1=1"}, 422),
        ({"cursor": "x"}, 400),
        ({"cursor": "WzEsIngiXQ"}, 400),
        # Numbers that no database takes: an offset and a study of 41 digits, infinite times.
        ({"cursor": "WzEwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwLCAiIl0"}, 400),
        ({"cursor": "WzAsICJbMSwyLDMsOTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTldIl0"}, 400),
        ({"cursor": "WzAsICJbSW5maW5pdHksSW5maW5pdHksSW5maW5pdHksSW5maW5pdHldIl0"}, 400),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(api: httpx.Client, query: dict[str, str], status: int) -> None:
    answer = api.get("/api/worklist", params=query)
    assert answer.status_code == status
    assert "detail" in answer.json()


def test_parts_follow_each_other_without_gap_or_repeat(ward: Ward, api: httpx.Client) -> None:
    expected = [ward.receive(ago_s=1000 - i).study_instance_uid for i in range(11)]
    seen, ranks, cursor = [], [], ""
    while True:
        part = api.get("/api/worklist", params={"limit": 4, "cursor": cursor} if cursor else {"limit": 4}).json()
        seen += [item["study_instance_uid"] for item in part["items"]]
        ranks += [item["rank"] for item in part["items"]]
        cursor = part["next_cursor"]
        if cursor is None:
            break
        # Time passes and a study comes first: what follows is still the list as it was.
        ward.clock.now += 60
    assert seen == expected
    assert ranks == list(range(1, 12))


def test_one_study_with_its_history(ward: Ward, api: httpx.Client) -> None:
    study = ward.reported(98)
    detail = api.get(f"/api/studies/{study.study_instance_uid}").json()
    assert [event["to_state"] for event in detail["events"]][-3:] == ["scoring", "scored", "reported"]
    assert {job["stage"]: job["state"] for job in detail["jobs"]} == dict.fromkeys(Stage, "done")
    assert [(row["destination"], row["state"]) for row in detail["outbox"]] == [("pacs", "pending")]
    assert (detail["instances"], detail["completed_by"]) == (1, "quiet")
    assert detail["calibration"] == "cxr-starter reference, 400 images"


@pytest.mark.parametrize("action", ["requeue", "stat", "claim", "release", "complete"])
def test_an_unknown_study_is_not_found(api: httpx.Client, action: str) -> None:
    for answer in (api.get("/api/studies/1.2.3"), api.post(f"/api/studies/1.2.3/{action}")):
        assert answer.status_code == 404
        assert "no such study" in answer.json()["detail"]


@pytest.mark.parametrize("uid", ["abc", "1..2", "1.2%0a", "1." + "2" * 63, "1.2'--"])
def test_what_is_no_uid_is_refused(api: httpx.Client, uid: str) -> None:
    assert api.get(f"/api/studies/{uid}").status_code == 422
    assert api.post(f"/api/studies/{uid}/stat").status_code == 422


def test_an_unknown_action_is_refused(ward: Ward, api: httpx.Client) -> None:
    uid = ward.receive().study_instance_uid
    assert api.post(f"/api/studies/{uid}/delete").status_code == 422
    assert api.get(f"/api/studies/{uid}/stat").status_code == 405


def test_stat_goes_first_and_can_be_taken_back(ward: Ward, api: httpx.Client) -> None:
    ward.scored(99, ago_s=10)
    uid = ward.receive().study_instance_uid
    after = api.post(f"/api/studies/{uid}/stat")
    assert after.json()["stat"] is True
    assert api.get("/api/worklist").json()["items"][0]["study_instance_uid"] == uid
    assert api.post(f"/api/studies/{uid}/stat", params={"off": "true"}).json()["stat"] is False
    assert api.get("/api/worklist").json()["items"][1]["study_instance_uid"] == uid


def test_a_claim_is_respected_until_released(ward: Ward, server: RunningServer, api: httpx.Client) -> None:
    uid = ward.receive().study_instance_uid
    with server.browser("Dr Roe") as roe:
        assert roe.post(f"/api/studies/{uid}/claim").json()["claimed_by"] == "Dr Roe"
        refused = api.post(f"/api/studies/{uid}/claim")
        assert refused.status_code == 409
        assert "somebody else" in refused.json()["detail"]
        assert api.post(f"/api/studies/{uid}/release").json()["claimed_by"] is None
        assert api.post(f"/api/studies/{uid}/claim").json()["claimed_by"] == "api"
    actors = [event.actor for event in ward.ledger.events(ward.ledger.study(uid).id)]
    assert actors == ["listener", "Dr Roe", "api", "api"]


def test_complete_takes_it_off_the_list_of_unread_ones(ward: Ward, api: httpx.Client) -> None:
    uid = ward.scored(99, ago_s=30).study_instance_uid
    assert api.post(f"/api/studies/{uid}/complete").json()["read_at"] is not None
    ward.clock.now += 1000
    assert api.get("/api/worklist").json()["items"] == []
    (item,) = api.get("/api/worklist", params={"state": "read"}).json()["items"]
    assert item["waited_s"] == 30


@pytest.mark.parametrize(
    ("action", "params", "reason"),
    [("complete", {"off": "true"}, "not read after all"), ("stat", {}, "STAT")],
)
def test_what_was_read_by_mistake_comes_back(
    ward: Ward, api: httpx.Client, action: str, params: dict[str, str], reason: str
) -> None:
    study = ward.scored(99)
    address = f"/api/studies/{study.study_instance_uid}"
    api.post(f"{address}/complete")
    assert api.get("/api/worklist").json()["items"] == []
    assert api.post(f"{address}/{action}", params=params).json()["read_at"] is None
    (item,) = api.get("/api/worklist").json()["items"]
    assert item["study_instance_uid"] == study.study_instance_uid
    assert ward.ledger.events(study.id)[-1].reason == reason


def test_taking_a_stat_back_leaves_a_study_read(ward: Ward, api: httpx.Client) -> None:
    address = f"/api/studies/{ward.scored(99).study_instance_uid}"
    for action in ("stat", "complete", "stat?off=true"):
        assert api.post(f"{address}/{action}").status_code == 200
    assert api.get("/api/worklist").json()["items"] == []


def test_requeue_works_for_what_failed_only(ward: Ward, api: httpx.Client) -> None:
    failed = ward.failed("no answer").study_instance_uid
    scored = ward.scored(50).study_instance_uid
    assert api.post(f"/api/studies/{failed}/requeue").json()["state"] == State.COMPLETE
    refused = api.post(f"/api/studies/{scored}/requeue")
    assert refused.status_code == 409
    assert "cannot be requeued" in refused.json()["detail"]


def test_overdue_goes_before_high(ward: Ward, api: httpx.Client) -> None:
    ward.scored(99.9)
    late = ward.scored(1, ago_s=ward.config.rank.max_wait_s + 1)
    (first, _) = api.get("/api/worklist").json()["items"]
    assert first["study_instance_uid"] == late.study_instance_uid
    assert first["overdue"] is True


def test_readiness_names_every_part(ward: Ward) -> None:
    state = {"ok": True}
    probes = {"ledger": lambda: (True, "fine"), "broker": lambda: (state["ok"], "x")}
    with running_server(ward, probes) as server, server.client() as client:
        answer = client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json() == {
            "ready": True,
            "parts": {"ledger": {"ok": True, "detail": "fine"}, "broker": {"ok": True, "detail": "x"}},
        }
    state["ok"] = False
    with running_server(ward, {"broker": lambda: (state["ok"], "x")}) as server, server.client() as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert client.get("/healthz").json() == {"status": "alive"}


def test_metrics_count_without_patients(ward: Ward, server: RunningServer, api: httpx.Client) -> None:
    ward.reported(99, ago_s=500, name="Secret^Name")
    ward.unsuitable("lateral view")
    ward.receive(ago_s=ward.config.rank.max_wait_s + 100)
    api.get(f"/api/studies/{ward.receive().study_instance_uid}")
    api.get("/api/studies/1.2.3.4.5")
    with server.client() as client:
        text = client.get("/metrics").text
    for line in (
        'triage_studies{state="reported"} 1.0',
        'triage_studies{state="unsuitable"} 1.0',
        'triage_unread_studies{priority="HIGH"} 1.0',
        'triage_unread_studies{priority="none"} 3.0',
        "triage_overdue_studies 1.0",
        f"triage_oldest_unread_seconds {float(ward.config.rank.max_wait_s + 100)}",
        'triage_outbox{destination="pacs",state="pending"} 1.0',
        'triage_delivered_total{destination="pacs"} 0.0',
        'triage_jobs{stage="report",state="done"} 1.0',
        "triage_received_objects_total 4.0",
        'triage_web_requests_total{method="GET",route="/api/studies/{study_instance_uid}",status="404"} 1.0',
    ):
        assert line in text.splitlines()
    for secret in ("Secret", "1.2.826", "1.2.3.4.5", "P0001", "A000001"):
        assert secret not in text


def test_the_interface_is_described(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/worklist",
        "/api/studies/{study_instance_uid}",
        "/api/studies/{study_instance_uid}/{action}",
        "/api/events",
    }


def test_a_lost_ledger_is_an_answer_not_a_crash(ward: Ward, api: httpx.Client, tmp_path: Path) -> None:
    ward.receive()
    ward.ledger.close()
    for file in tmp_path.glob("ledger.sqlite3*"):
        file.unlink()
    answer = api.get("/api/worklist")
    assert answer.status_code == 503
    assert answer.json() == {"detail": "The ledger does not answer; try again."}
