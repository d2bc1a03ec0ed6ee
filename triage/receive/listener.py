"""The DICOM port: one listening socket, one association per peer, a clean stop."""

import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self

import structlog
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.events import Event
from pynetdicom.transport import AddressInformation, AssociationServer

from triage.config.schema import Configuration, Listen
from triage.errors import ConfigurationError
from triage.receive.association import ReceivingAssociation
from triage.receive.contexts import supported_contexts
from triage.receive.handler import InstanceLedger, StoreHandler
from triage.receive.limits import Connections
from triage.receive.transport import MAX_PDU
from triage.statuses import PROCESSING_FAILURE
from triage.store import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, ObjectStore

log = structlog.get_logger(__name__)

# A connection that hasn't become an association after this is closed, seconds.
ASSOCIATE_TIMEOUT_S = 10.0
# At a stop, associations may finish what they are at for so long, seconds.
GRACE_S = 3.0
# pynetdicom counts silent connections as associations; `Connections` does the counting.
NO_LIMIT = 1 << 30

CommitmentHook = Callable[[Event], int]


def make_ae(listen: Listen) -> ApplicationEntity:
    """Return our application entity with its titles, contexts and sizes.

    Parameters
    ----------
    listen : Listen
        The configuration's section.
    """
    ae = ApplicationEntity(ae_title=listen.ae_title)
    ae.supported_contexts = supported_contexts()
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.require_called_aet = True
    ae.maximum_pdu_size = MAX_PDU
    ae.maximum_associations = NO_LIMIT
    return ae


class ReceivingServer(AssociationServer):
    """The accept loop: enters each connection in the book and starts its association."""

    request_queue_size = 128

    def __init__(self, ae: ApplicationEntity, listen: Listen, handler: StoreHandler) -> None:
        self.connections = Connections(listen.max_associations, listen.max_associations_per_peer)
        self._peers = listen.peer
        self._idle_timeout_s = listen.idle_timeout_s
        self._store_handler = handler
        super().__init__(ae, (listen.host, listen.port), listen.ae_title, ae.supported_contexts)

    def _bind_defaults(self) -> None:
        """Bind nothing: associations bring their own answers."""

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start an association on a new connection."""
        connection = self.connections.open(request, str(client_address[0]))
        assoc = ReceivingAssociation(
            self.ae,
            connection=connection,
            connections=self.connections,
            peers=self._peers,
            handler=self._store_handler,
            associate_timeout_s=min(ASSOCIATE_TIMEOUT_S, self._idle_timeout_s),
            idle_timeout_s=self._idle_timeout_s,
        )
        assoc._server = self
        assoc.name = f"AcceptorThread@{datetime.now(UTC):%Y%m%d%H%M%S}"
        acceptor = assoc.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.ae_title
        acceptor.address_info = AddressInformation.from_tuple(self.server_address)
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        # Negotiation only reads them: pynetdicom's deep copy of 170 contexts takes longer than the association.
        acceptor.supported_contexts = self.contexts
        assoc.requestor.address_info = AddressInformation.from_tuple(client_address)
        for event in self._handlers:
            assoc.bind(event, *self._handlers[event])
        assoc.start()

    def shutdown(self) -> None:
        """Stop accepting and close the port."""
        TCPServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with a new connection; the loop goes on."""
        log.exception("connection_failed", address=str(client_address[0]))


class Listener:
    """The running listener, as a context manager.

    Parameters
    ----------
    config : Configuration
        Its ``listen`` section says where and whom.
    ledger : InstanceLedger
        Knows every object.
    store : ObjectStore
        Holds every object.
    on_commitment_report : callable, optional
        Gets the event of an N-EVENT-REPORT of storage commitment and returns its status.

    Raises
    ------
    ConfigurationError
        On entering, if the port cannot be had.
    """

    def __init__(
        self,
        config: Configuration,
        ledger: InstanceLedger,
        store: ObjectStore,
        on_commitment_report: CommitmentHook | None = None,
    ) -> None:
        self._listen = config.listen
        self._store = store.limited(config.listen.min_free_gib)
        self._handler = StoreHandler(ledger, self._store)
        self._hook = on_commitment_report
        self._server: ReceivingServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        listen = self._listen
        removed = self._store.clean_incoming()
        if removed:
            log.info("incoming_cleaned", files=removed)
        ae = make_ae(listen)
        try:
            server = ReceivingServer(ae, listen, self._handler)
        except (OSError, socket.gaierror) as error:
            raise ConfigurationError(
                f"cannot listen on {listen.host}:{listen.port}: {error.strerror or error}",
                remedy="stop what uses this port, or set listen.host and listen.port",
            ) from error
        if self._hook is not None:
            server.bind(evt.EVT_N_EVENT_REPORT, _guarded(self._hook))
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, name="dicom-listener", daemon=True)
        self._thread.start()
        if not listen.peer:
            log.warning("anybody_may_send", remedy="list the senders as [[listen.peer]]")
        log.info("listening", host=listen.host, port=listen.port, ae_title=listen.ae_title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        server = self._server
        if server is None or self._thread is None:
            return
        server.shutdown()
        self._thread.join()
        if not _all_ended(server.connections, GRACE_S):
            server.connections.cut_all()
            _all_ended(server.connections, GRACE_S)
        self._server = None
        log.info("listener_stopped")

    @property
    def connections(self) -> Connections:
        """The book of connections; raises ``RuntimeError`` unless running."""
        if self._server is None:
            raise RuntimeError("the listener isn't running")
        return self._server.connections


def _all_ended(connections: Connections, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while any(connections.counts()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _guarded(hook: CommitmentHook) -> Callable[[Event], tuple[int, None]]:
    def handle(event: Event) -> tuple[int, None]:
        try:
            return hook(event), None
        except Exception:  # The edge of the process: the PACS gets a status and reports again.
            log.exception("commitment_report_failed")
            return PROCESSING_FAILURE, None

    return handle


def run_listener(
    config: Configuration,
    ledger: InstanceLedger,
    store: ObjectStore,
    deliverer_hook: CommitmentHook | None,
    stop: threading.Event,
) -> None:
    """Run the listener until `stop` is set: the whole of the process with the role ``listener``.

    Raises
    ------
    ConfigurationError
        If the port cannot be had.
    """
    with Listener(config, ledger, store, deliverer_hook):
        stop.wait()
