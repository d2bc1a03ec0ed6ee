"""`run_web`: the role as `serve` runs it."""

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.support.peers import free_port, wait_until
from tests.support.web import make_config
from triage.config.schema import Web
from triage.errors import ConfigurationError
from triage.web.auth import ensure_token
from triage.web.server import run_web

_PROGRAM = """
import signal, sys, threading
from pathlib import Path
from triage.config.schema import Configuration, Web
from triage.web.server import run_web
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
run_web(Configuration(data_dir=Path(sys.argv[1]), web=Web(port=int(sys.argv[2]))), stop)
print("ended by itself")
"""


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_the_role_serves_and_ends_on_sigterm_with_a_listener_attached(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(tmp_path), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(lambda: _answers(url), 60, "the web server")
        token = ensure_token(make_config(tmp_path))
        headers = {"Authorization": f"Bearer {token}"}
        ready = httpx.get(f"{url}/readyz", timeout=30, trust_env=False)
        assert ready.status_code == 503
        parts = ready.json()["parts"]
        assert parts["ledger"]["ok"] is True
        assert parts["broker"]["ok"] is False
        assert {"listener", "score worker", "prepare worker", "dispatcher", "models"} <= set(parts)
        assert httpx.get(f"{url}/api/studies/1.2.99.3", headers=headers, trust_env=False).status_code == 404
        with httpx.stream("GET", f"{url}/api/events", headers=headers, timeout=20, trust_env=False) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            output = process.communicate(timeout=5)[0]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "ended by itself" in output
    # No UID of a study and no token reaches the log.
    assert "1.2.99.3" not in output
    assert token not in output


def test_a_port_in_use_is_a_configuration_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        config = make_config(tmp_path, web=Web(port=other.getsockname()[1]))
        with pytest.raises(ConfigurationError, match="cannot listen on web port"):
            run_web(config, threading.Event())
