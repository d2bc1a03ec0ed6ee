"""Real peers that the tests talk to: where their programs are, free ports, and waiting for conditions."""

import itertools
import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

# DCMTK's programs, Orthanc and servers; never the environment's bin, where pynetdicom has programs of the same names.
_FOLDERS = "/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin:/bin:/sbin"

T = TypeVar("T")

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
"""The folder beside the project's with real images."""


def find_program(name: str) -> str:
    """Return the path of a peer's program; without it the test is skipped, or fails where ``CI`` is set."""
    found = shutil.which(name, path=_FOLDERS)
    if found is None:
        versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        found = str(versions[-1]) if versions else None
    if found is None:
        missing(f"{name} is not installed; bash tests/run.sh installs it when run as root")
    return str(found)


def missing(what: str) -> None:
    """Skip the test for want of something; fail it where ``CI`` is set."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def shared(*parts: str) -> Path:
    """Return a path in ../shared; without it the test is skipped, or fails where ``CI`` is set."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        missing(f"../shared/{'/'.join(parts)} is not there")
    return path


def _ports() -> Iterator[int]:
    """Yield ports below those that the kernel gives to outgoing connections (ip(7)), of this test process alone."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    start = 16000 + 2000 * number % 16000
    # Not always the same ones: an earlier run's connections may linger.
    return itertools.cycle(random.sample(range(start, start + 2000), 2000))


_PORTS = _ports()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now, and that nobody else will be given."""
    while True:
        port = next(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(condition: Callable[[], T], timeout_s: float = 30, what: str = "the condition") -> T:
    """Ask until the answer is true and return it; fail after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s in vain for {what}; last seen: {answer!r}")
        time.sleep(0.05)


def dcmtk_environment() -> dict[str, str]:
    """Return an environment for DCMTK in which it does not wait 40 ms for each object (Nagle's algorithm)."""
    return {**os.environ, "TCP_NODELAY": "1"}
