"""The configuration: sources, refusals with a suggestion, and a template that is what it says."""

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from triage.config import Configuration, load
from triage.config.template import rows, template
from triage.errors import ConfigurationError


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str) -> Path:
        path = tmp_path / "site.toml"
        path.write_text(text)
        return path

    return write_file


def test_environment_beats_file_beats_default(write, monkeypatch):
    path = write('[listen]\nport = 11113\nae_title = "FILE"\n[complete]\nquiet_s = { CT = 7 }')
    monkeypatch.setenv("TRIAGE_LISTEN__PORT", "11114")
    loaded = load(path)
    assert loaded.configuration.listen.port == 11114
    assert loaded.configuration.listen.ae_title == "FILE"
    assert loaded.configuration.complete.quiet_s == {"CR": 5, "DX": 5, "CT": 7}
    sources = {row.key: row.source for row in rows(loaded)}
    assert sources["listen.port"] == "environment"
    assert sources["listen.ae_title"] == "file"
    assert sources["listen.host"] == "default"
    assert sources["complete.quiet_s"] == "file"


def test_a_relative_data_folder_is_meant_from_the_file(write, monkeypatch, tmp_path):
    path = write('data_dir = "here"')
    monkeypatch.chdir("/")
    assert load(path).configuration.data_dir == tmp_path / "here"


def test_file_by_environment_and_in_the_working_folder(write, monkeypatch, tmp_path):
    path = write("[listen]\nport = 5000")
    monkeypatch.setenv("TRIAGE_CONFIG", str(path))
    assert load().configuration.listen.port == 5000
    monkeypatch.delenv("TRIAGE_CONFIG")
    monkeypatch.chdir(tmp_path)
    assert load().configuration.listen.port == 11112
    path.rename(tmp_path / "triage.toml")
    assert load().configuration.listen.port == 5000


SEE = "see: triage-node config init --print"


@pytest.mark.parametrize(
    ("text", "complaint", "remedy"),
    [
        ("[listen]\nprot = 1", "listen.prot", "did you mean listen.port?"),
        ("[lissten]\nport = 1", "lissten", "did you mean listen?"),
        ('[[destination]]\nname="p"\nhost="h"\nport=1\nae_title="A"\nstorage_comitment=true',
         "storage_comitment", "did you mean destination.storage_commitment?"),
        ("[listen]\nport = 99999", "listen.port", SEE),
        ('[listen]\nae_title = "SEVENTEENCHARSXXX"', "AE title", SEE),
        ('[ledger]\nurl = "mysql://x"', "ledger.url", SEE),
        ('[broker]\nurl = "amqp://x"', "broker.url", SEE),
        ("[rank]\nmax_wait_s = inf", "rank.max_wait_s: Input should be a finite number", SEE),
        ("[rank]\nhigh_percentile = 50", "rank: medium_percentile is above high_percentile", SEE),
        ("[complete]\nquiet_s = { CT = nan }", "finite number", SEE),
        ("not toml at all", "TOML", "mend that line"),
        ('[[listen.peer]]\nae_title = "A"\naddress = "10.0.0.0/33"', "address", SEE),
    ],
)  # fmt: skip
def test_wrong_files_are_refused_with_a_remedy(write, text, complaint, remedy):
    with pytest.raises(ConfigurationError) as caught:
        load(write(text))
    assert complaint in caught.value.message
    assert caught.value.remedy == remedy
    assert "\n" not in str(caught.value)


def test_unknown_variable_is_refused_with_a_suggestion(monkeypatch):
    monkeypatch.setenv("TRIAGE_LISTN__PORT", "1")
    with pytest.raises(ConfigurationError, match="TRIAGE_LISTEN__PORT"):
        load()


def test_lists_come_from_the_environment_as_json(monkeypatch):
    monkeypatch.setenv("TRIAGE_DESTINATION", '[{"name": "p", "host": "h", "port": 104, "ae_title": "PACS"}]')
    assert load().configuration.destination[0].ae_title == "PACS"


def test_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path / "none.toml")
    assert "config init" in caught.value.remedy


def test_template_is_the_default_configuration_when_everything_is_uncommented(tmp_path):
    lines = [line.removeprefix("# ") if " = " in line or line.startswith("# [[") else line
             for line in template().splitlines()]  # fmt: skip
    lines = [line for line in lines if not line.startswith(("# ", "Keys", "Configuration"))]
    text = "\n".join(lines)
    tree = tomllib.loads(text)
    assert {"listen", "broker", "ledger", "complete", "worker", "models", "rank", "web", "destination"} <= tree.keys()
    path = tmp_path / "full.toml"
    path.write_text(text)
    loaded = load(path).configuration
    assert loaded.listen.model_copy(update={"peer": ()}) == Configuration().listen
    assert loaded.rank == Configuration().rank
    assert len(loaded.destination) == len(loaded.listen.peer) == 1


def test_template_as_written_changes_nothing(tmp_path):
    path = tmp_path / "triage.toml"
    path.write_text(template())
    assert load(path).configuration == Configuration()


def test_configuration_is_frozen():
    with pytest.raises(ValidationError):
        Configuration().listen.port = 1


def test_passwords_are_not_shown(write):
    loaded = load(write('[ledger]\nurl = "postgresql+psycopg://triage:secret@db/triage"'))
    shown = {row.key: row.value for row in rows(loaded)}["ledger.url"]
    assert "secret" not in shown
    assert "triage:***@db" in shown
