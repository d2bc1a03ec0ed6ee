"""`triage-node studies` and `triage-node outbox`, on a real ledger and configuration file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.support.web import Ward, make_config
from triage.cli import outbox, studies
from triage.errors import ForbiddenTransitionError, LedgerError, NotFoundError
from triage.ledger import OutboxState, State


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(make_config(tmp_path / "data"))


class Terminal:
    """Runs the commands with a configuration file that names the ward's data folder."""

    def __init__(self, folder: Path) -> None:
        file = folder / "triage.toml"
        file.write_text(f'data_dir = "{folder / "data"}"\n')
        self._app = typer.Typer()
        self._app.add_typer(studies.app, name="studies")
        self._app.add_typer(outbox.app, name="outbox")
        self._environment = {"TRIAGE_CONFIG": str(file), "COLUMNS": "220"}

    def run(self, *arguments: str, answer: str = "") -> tuple[int, str]:
        """Return the exit code and what was printed; an error of the node is raised as itself."""
        result = CliRunner().invoke(self._app, list(arguments), input=answer, env=self._environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output


@pytest.fixture
def terminal(tmp_path: Path, ward: Ward) -> Terminal:
    return Terminal(tmp_path)


def test_list_shows_studies_newest_first(ward: Ward, terminal: Terminal) -> None:
    ward.reported(99.97, name="Doe^Jane")
    ward.unsuitable("lateral view", name="Roe^[red]Richard\x1b[2J")
    code, output = terminal.run("studies", "list")
    assert code == 0
    assert output.index("lateral view") < output.index("Doe, Jane")
    assert "99.9" in output
    assert "[red]Richard\N{REPLACEMENT CHARACTER}[2J" in output
    assert "\x1b[2J" not in output


def test_list_as_json_can_be_filtered(ward: Ward, terminal: Terminal) -> None:
    ward.reported(99)
    failed = [ward.failed("no answer").study_instance_uid for _ in range(3)]
    code, output = terminal.run("studies", "list", "--state", "failed", "--limit", "2", "--json")
    assert code == 0
    assert [item["study_instance_uid"] for item in json.loads(output)] == failed[:0:-1]
    # Nobody shall take for lost what is merely not shown.
    assert "2 of 4 studies" in terminal.run("studies", "list", "--limit", "2")[1]
    assert "2 of 3 studies, failed" in terminal.run("studies", "list", "--state", "failed", "--limit", "2")[1]
    assert " of " not in terminal.run("studies", "list", "--limit", "4")[1]


def test_show_tells_the_history(ward: Ward, terminal: Terminal) -> None:
    uid = ward.reported(99).study_instance_uid
    assert "MODALITY1" not in terminal.run("studies", "show", uid)[1]
    detail = json.loads(terminal.run("studies", "show", uid, "--json")[1])
    assert detail["events"][-1]["to_state"] == "reported"
    assert detail["outbox"][0]["destination"] == "pacs"
    assert "scoring" in terminal.run("studies", "show", uid)[1]


def test_requeue_brings_a_failed_study_back(ward: Ward, terminal: Terminal) -> None:
    uid = ward.failed("no answer").study_instance_uid
    assert terminal.run("studies", "requeue", uid)[0] == 0
    study = ward.ledger.study(uid)
    assert study.state is State.COMPLETE
    assert ward.ledger.events(study.id)[-1].actor.startswith("cli:")
    with pytest.raises(ForbiddenTransitionError):
        terminal.run("studies", "requeue", uid)


def test_discard_asks_first(ward: Ward, terminal: Terminal) -> None:
    uid = ward.scored(50).study_instance_uid
    code, output = terminal.run("studies", "discard", uid, "--reason", "test phantom", answer="n\n")
    assert code == 1
    assert "off the worklist" in output
    assert ward.ledger.study(uid).state is State.SCORED
    assert terminal.run("studies", "discard", uid, "--reason", "test phantom", "--yes")[0] == 0
    study = ward.ledger.study(uid)
    assert (study.state, study.reason) == (State.DISCARDED, "test phantom")


def test_what_is_unknown_or_no_uid(terminal: Terminal) -> None:
    with pytest.raises(NotFoundError):
        terminal.run("studies", "show", "1.2.3")
    assert terminal.run("studies", "show", "../etc")[0] == 2
    assert terminal.run("studies", "list", "--state", "lost")[0] == 2
    assert terminal.run("studies", "list", "--limit", "0")[0] == 2
    assert terminal.run("studies", "discard", "1.2.3", "--yes")[0] == 2
    with pytest.raises(LedgerError):
        terminal.run("outbox", "requeue", "77")


def test_outbox_list_show_requeue_discard(ward: Ward, terminal: Terminal) -> None:
    ward.reported(99)
    ward.reported(98)
    first, second = (item.id for item in ward.ledger.list_outbox())
    ward.ledger.outbox_dead(first, "0xA700 out of resources")
    dead = json.loads(terminal.run("outbox", "list", "--state", "dead", "--json")[1])
    assert [(item["outbox"], item["last_error"]) for item in dead] == [(first, "0xA700 out of resources")]
    assert len(json.loads(terminal.run("outbox", "list", "--destination", "pacs", "--limit", "1", "--json")[1])) == 1
    assert json.loads(terminal.run("outbox", "list", "--destination", "other", "--json")[1]) == []
    assert "0xA700" in terminal.run("outbox", "list")[1]
    assert json.loads(terminal.run("outbox", "show", str(first), "--json")[1])["state"] == "dead"
    assert "pacs" in terminal.run("outbox", "show", str(first))[1]
    assert terminal.run("outbox", "requeue", str(first))[0] == 0
    assert ward.ledger.outbox_item(first).state is OutboxState.PENDING
    assert terminal.run("outbox", "discard", str(second), answer="n\n")[0] == 1
    assert ward.ledger.outbox_item(second).state is OutboxState.PENDING
    assert terminal.run("outbox", "discard", str(second), "--yes")[0] == 0
    assert ward.ledger.outbox_item(second).state is OutboxState.DISCARDED


def test_outbox_list_hides_no_dead_letter_behind_what_has_arrived(ward: Ward, terminal: Terminal) -> None:
    for percentile in range(5):
        ward.reported(percentile)
    committed, waiting, _, _, dead = (item.id for item in ward.ledger.list_outbox())
    ward.ledger.outbox_sent(committed, "0000", "")
    ward.ledger.outbox_committed(committed, "commitment")
    ward.ledger.outbox_dead(dead, "0xA700 out of resources")

    def numbers(*options: str) -> list[int]:
        return [item["outbox"] for item in json.loads(terminal.run("outbox", "list", "--json", *options)[1])]

    assert numbers("--limit", "2") == [dead, waiting]
    assert committed not in numbers()
    assert numbers("--state", "committed") == [committed]
    assert numbers("--all")[:2] == [dead, committed]
    assert "2 of 4 results" in terminal.run("outbox", "list", "--limit", "2")[1]
    assert "4 results on their way" in terminal.run("outbox", "list", "--limit", "4")[1]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["studies", "list", "--json"], 0),
        (["studies", "show", "1.2.3"], 1),
        (["studies", "show", "x"], 2),
        (["--config", "no-such-file.toml", "studies", "list"], 2),
    ],
)
def test_exit_codes_of_the_program(tmp_path: Path, ward: Ward, arguments: list[str], code: int) -> None:
    environment = {**os.environ, "TRIAGE_DATA_DIR": str(ward.config.data_dir)}
    finished = subprocess.run(
        [sys.executable, "-m", "triage.cli.main", *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == code, finished.stderr
    assert "Traceback" not in finished.stderr
