"""Server-sent events: a change arrives, nothing is missed, and nobody holds up the server's end."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.peers import wait_until
from tests.support.web import RunningServer, Ward, make_config, running_server


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(make_config(tmp_path))


@pytest.fixture
def server(ward: Ward) -> Iterator[RunningServer]:
    with running_server(ward) as running:
        yield running


def _messages(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """The events of a stream; comments are kept under the empty name."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            yield fields
            fields = {}
        else:
            name, _, value = line.partition(":")
            fields[name] = value.strip()


def test_a_change_is_told(ward: Ward, server: RunningServer) -> None:
    ward.receive()
    with server.api() as api, api.stream("GET", "/api/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        messages = _messages(stream.iter_lines())
        assert "retry" in next(messages)
        study = ward.unsuitable("lateral view")
        told = []
        for message in messages:
            if message.get("event") == "change":
                told.append(json.loads(message["data"]))
            if told and told[-1]["to_state"] == "unsuitable":
                break
    assert [change["to_state"] for change in told] == ["receiving", "complete", "preparing", "unsuitable"]
    assert {change["study_instance_uid"] for change in told} == {study.study_instance_uid}
    assert told[-1]["reason"] == "lateral view"


def test_who_comes_back_misses_nothing(ward: Ward, server: RunningServer) -> None:
    ward.receive()
    seen = ward.ledger.last_event_id()
    ward.receive()
    headers = {"Last-Event-ID": str(seen)}
    with server.api() as api, api.stream("GET", "/api/events", headers=headers) as stream:
        message = next(m for m in _messages(stream.iter_lines()) if m.get("event") == "change")
    assert message["id"] == str(seen + 1)


@pytest.mark.parametrize("value", ["x", "-1", str(2**63)])
def test_a_last_event_that_is_none_is_refused(server: RunningServer, value: str) -> None:
    with server.api() as api:
        assert api.get("/api/events", headers={"Last-Event-ID": value}).status_code == 422


def test_a_silent_stream_shows_that_it_lives(server: RunningServer) -> None:
    with server.api() as api, api.stream("GET", "/api/events") as stream:
        messages = _messages(stream.iter_lines())
        next(messages)
        assert next(messages) == {"": "alive"}


def test_an_open_stream_does_not_hold_up_the_servers_end(server: RunningServer) -> None:
    with server.api() as api, api.stream("GET", "/api/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        server.stop.set()
        # Ended by itself, not by force after uvicorn's grace period: that breaks it off in the middle.
        for _ in lines:
            pass
        server.thread.join(timeout=10)
        assert not server.thread.is_alive()


def test_a_listener_that_left_is_forgotten(server: RunningServer) -> None:
    def listeners(client: httpx.Client) -> str:
        text = client.get("/metrics").text
        return next(line for line in text.splitlines() if line.startswith("triage_web_event_listeners "))

    with server.client() as client:
        with server.api() as api, api.stream("GET", "/api/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            assert listeners(client).endswith(" 1.0")
        wait_until(lambda: listeners(client).endswith(" 0.0"), what="the listener to be forgotten")
