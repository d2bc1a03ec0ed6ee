"""What is asked several times a second costs no more on a ledger of thousands of studies than on one of a few.

Measured in SQLite's own instructions, so that no other work of the machine is in it.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from tests.support.ledgers import LEASE_S, Clock, receive, to_preparing, to_reported, to_state
from triage.config.schema import Rank
from triage.ledger import Ledger, State, Study
from triage.ledger.engine import make_engine
from triage.messages import Stage

pytest_plugins = ["tests.support.ledger_fixtures"]

MANY = 5000
# An instruction of SQLite's for every one of the many would be more than this.
FEW = MANY


@dataclass
class Big:
    """A ledger on SQLite whose instructions are counted."""

    ledger: Ledger
    clock: Clock
    steps: list[int] = field(default_factory=lambda: [0])

    def copies(self, study: Study) -> None:
        """Add thousands of studies like this one, with its jobs and its reports."""
        columns = {
            "study": {"id": "id + n * 100", "study_instance_uid": "study_instance_uid || '.' || n"},
            "job": {"id": "id + n * 100", "study_id": "study_id + n * 100"},
            "outbox": {
                "id": "id + n * 100",
                "study_id": "study_id + n * 100",
                "sop_instance_uid": "sop_instance_uid || '.' || n",
            },
        }
        with self.ledger._database.write() as connection:
            for table, changed in columns.items():
                names = [row.name for row in connection.execute(text(f"PRAGMA table_info({table})"))]
                values = ", ".join(changed.get(name, name) for name in names)
                where = "id" if table == "study" else "study_id"
                connection.execute(
                    text(
                        f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {MANY}) "
                        f"INSERT INTO {table} ({', '.join(names)}) "
                        f"SELECT {values} FROM {table}, numbers WHERE {where} = {study.id}"
                    )
                )

    def cost(self, ask: Callable[[], object]) -> int:
        """Return how many instructions a question takes."""
        ask()
        before = self.steps[0]
        ask()
        return self.steps[0] - before


@pytest.fixture
def big(sqlite_template: Path, tmp_path: Path) -> Iterator[Big]:
    file = shutil.copy(sqlite_template, tmp_path / "ledger.sqlite3")
    engine = make_engine(f"sqlite:///{file}")
    clock = Clock()
    made = Big(Ledger(engine, clock), clock)

    def count() -> int:
        made.steps[0] += 100
        return 0

    def listen(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        connection.set_progress_handler(count, 100)  # type: ignore[attr-defined]

    event.listen(engine, "connect", listen)
    yield made
    made.ledger.close()


def test_finished_jobs_cost_nothing(big: Big) -> None:
    big.copies(to_state(big.ledger, receive(big.ledger), State.DELIVERED))
    for stage in Stage:
        assert big.cost(lambda stage=stage: big.ledger.leased_jobs(stage)) < FEW
        assert big.cost(lambda stage=stage: big.ledger.leased_count(stage)) < FEW
        assert big.cost(lambda stage=stage: big.ledger.claim_jobs(stage, 8, LEASE_S)) < FEW
    assert big.cost(big.ledger.at_work) < FEW


def test_a_backlog_is_not_fetched_to_claim_a_few(big: Big) -> None:
    job = to_preparing(big.ledger, receive(big.ledger))
    big.ledger.give_back(job.id, job.fence, "disk away", 0)
    big.copies(big.ledger.study_by_id(job.study_id))
    asked: list[str] = []
    event.listen(
        big.ledger._database.engine, "before_cursor_execute", lambda *arguments: asked.append(str(arguments[2]))
    )
    assert len(big.ledger.claim_jobs(Stage.PREPARE, 8, LEASE_S)) == 8
    selects = [statement for statement in asked if statement.startswith("SELECT")]
    assert len(selects) == 3
    assert all("LIMIT" in statement for statement in selects)


def test_what_waits_for_proof_is_read_in_parts(big: Big) -> None:
    study = to_reported(big.ledger, receive(big.ledger))
    [item] = big.ledger.outbox_of(study.id)
    big.ledger.outbox_sent(item.id, "0000", "")
    big.copies(study)
    assert len(big.ledger.sent_unproven("pacs", big.clock.now + 1, 32)) == 32


def test_the_newest_studies_are_listed_without_sorting_all(big: Big) -> None:
    big.copies(to_state(big.ledger, receive(big.ledger), State.DELIVERED))
    assert big.cost(lambda: big.ledger.studies(None, 10)) < FEW
    assert big.cost(lambda: big.ledger.studies("delivered", 10)) < FEW


def test_the_worklist_does_not_look_at_what_was_read(big: Big) -> None:
    study = to_state(big.ledger, receive(big.ledger), State.DELIVERED)
    big.ledger.mark_read(study.study_instance_uid, "reader")
    big.copies(big.ledger.study_by_id(study.id))
    waiting = receive(big.ledger)
    assert [listed.id for listed in big.ledger.worklist(big.clock.now, Rank())[0]] == [waiting.id]
    assert big.cost(lambda: big.ledger.worklist(big.clock.now, Rank())) < FEW
