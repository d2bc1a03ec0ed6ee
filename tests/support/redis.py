"""A real redis-server on a free port of 127.0.0.1."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from tests.support.peers import find_program, free_port, wait_until


@contextmanager
def running_redis(folder: Path, port: int | None = None) -> Iterator[str]:
    """Run redis-server while the block runs; yields its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [
        find_program("redis-server"),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(folder),
        "--save",
        "",
    ]
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"redis://127.0.0.1:{port}/0"
            wait_until(lambda: _answers(url), what="redis-server to answer")
            yield url
        finally:
            process.terminate()
            process.wait(timeout=10)


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=1) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
