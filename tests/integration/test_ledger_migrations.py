"""The schema: made from nothing, equal to the tables that the code uses, shipped with the package."""

import json
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from tests.support.ledgers import ledger_config, receive
from triage.errors import LedgerError
from triage.ledger import ledger_url, open_ledger
from triage.ledger.engine import Database, alembic_config, make_engine, migrate
from triage.ledger.schema import metadata

pytest_plugins = ["tests.support.ledger_fixtures"]


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    """An engine on an empty database."""
    made = make_engine(empty_url)
    yield made
    made.dispose()


def shape(engine: Engine) -> dict[str, Any]:
    """Everything that the database tells about its tables."""
    found = inspect(engine)

    def told(rows: Any) -> list[str]:
        return sorted(json.dumps(row, default=str, sort_keys=True) for row in rows)

    return {
        table: {
            "columns": told(found.get_columns(table)),
            "checks": told(found.get_check_constraints(table)),
            "uniques": told(found.get_unique_constraints(table)),
            "indexes": told(found.get_indexes(table)),
            "foreign keys": told(found.get_foreign_keys(table)),
            "primary key": str(found.get_pk_constraint(table)),
        }
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def test_migrating_from_nothing_gives_the_tables_that_the_code_uses(engine: Engine) -> None:
    migrate(Database(engine))
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    migrated = shape(engine)
    assert migrated.keys() == metadata.tables.keys()
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert shape(engine) == {}
    metadata.create_all(engine)
    # What Alembic doesn't compare: checks, partial indexes, names.
    assert shape(engine) == migrated


def test_migrating_again_changes_nothing(empty_url: str, tmp_path: Path) -> None:
    config = ledger_config(empty_url, tmp_path)
    first = open_ledger(config)
    study = receive(first)
    first.close()
    second = open_ledger(config)
    assert second.study_by_id(study.id) == study
    second.close()


def test_a_study_in_the_first_schema_is_the_same_in_the_newest(empty_url: str, tmp_path: Path, engine: Engine) -> None:
    rows: dict[str, dict[str, Any]] = {
        "study": {
            "study_instance_uid": "1.2.3", "revision": 1, "is_current": True, "state": "receiving", "reason": "",
            "arrived_at": 1000.5, "first_object_at": 1000.5, "last_object_at": 1001.25, "released_at": None,
            "modality": "CT", "patient_name": "Müller^Jörg", "patient_id": "4711", "accession_number": "A1",
            "study_date": "20260101", "study_description": "HEAD", "instance_count": 1, "image_count": 1,
            "stat": True, "claimed_by": "Dr Roe",
        },
        "instance": {
            "study_id": 1, "study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.1",
            "sop_instance_uid": "1.2.3.1.1", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1", "modality": "CT", "digest": "ab" * 32, "size": 1 << 40,
            "received_at": 1000.5, "calling_ae_title": "CT1", "association_id": "a1", "scorable": True,
        },
        "event": {"study_id": 1, "at": 1000.5, "actor": "listener", "from_state": "", "to_state": "receiving"},
    }  # fmt: skip
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for table, row in rows.items():
            names = ", ".join(row), ", ".join(f":{name}" for name in row)
            connection.execute(text(f"INSERT INTO {table} ({names[0]}) VALUES ({names[1]})"), row)
    ledger = open_ledger(ledger_config(empty_url, tmp_path))
    with engine.begin() as connection:
        for table, row in rows.items():
            [kept] = connection.execute(text(f"SELECT * FROM {table}")).mappings()
            assert {name: kept[name] for name in row} == row
    study = ledger.study("1.2.3")
    assert (study.state.value, study.patient_name, study.notes, study.stat) == ("receiving", "Müller^Jörg", "", True)
    [instance] = ledger.instances_of(study.id)
    assert (instance.sop_instance_uid, instance.size) == ("1.2.3.1.1", 1 << 40)
    assert ledger.complete_study(study.id, "quiet")
    ledger.close()


def test_a_newer_programs_schema_is_refused(empty_url: str, tmp_path: Path, engine: Engine) -> None:
    config = ledger_config(empty_url, tmp_path)
    open_ledger(config).close()
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match="unknown to this program"):
        open_ledger(config)


def _open(url: str, folder: str, barrier: Any, answers: Any) -> None:
    barrier.wait()
    ledger = open_ledger(ledger_config(url, Path(folder)))
    answers.put(receive(ledger).state.value)
    ledger.close()


def test_processes_that_start_together_open_one_ledger(empty_url: str, tmp_path: Path) -> None:
    """The roles of `serve` all open the ledger at once, the first time too."""
    context = get_context("spawn")
    barrier, answers = context.Barrier(3), context.Queue()
    # Each names its study by its own process's count, so that all record the same object.
    processes = [context.Process(target=_open, args=(empty_url, str(tmp_path), barrier, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [answers.get(timeout=60) for _ in processes] == ["receiving"] * 3
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    ledger = open_ledger(ledger_config(empty_url, tmp_path))
    assert len(ledger.studies(None, 10)) == 1
    ledger.close()


def test_sqlite_is_the_default_and_durable(tmp_path: Path) -> None:
    config = ledger_config("", tmp_path / "data")
    assert ledger_url(config) == f"sqlite:///{tmp_path / 'data' / 'ledger.sqlite3'}"
    ledger = open_ledger(config)
    with ledger._database.reader.connect() as connection:
        told = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert told == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}
    ledger.close()


def test_a_database_that_is_away_is_a_ledger_error(tmp_path: Path) -> None:
    config = ledger_config("postgresql+psycopg://nobody@127.0.0.1:1/none", tmp_path)
    with pytest.raises(LedgerError, match="does not answer"):
        open_ledger(config)
