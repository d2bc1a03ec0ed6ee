"""The README's commands, run as subprocesses: exit codes, one-line errors with a remedy, nothing left behind."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.support.node import Node, running_node
from tests.support.peers import free_port, wait_until
from tests.support.studies import chest_studies, dcmsend

CLI = [sys.executable, "-m", "triage.cli.main"]


def run(*arguments: str, cwd: Path, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "160", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_help_teaches_every_command(tmp_path):
    listed = run("--help", cwd=tmp_path).stdout
    for command in (
        "serve", "demo", "doctor", "config", "studies", "outbox", "models", "train", "evaluate", "sample", "send",
        "conformance",
    ):  # fmt: skip
        assert command in listed
        answer = run(command, "--help", cwd=tmp_path)
        assert answer.returncode == 0
        assert "Usage" in answer.stdout


@pytest.mark.parametrize("command", ["simulate"])
def test_what_is_not_built_is_absent(tmp_path, command):
    assert run(command, "--help", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        (["config", "show"], {"TRIAGE_LISTEN__PROT": "1"}, "listen.port"),
        (["--config", "none.toml", "config", "show"], {}, "config init"),
        (["serve", "--role", "nobody"], {}, "roles:"),
        (["serve"], {"TRIAGE_MODELS__CXR": "no-such-bundle"}, "no-such-bundle"),
        (["serve"], {"TRIAGE_DATA_DIR": "/proc/nowhere"}, "data_dir"),
        (["no-such-command"], {}, "No such command"),
    ],
)
def test_errors_are_one_line_with_a_remedy(tmp_path, arguments, environment, complaint):
    answer = run(*arguments, cwd=tmp_path, **environment)
    assert answer.returncode in (1, 2)
    assert complaint in answer.stderr
    assert "Traceback" not in answer.stderr


def test_config_init_writes_what_serve_reads(tmp_path):
    assert run("config", "init", cwd=tmp_path).returncode == 0
    again = run("config", "init", cwd=tmp_path)
    assert again.returncode == 2
    assert "--force" in again.stderr
    shown = json.loads(run("config", "show", "--json", cwd=tmp_path).stdout)
    assert shown["file"] == "triage.toml"
    assert {row["source"] for row in shown["values"]} == {"default"}


def test_doctor_of_a_well_node_and_of_a_sick_one(tmp_path):
    ports = {"TRIAGE_LISTEN__PORT": str(free_port()), "TRIAGE_WEB__PORT": str(free_port()),
             "TRIAGE_LISTEN__MIN_FREE_GIB": "0.01"}  # fmt: skip
    well = run("doctor", "--json", cwd=tmp_path, **ports)
    checks = {check["part"]: check for check in json.loads(well.stdout)}
    assert well.returncode == 0, well.stdout
    assert {
        "data folder",
        "disk",
        "clock",
        "DICOM port",
        "web port",
        "ledger",
        "broker",
        "decoders",
        "device",
    } <= checks.keys()
    destination = json.dumps([{"name": "pacs", "host": "127.0.0.1", "port": free_port(), "ae_title": "PACS"}])
    sick = run("doctor", "--json", cwd=tmp_path, TRIAGE_DESTINATION=destination, **ports)
    assert sick.returncode == 1
    failed = [check for check in json.loads(sick.stdout) if check["verdict"] == "failed"]
    assert [check["part"] for check in failed] == ["C-ECHO pacs"]
    assert failed[0]["remedy"]


def test_a_port_in_use_ends_serve_with_a_message(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        node = Node(tmp_path / "node", port=taken.getsockname()[1])
        node.start(wait=False)
        assert node.process is not None
        assert node.process.wait(timeout=90) == 2
    assert f"127.0.0.1:{node.port}" in node.log_tail()


def test_two_nodes_cannot_share_a_data_folder(tmp_path):
    node = Node(tmp_path / "node")
    with running_node(node):
        second = run("--config", str(node.folder / "triage.toml"), "serve", cwd=tmp_path)
        assert second.returncode == 2
        assert "another triage-node serve" in second.stderr


def test_send_studies_and_stop_within_ten_seconds(tmp_path):
    node = Node(tmp_path / "node")
    study = chest_studies(1)[0]
    with running_node(node):
        config = str(node.folder / "triage.toml")
        to = f"127.0.0.1:{node.port}"
        sent = run("send", str(study.files[0]), "--to", to, "--ae", "TRIAGE", cwd=tmp_path)
        assert sent.returncode == 0, sent.stderr
        assert run("send", str(study.files[0]), "--to", to, "--ae", "WRONG", cwd=tmp_path).returncode == 1
        node.wait_for(1, ("reported",))
        listed = json.loads(run("--config", config, "studies", "list", "--json", cwd=tmp_path).stdout)
        assert study.study_instance_uid in json.dumps(listed)
        shown = run("--config", config, "studies", "show", study.study_instance_uid, "--json", cwd=tmp_path)
        assert any("view" in event["reason"] for event in json.loads(shown.stdout)["events"])
        assert node.stop() == 0


def test_a_worker_that_dies_is_started_again(tmp_path):
    node = Node(tmp_path / "node")
    with running_node(node):
        assert node.process is not None
        scorer = next(p for p in psutil.Process(node.process.pid).children() if "score" in p.cmdline())
        scorer.kill()
        wait_until(lambda: "role_ended" in (node.folder / "serve.log").read_text(), 30, "the supervisor to notice")
        dcmsend(chest_studies(1)[0].files, node.port)
        node.wait_for(1, ("reported",))


@pytest.mark.orthanc
@pytest.mark.timeout(300)
def test_demo_ends_well_and_leaves_nothing_behind(tmp_path):
    answer = run("demo", cwd=tmp_path, timeout=180, TMPDIR=str(tmp_path))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "before and after" in answer.stdout
    assert "http://127.0.0.1:" in answer.stdout
    assert "delivered" in answer.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(300)
def test_demo_without_orthanc(tmp_path):
    """Its own small archive stands in, with storage commitment."""
    script = (
        "import shutil, sys\n"
        "which = shutil.which\n"
        "shutil.which = lambda name, *a, **k: None if name == 'Orthanc' else which(name, *a, **k)\n"
        "from triage.cli.main import main\n"
        "main()\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False,
        env={**os.environ, "COLUMNS": "160", "TMPDIR": tempfile.mkdtemp(dir=tmp_path)},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "built-in archive" in answer.stdout
    assert "delivered" in answer.stdout
