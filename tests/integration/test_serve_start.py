"""What a role ends with, and what the node makes of it: only what a person must mend ends the node."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.node import Node, running_node
from tests.support.peers import free_port, wait_until
from tests.support.postgresql import run_postgresql

ROLES = [("triage.serve.role", "listener"), ("triage.serve.role", "web"), ("workers.run", "prepare")]


def _exit_code(module: str, role: str, configuration: str, folder: Path) -> int:
    file = folder / "triage.toml"
    file.write_text(f'data_dir = "data"\n[listen]\nport = {free_port()}\n[web]\nport = {free_port()}\n{configuration}')
    command = [sys.executable, "-m", module, role, "--config", str(file)]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False).returncode


@pytest.mark.parametrize(("module", "role"), ROLES)
def test_a_ledger_that_does_not_answer_is_worth_another_try(module: str, role: str, tmp_path: Path) -> None:
    url = f"postgresql+psycopg://postgres@127.0.0.1:{free_port()}/postgres"
    assert _exit_code(module, role, f'[ledger]\nurl = "{url}"\n', tmp_path) == 1


@pytest.mark.parametrize("configuration", ["[listen.typo]\nport = 1\n", '[models]\ncxr = "no-such-bundle"\n'])
def test_what_a_person_must_mend_is_not(configuration: str, tmp_path: Path) -> None:
    assert _exit_code("workers.run", "prepare", configuration, tmp_path) == 2


def test_a_worklist_on_an_ipv6_address_is_seen_to_be_ready(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", sections={"web": {"host": "::1"}}, roles=("web",))
    with running_node(node):
        assert f"worklist  http://[::1]:{node.web_port}/" in node.lines


@pytest.mark.postgresql
def test_a_node_whose_database_comes_up_later_waits_for_it(tmp_path: Path) -> None:
    port = free_port()
    url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    node = Node(tmp_path / "node", sections={"ledger": {"url": url}}, roles=("broker", "listener", "prepare"))
    node.start(wait=False)
    try:
        ended = '"role": "{}", "exit_code": 1'
        log = node.folder / "serve.log"
        for role in ("listener", "prepare"):
            wait_until(lambda role=role: ended.format(role) in log.read_text(), 90, f"the {role}'s first end")
        with run_postgresql(port):
            wait_until(node._is_ready, 90, f"serve to be ready: {node.log_tail()}")
            assert node.stop() == 0
    finally:
        node.kill()
