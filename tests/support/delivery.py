"""Reports posted in a real ledger and store, and a deliverer that is ticked."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread

from tests.support.ledgers import an_object, to_scored
from tests.support.peers import free_port, wait_until
from tests.support.reports import header, result
from triage.config.schema import Configuration, Destination, Listen
from triage.deliver import Deliverer, DeliveryPolicy
from triage.ledger import Ledger, OutboxItem, OutboxNew, OutboxState, Study, open_ledger
from triage.report import build_report, encode
from triage.sop_classes import COMPREHENSIVE_3D_SR
from triage.store import ObjectStore

FAST = DeliveryPolicy(
    connect_timeout_s=2,
    acse_timeout_s=5,
    response_timeout_s=5,
    report_on_association_s=1,
    report_after_s=0.5,
    retry_initial_s=0.05,
    retry_max_s=0.2,
    breaker_initial_s=0.1,
    breaker_max_s=0.3,
)


@dataclass(frozen=True)
class PostOffice:
    """A ledger and a store with an outbox for some destinations."""

    config: Configuration
    ledger: Ledger
    store: ObjectStore

    def post(self, *numbers: object, sop_class_uid: str = COMPREHENSIVE_3D_SR) -> list[OutboxItem]:
        """Report a study of each number to every destination; returns the outbox."""
        for number in numbers:
            image = header(study=number)
            self.ledger.record_instance(an_object(str(image.StudyInstanceUID)))
            study = self.ledger.study(str(image.StudyInstanceUID))
            job = to_scored(self.ledger, study)
            row = self.build(number, sop_class_uid)
            rows = [
                OutboxNew(d.name, row.kind, row.sop_class_uid, row.sop_instance_uid, row.digest)
                for d in self.config.destination
            ]
            assert self.ledger.reported(job.id, job.fence, rows)
        return self.ledger.list_outbox()

    def build(self, number: object, sop_class_uid: str) -> OutboxNew:
        """Build and store the report of a study."""
        report = build_report([header(study=number)], result(), sop_class_uid=sop_class_uid)
        digest = self.store.put_bytes(encode(report))
        return OutboxNew("", "sr", sop_class_uid, str(report.SOPInstanceUID), digest)

    def items(self, destination: str | None = None) -> list[OutboxItem]:
        """Return the outbox."""
        return self.ledger.list_outbox(destination=destination)

    def states(self, destination: str | None = None) -> list[OutboxState]:
        """Return the states in the outbox."""
        return [item.state for item in self.items(destination)]

    def wait_for(self, state: OutboxState, destination: str | None = None, timeout_s: float = 30) -> list[OutboxItem]:
        """Wait until every item (of a destination) is in a state."""
        what = f"all items {state}; they are {[(i.state.value, i.last_error) for i in self.items(destination)]}"
        wait_until(lambda: set(self.states(destination)) == {state}, timeout_s, what)
        return self.items(destination)

    def wait_until_ended(self, timeout_s: float = 30) -> None:
        """Wait until no item is on its way any more."""
        ended = {OutboxState.COMMITTED, OutboxState.DISCARDED, OutboxState.DEAD}
        wait_until(lambda: set(self.states()) <= ended, timeout_s, "every item to be proved or given up")

    def study(self, number: object) -> Study:
        """Return the study of a number."""
        return self.ledger.study(str(header(study=number).StudyInstanceUID))


@contextmanager
def post_office(folder: Path, destinations: Sequence[Destination], port: int = 0) -> Iterator[PostOffice]:
    """Open a ledger (SQLite) and a store."""
    listen = Listen(port=port or free_port(), min_free_gib=0)
    config = Configuration(data_dir=folder, listen=listen, destination=tuple(destinations))
    ledger = open_ledger(config)
    try:
        yield PostOffice(config, ledger, ObjectStore(config.data_dir))
    finally:
        ledger.close()


@contextmanager
def delivering(
    office: PostOffice,
    policy: DeliveryPolicy = FAST,
    rebuild: Callable[[OutboxItem, str], OutboxNew] | None = None,
) -> Iterator[Deliverer]:
    """Run a deliverer that is ticked as the dispatcher does it."""
    deliverer = Deliverer(office.config, office.ledger, office.store, rebuild=rebuild, policy=policy)
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.05):
            deliverer.tick()

    ticker = threading.Thread(target=tick, daemon=True)
    deliverer.start()
    ticker.start()
    try:
        yield deliverer
    finally:
        stop.set()
        ticker.join()
        deliverer.stop()


def breaker_is(logs: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return the state of a destination's breaker, as the captured log lines tell it."""
    told = [
        e for e in logs if e["event"] in {"destination_failed", "destination_recovered"} and e["destination"] == name
    ]
    return str(told[-1].get("breaker", "closed")) if told else "closed"


def policy(**changes: float) -> DeliveryPolicy:
    """The fast policy with changes."""
    return DeliveryPolicy(**{**FAST.__dict__, **changes})


def data_set_bytes(office: PostOffice, item: OutboxItem) -> bytes:
    """Return the stored report's bytes without its file meta information."""
    content = office.store.read_bytes(item.digest)
    return content[132 + 12 + dcmread(BytesIO(content)).file_meta.FileMetaInformationGroupLength :]
