"""Who gets in, and what a browser is kept from."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.web import RunningServer, Ward, make_config, running_server
from triage.web.auth import COOKIE

PROTECTED = ["/api/worklist", "/api/studies/1.2.826.0.1.1", "/api/events"]
ACTION = "/api/studies/1.2.826.0.1.1/stat"


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    ward = Ward(make_config(tmp_path))
    ward.receive()
    return ward


@pytest.fixture
def server(ward: Ward) -> Iterator[RunningServer]:
    with running_server(ward) as running:
        yield running


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic dDp0"}])
def test_without_the_token_nothing_of_a_patient_is_told(server: RunningServer, headers: dict[str, str]) -> None:
    with server.client(headers=headers) as client:
        for path in PROTECTED:
            answer = client.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert set(answer.json()) == {"detail"}
        assert client.post(ACTION).status_code == 401


def test_a_wrong_header_is_not_saved_by_a_cookie(server: RunningServer) -> None:
    with server.browser() as browser:
        assert browser.get("/api/worklist").status_code == 200
        assert browser.get("/api/worklist", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_a_person_without_a_session_is_led_to_the_login(server: RunningServer) -> None:
    with server.client() as client:
        answer = client.get("/")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        assert "Token of this node" in client.get("/login").text


def test_login_gives_a_cookie_that_scripts_and_other_sites_do_not_get(server: RunningServer) -> None:
    with server.client() as client:
        answer = client.post("/login", data={"token": server.token, "name": "  Dr   Roe "})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE}=")
        assert {"httponly", "samesite=strict", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
        assert re.search(r"max-age=\d+", cookie, re.IGNORECASE)
        assert server.token not in cookie
        page = client.get("/")
        assert page.status_code == 200
        assert "Dr Roe" in page.text


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"token": "wrong", "name": "Dr Roe"}, 401),
        ({"name": "Dr Roe"}, 401),
        ({"token": "TOKEN", "name": "  "}, 422),
        ({"token": "TOKEN", "name": "x" * 65}, 422),
        ({"token": "TOKEN", "name": "Dr\u202eRoe"}, 422),
    ],
)
def test_a_login_that_is_none(server: RunningServer, form: dict[str, str], status: int) -> None:
    form = {key: server.token if value == "TOKEN" else value for key, value in form.items()}
    with server.client() as client:
        answer = client.post("/login", data=form)
        assert answer.status_code == status
        assert "set-cookie" not in answer.headers
        assert 'role="alert"' in answer.text


def test_guessing_is_slowed_even_with_the_right_token_at_last(server: RunningServer) -> None:
    with server.client() as client:
        codes = [client.post("/login", data={"token": f"guess{i}", "name": "x"}).status_code for i in range(6)]
        assert codes == [401] * 5 + [429]
        answer = client.post("/login", data={"token": server.token, "name": "x"})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0


def test_logout_ends_the_session_itself(server: RunningServer) -> None:
    with server.browser() as browser:
        cookie = browser.cookies[COOKIE]
        assert browser.post("/logout").headers["location"] == "/login"
        assert browser.get("/").status_code == 303
        # A copy of the cookie is worth nothing either.
        with server.client(headers={"Cookie": f"{COOKIE}={cookie}"}) as thief:
            assert thief.get("/api/worklist").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "", "Referer": "https://evil.example/page"},
        {"Origin": "", "Referer": ""},
    ],
)
def test_another_site_cannot_act_with_a_persons_session(
    ward: Ward, server: RunningServer, headers: dict[str, str]
) -> None:
    with server.browser() as browser:
        for path in (ACTION, "/logout"):
            answer = browser.post(path, headers=headers)
            assert answer.status_code == 403
        assert not ward.ledger.study("1.2.826.0.1.1").stat
        assert browser.get("/api/worklist").status_code == 200
        assert browser.post(ACTION).status_code == 200
    assert ward.ledger.study("1.2.826.0.1.1").stat


def test_a_login_from_another_site_is_refused(server: RunningServer) -> None:
    with server.client(headers={"Origin": "https://evil.example"}) as client:
        assert client.post("/login", data={"token": server.token, "name": "x"}).status_code == 403


def test_a_session_from_another_token_is_worthless(tmp_path: Path, server: RunningServer) -> None:
    other = Ward(make_config(tmp_path / "other"))
    with running_server(other) as elsewhere, elsewhere.browser() as browser:
        cookie = browser.cookies[COOKIE]
    with server.client(headers={"Cookie": f"{COOKIE}={cookie}"}) as client:
        assert client.get("/api/worklist").status_code == 401


@pytest.mark.parametrize("path", ["/login", "/", "/api/worklist", "/healthz", "/static/style.css", "/nowhere"])
def test_every_answer_carries_the_security_headers(server: RunningServer, path: str) -> None:
    with server.client() as client:
        headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_large_and_endless_bodies_are_refused(server: RunningServer) -> None:
    with server.client() as client:
        assert client.post("/login", content=b"x" * 65_537).status_code == 413
        assert client.post("/login", content=iter([b"x"])).status_code == 411


def test_no_method_that_is_not_offered(server: RunningServer) -> None:
    with server.api() as api:
        assert api.request("TRACE", "/").status_code == 405
        assert api.delete("/api/worklist").status_code == 405
