"""Token, sessions, throttle and origin."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from triage.config.schema import Configuration
from triage.errors import ConfigurationError
from triage.web.auth import (
    TOKEN_FILE,
    LoginThrottle,
    Sessions,
    ensure_token,
    is_same_origin,
    same_secret,
)

TOKEN = "t" * 43


def test_the_token_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    config = Configuration(data_dir=tmp_path / "data")
    token = ensure_token(config)
    file = tmp_path / "data" / TOKEN_FILE
    assert len(token) >= 43
    assert ensure_token(config) == token
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == [TOKEN_FILE]


def test_processes_that_start_together_agree_on_the_token(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from triage.config.schema import Configuration\n"
        "from triage.web.auth import ensure_token\n"
        "print('loaded', flush=True); sys.stdin.readline()\n"
        "print(ensure_token(Configuration(data_dir=Path(sys.argv[1]))))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    tokens = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(tokens) == 1
    assert len(tokens.pop()) >= 43


def test_a_token_that_others_could_read_is_closed(tmp_path: Path) -> None:
    file = tmp_path / TOKEN_FILE
    file.write_text(TOKEN)
    file.chmod(0o644)
    assert ensure_token(Configuration(data_dir=tmp_path)) == TOKEN
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff\xfe" * 30])
def test_a_token_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / TOKEN_FILE).write_bytes(content)
    with pytest.raises(ConfigurationError):
        ensure_token(Configuration(data_dir=tmp_path))


def test_secrets_are_compared_whole() -> None:
    assert same_secret("geheim", "geheim")
    assert not same_secret("gehei", "geheim")
    assert not same_secret("géheim", "geheim")
    assert not same_secret("\udcff", "geheim")


def test_a_session_is_read_until_it_is_revoked() -> None:
    sessions = Sessions(TOKEN)
    cookie = sessions.issue("Dr Roe")
    identity = sessions.read(cookie)
    assert identity is not None
    assert identity.name == "Dr Roe"
    sessions.revoke(identity.session)
    assert sessions.read(cookie) is None
    assert sessions.read(sessions.issue("Dr Roe")) is not None


def test_a_session_of_another_token_forged_or_expired_is_none() -> None:
    cookie = Sessions("u" * 43).issue("Dr Roe")
    sessions = Sessions(TOKEN)
    mine = sessions.issue("Dr Roe")
    assert sessions.read(cookie) is None
    assert sessions.read("") is None
    content, moment, signature = mine.split(".")
    assert sessions.read(f"{content}.{moment}.{signature[::-1]}") is None
    assert sessions.read(f"{content[:-4]}AAAA.{moment}.{signature}") is None
    assert Sessions(TOKEN, lifetime_s=-1).read(mine) is None


def test_too_many_failures_must_wait_for_the_window_to_pass() -> None:
    time = [100.0]
    throttle = LoginThrottle(per_address=3, overall=5, window_s=60, clock=lambda: time[0])
    for _ in range(3):
        assert throttle.wait_s("10.0.0.1") == 0
        throttle.failed("10.0.0.1")
        time[0] += 10
    assert throttle.wait_s("10.0.0.1") == 30
    assert throttle.wait_s("10.0.0.2") == 0
    throttle.failed("10.0.0.2")
    throttle.failed("10.0.0.3")
    assert throttle.wait_s("10.0.0.4") == 30
    time[0] += 31
    assert throttle.wait_s("10.0.0.1") == 0


@pytest.mark.parametrize(
    ("origin", "referer", "same"),
    [
        ("http://node:8080", "", True),
        ("https://NODE:8080", "", True),
        ("", "http://node:8080/page", True),
        ("", "", False),
        ("null", "", False),
        ("http://node:8081", "http://node:8080/", False),
        ("http://evil.example", "", False),
        ("http://node:8080.evil.example", "", False),
    ],
)
def test_only_our_own_page_is_the_same_origin(origin: str, referer: str, same: bool) -> None:
    assert is_same_origin(origin=origin, referer=referer, host="node:8080") is same
