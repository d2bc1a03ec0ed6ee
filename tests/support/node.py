"""A real node: `triage-node serve` as a subprocess with a configuration of its own."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from tests.support.peers import free_port, wait_until
from triage.config.template import toml_value

READY_S = 90


@dataclass
class Node:
    """A node to start, kill and start again; what it keeps lies in `folder`."""

    folder: Path
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    destinations: Sequence[dict[str, Any]] = ()
    roles: Sequence[str] = ()
    port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)
    process: "subprocess.Popen[str] | None" = None
    lines: list[str] = field(default_factory=list)

    def write_configuration(self) -> Path:
        """Write ``triage.toml`` and return its path."""
        defaults: dict[str, dict[str, Any]] = {
            "listen": {"port": self.port, "min_free_gib": 0.1},
            "complete": {"quiet_s": {"CR": 1.5, "DX": 1.5, "CT": 2.5}},
            "web": {"port": self.web_port},
        }
        for name, values in self.sections.items():
            defaults.setdefault(name, {}).update(values)
        lines = ['data_dir = "data"']
        for name, values in defaults.items():
            lines += [f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in values.items())]
        for destination in self.destinations:
            lines += ["[[destination]]", *(f"{key} = {toml_value(value)}" for key, value in destination.items())]
        path = self.folder / "triage.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def start(self, *, wait: bool = True) -> None:
        """Start `serve` and wait for its line ``ready``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "triage.cli.main", "--config", str(self.write_configuration()), "serve"]
        for role in self.roles:
            command += ["--role", role]
        self.lines = []
        with self.log.open("ab") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=self.folder, env=dict(os.environ)
            )
        threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True).start()
        if wait:
            wait_until(self._is_ready, READY_S, f"serve to be ready: {self.log_tail()}")

    @staticmethod
    def _read(stdout: IO[str], lines: list[str]) -> None:
        with stdout:
            for line in stdout:
                lines.append(line.rstrip("\n"))

    def _is_ready(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            pytest.fail(f"serve ended: {self.log_tail()}")
        return "ready" in self.lines

    def log_tail(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) if self.log.exists() else ""

    def kill(self) -> None:
        """SIGKILL the supervisor; its children die with it."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit code, and fails if it takes more than ten seconds."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=12)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail("serve did not stop within ten seconds of SIGTERM")

    @property
    def log(self) -> Path:
        """Where its log lines are."""
        return self.folder / "serve.log"

    @property
    def data_dir(self) -> Path:
        """Its data folder."""
        return self.folder / "data"

    @property
    def token(self) -> str:
        """The web token."""
        return (self.data_dir / "web.token").read_text().strip()

    def get(self, path: str) -> Any:
        """GET a route of its API as JSON."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = httpx.get(f"http://127.0.0.1:{self.web_port}{path}", headers=headers, timeout=20, trust_env=False)
        return answer.raise_for_status().json()

    def worklist(self) -> list[dict[str, Any]]:
        """Return the whole worklist in its order."""
        items: list[dict[str, Any]] = self.get("/api/worklist?limit=500")["items"]
        return items

    def wait_for(
        self, count: int, states: Sequence[str] = ("delivered",), timeout_s: float = 120
    ) -> list[dict[str, Any]]:
        """Wait until `count` studies are in one of `states`; returns the worklist."""

        def ended() -> list[dict[str, Any]]:
            try:
                items = self.worklist()
            except httpx.HTTPError:
                return []
            return items if sum(item["state"] in states for item in items) >= count else []

        return wait_until(ended, timeout_s, f"{count} studies in {states}")


@contextmanager
def running_node(node: Node) -> Iterator[Node]:
    """Start the node, and stop it at the end of the block; what went wrong there is not hidden by how it stops."""
    try:
        node.start()
        yield node
    except BaseException:
        node.kill()
        raise
    node.stop()
