"""The README's commands, run as subprocesses: exit codes, one-line errors with a remedy, nothing left behind."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import psutil
import pytest
from typer.testing import CliRunner

from tests.support.cli import run
from tests.support.node import Node, running_node
from tests.support.peers import find_program, free_port, wait_until
from tests.support.studies import chest_studies, dcmsend
from triage.cli.main import _assemble, app


def test_help_teaches_every_command(tmp_path):
    listed = run("--help", cwd=tmp_path).stdout
    _assemble()
    for command in (
        "serve", "demo", "doctor", "config", "studies", "outbox", "models", "train", "evaluate", "sample", "send",
        "conformance",
    ):  # fmt: skip
        assert command in listed
        answer = CliRunner().invoke(app, [command, "--help"])
        assert answer.exit_code == 0
        assert f"Usage: triage-node {command} [OPTIONS]" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        (["config", "show"], {"TRIAGE_LISTEN__PROT": "1"}, "listen.port"),
        (["--config", "none.toml", "config", "show"], {}, "config init"),
        (["serve", "--role", "nobody"], {}, "roles:"),
        (["serve"], {"TRIAGE_MODELS__CXR": "no-such-bundle"}, "no-such-bundle"),
        (["serve"], {"TRIAGE_DATA_DIR": "/proc/nowhere"}, "data_dir"),
    ],
)
def test_errors_are_one_line_with_a_remedy(tmp_path, arguments, environment, complaint):
    answer = run(*arguments, cwd=tmp_path, **environment)
    assert answer.returncode == 2  # usage or configuration
    error, remedy = answer.stderr.splitlines()
    assert error.startswith("error: ")
    assert remedy.startswith("  try: ")
    assert complaint in answer.stderr


def test_wrong_usage_says_what_is_wrong_and_where_help_is(tmp_path):
    answer = run("no-such-command", cwd=tmp_path)
    assert answer.returncode == 2
    assert "No such command 'no-such-command'" in answer.stderr
    assert "--help" in answer.stderr


def test_config_init_writes_what_serve_reads(tmp_path):
    assert run("config", "init", cwd=tmp_path).returncode == 0
    again = run("config", "init", cwd=tmp_path)
    assert again.returncode == 2
    assert "--force" in again.stderr
    shown = json.loads(run("config", "show", "--json", cwd=tmp_path, TRIAGE_CONFIG="").stdout)
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


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running_node(Node(tmp_path_factory.mktemp("shared") / "node")) as running:
        yield running


def test_two_nodes_cannot_share_a_data_folder(tmp_path, node):
    second = run("--config", str(node.folder / "triage.toml"), "serve", cwd=tmp_path)
    assert second.returncode == 2
    assert "another triage-node serve" in second.stderr


def test_studies_that_are_sent_are_listed_and_shown(tmp_path, node):
    study = chest_studies(1)[0]
    config = str(node.folder / "triage.toml")
    to = f"127.0.0.1:{node.port}"
    sent = run("send", str(study.files[0]), "--to", to, "--ae", "TRIAGE", cwd=tmp_path)
    assert sent.returncode == 0, sent.stderr
    assert run("send", str(study.files[0]), "--to", to, "--ae", "WRONG", cwd=tmp_path).returncode == 1
    node.wait_for(1, ("reported",))
    listed = json.loads(run("--config", config, "studies", "list", "--json", cwd=tmp_path).stdout)
    assert study.study_instance_uid in json.dumps(listed)
    piped = run("--config", config, "studies", "list", cwd=tmp_path, COLUMNS="")
    assert any(study.study_instance_uid in line for line in piped.stdout.splitlines())
    shown = run("--config", config, "studies", "show", study.study_instance_uid, "--json", cwd=tmp_path)
    assert any("view" in event["reason"] for event in json.loads(shown.stdout)["events"])


def test_a_worker_that_dies_is_started_again_and_the_node_stops_within_ten_seconds(node):
    """The last on this node: it ends it."""
    assert node.process is not None
    scorer = next(p for p in psutil.Process(node.process.pid).children() if "score" in p.cmdline())
    scorer.kill()
    wait_until(lambda: "role_ended" in (node.folder / "serve.log").read_text(), 30, "the supervisor to notice")
    scored = {item["study_instance_uid"] for item in node.worklist() if item["state"] == "reported"}
    study = chest_studies(2)[1]
    assert study.study_instance_uid not in scored
    dcmsend(study.files, node.port)
    node.wait_for(len(scored) + 1, ("reported",))
    assert node.stop() == 0


@pytest.mark.orthanc
@pytest.mark.timeout(300)
def test_demo_ends_well_and_leaves_nothing_behind(tmp_path):
    find_program("Orthanc")
    answer = run("demo", cwd=tmp_path, timeout=180, TMPDIR=str(tmp_path))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "built-in archive" not in answer.stdout
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
