"""PACS of many kinds: real archives over the network, made with pynetdicom, each with the habits it is told."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from tests.support.peers import free_port
from triage.config.schema import Destination
from triage.sop_classes import SR_CLASSES

COMMITMENT = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


@dataclass
class Pacs:
    """An archive.

    Attributes
    ----------
    sop_classes, syntaxes : sequence
        SR classes and transfer syntaxes that it accepts.
    status : callable
        Returns the C-STORE status for the n-th object that comes (from 1); only 0000 and Bxxx are kept.
    commitment : str
        ``""`` has none; ``"same"`` reports on the association that asked; ``"new"`` on one of its own to
        `report_to`; ``"failure"`` reports every instance as not held; ``"silent"`` never reports; ``"declines"``
        answers the request with 0110.
    find : bool
        Whether it can be queried.
    aborts_when_asked : bool
        Accepts commitment and queries, but breaks the association when it gets one (as Orthanc does with strangers).
    endless : bool
        Answers a query with one match after the other, and never with the last one.
    on_store : callable
        Called with the association before an object is answered: to be slow, or to abort.
    """

    name: str = "pacs"
    ae_title: str = "PACS"
    sop_classes: tuple[str, ...] = SR_CLASSES
    syntaxes: tuple[str, ...] = tuple(SYNTAXES)
    status: Callable[[int], int] = lambda n: 0x0000
    commitment: str = ""
    find: bool = False
    aborts_when_asked: bool = False
    endless: bool = False
    report_to: int = 0
    on_store: Callable[[Association], None] = lambda assoc: None
    port: int = field(default_factory=free_port)
    received: list[tuple[str, bytes]] = field(default_factory=list)
    held: dict[str, bytes] = field(default_factory=dict)
    transactions: list[str] = field(default_factory=list)
    calling: set[str] = field(default_factory=set)
    associations: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)
    _server: Any = None

    @property
    def destination(self) -> Destination:
        """It as a destination; commitment is always asked for."""
        return Destination(name=self.name, host="127.0.0.1", port=self.port, ae_title=self.ae_title)

    def start(self) -> None:
        """Open its port."""
        ae = AE(ae_title=self.ae_title)
        ae.require_called_aet = True
        for uid in self.sop_classes:
            ae.add_supported_context(uid, list(self.syntaxes))
        if self.commitment:
            ae.add_supported_context(COMMITMENT, SYNTAXES)
        if self.find:
            ae.add_supported_context(FIND, SYNTAXES)
        ae.add_supported_context("1.2.840.10008.1.1")
        handlers: list[Any] = [
            (evt.EVT_ESTABLISHED, self._on_association),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_ACTION, self._on_commitment),
            (evt.EVT_C_FIND, self._on_find),
        ]
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        """Close its port and break its associations; what it holds stays."""
        for thread in self._threads:
            thread.join(10)
        if self._server is not None:
            self._server.ae.shutdown()
            self._server = None

    def datasets(self) -> list[Dataset]:
        """Return what it holds."""
        return [dcmread(BytesIO(content), force=True) for content in self.held.values()]

    def _on_association(self, event: Event) -> None:
        self.associations += 1
        self.calling.add(event.assoc.requestor.ae_title)

    def _on_store(self, event: Event) -> int:
        uid, content = str(event.request.AffectedSOPInstanceUID), event.encoded_dataset(include_meta=False)
        self.received.append((uid, content))
        self.on_store(event.assoc)
        status = self.status(len(self.received))
        if status == 0 or 0xB000 <= status <= 0xBFFF:
            self.held[uid] = content
        return status

    def _on_find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        if self.aborts_when_asked:
            event.assoc.abort()
        while self.endless:
            time.sleep(0.02)  # a peer that is as slow as that
            yield 0xFF00, event.identifier
        uid = event.identifier.SOPInstanceUID
        if uid in self.held:
            match = Dataset()
            match.QueryRetrieveLevel = "IMAGE"
            match.SOPInstanceUID = uid
            yield 0xFF00, match
        yield 0x0000, None

    def _on_commitment(self, event: Event) -> tuple[int, None]:
        request = event.action_information
        self.transactions.append(str(request.TransactionUID))
        if self.aborts_when_asked:
            event.assoc.abort()
        if self.commitment == "declines":
            return 0x0110, None
        if self.commitment != "silent":
            same = None if self.commitment == "new" else event.assoc
            thread = threading.Thread(target=self._report, args=(request, same), daemon=True)
            self._threads.append(thread)
            thread.start()
        return 0x0000, None

    def _report(self, request: Dataset, assoc: Association | None) -> None:
        event_type, report = self._report_on(request)
        if assoc is not None:
            with suppress(RuntimeError):  # the node, or this PACS itself, has ended the association meanwhile
                assoc.send_n_event_report(report, event_type, COMMITMENT, COMMITMENT_INSTANCE)
            return
        ae = AE(ae_title=self.ae_title)
        ae.add_requested_context(COMMITMENT, SYNTAXES)
        role = build_role(COMMITMENT, scu_role=False, scp_role=True)
        assoc = ae.associate("127.0.0.1", self.report_to, ae_title="TRIAGE", ext_neg=[role])
        if assoc.is_established:
            assoc.send_n_event_report(report, event_type, COMMITMENT, COMMITMENT_INSTANCE)
            assoc.release()

    def _report_on(self, request: Dataset) -> tuple[int, Dataset]:
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        held, missing = [], []
        for reference in request.ReferencedSOPSequence:
            keep = reference.ReferencedSOPInstanceUID in self.held and self.commitment != "failure"
            (held if keep else missing).append(reference)
        for reference in missing:
            reference.FailureReason = 0x0112
        if held:
            report.ReferencedSOPSequence = held
        if missing:
            report.FailedSOPSequence = missing
        return (2 if missing else 1), report


@contextmanager
def running_pacs(pacs: Pacs) -> Iterator[Pacs]:
    """Start it, and stop it at the end of the block."""
    pacs.start()
    try:
        yield pacs
    finally:
        pacs.stop()
