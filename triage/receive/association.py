"""An association as acceptor: pynetdicom's, with admission, streaming of data sets to disk, and bounds."""

import queue
import uuid
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE

from triage.config.schema import Peer
from triage.receive.handler import OUT_OF_RESOURCES, Reception, Reply, Sender, StoreHandler
from triage.receive.limits import Connection, Connections
from triage.receive.peers import is_invited, sanitised_ae_title
from triage.receive.transport import TICK_S, Doorbell, ReceivingDUL, ReceivingSocket

log = structlog.get_logger(__name__)

# Bounds on what is held in memory of one message: its command, and any data set that isn't a C-STORE's.
MAX_COMMAND = 64 * 1024
MAX_OTHER_DATA_SET = 4 << 20
MAX_UID = 64

# (result, source, reason) of A-ASSOCIATE-RJ, PS3.8 section 9.3.4.
CALLING_AE_NOT_RECOGNISED = (1, 1, 3)
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


class TooLargeError(ValueError):
    """The peer sends more than a message of this kind can hold."""


class DataSetSink(BytesIO):
    """Where pynetdicom writes a message's data set: a C-STORE's goes on to disk, any other stays in memory."""

    def __init__(self, assoc: "ReceivingAssociation", message: DIMSEMessage) -> None:
        super().__init__()
        self._assoc = assoc
        self._message = message
        self._opened = False
        self.reception: Reception | None = None

    def write(self, chunk: Any) -> int:
        """Take the next fragment."""
        if not self._opened:
            self._opened = True
            if isinstance(self._message, C_STORE_RQ):
                self.reception = self._assoc.open_reception(self._message)
        if self.reception is not None:
            self.reception.write(chunk)
            return len(chunk)
        if self.tell() + len(chunk) > MAX_OTHER_DATA_SET:
            raise TooLargeError("a message's data set is too large")
        return super().write(chunk)

    def discard(self) -> None:
        """Forget what was received."""
        if self.reception is not None:
            self.reception.discard()


class ReceivingDIMSE(DIMSEServiceProvider):
    """Messages of one association; data sets of C-STORE requests go to disk as they arrive."""

    def __init__(self, assoc: "ReceivingAssociation") -> None:
        super().__init__(assoc)
        self._receiver = assoc

    def receive_primitive(self, primitive: Any) -> None:
        """Take a P-DATA primitive."""
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.data_set = DataSetSink(self._receiver, self.message)
        super().receive_primitive(primitive)
        if self.message is not None and self.message.encoded_command_set.tell() > MAX_COMMAND:
            raise TooLargeError("a command is too large")

    def wait_msg(self, timeout_s: float) -> tuple[int | None, Any]:
        """Return the next (context ID, message), or (None, None) after the time-out or a wake-up."""
        try:
            return self.msg_queue.get(timeout=timeout_s)
        except queue.Empty:
            return None, None

    def discard_unfinished(self) -> None:
        """Forget messages that came too late to be answered."""
        if self.message is not None and isinstance(self.message.data_set, DataSetSink):
            self.message.data_set.discard()
        while True:
            _, primitive = self.wait_msg(0)
            if primitive is None and self.msg_queue.empty():
                return
            sink = getattr(primitive, "DataSet", None)
            if isinstance(sink, DataSetSink):
                sink.discard()


class AdmittingACSE(ACSE):
    """Negotiation that first asks whether the peer is invited and whether there is room."""

    def __init__(self, assoc: "ReceivingAssociation") -> None:
        super().__init__(assoc)
        self._receiver = assoc

    def _negotiate_as_acceptor(self) -> None:
        rejection = self._receiver.rejection()
        if rejection is None:
            super()._negotiate_as_acceptor()
            return
        self.send_reject(*rejection)
        self._receiver.is_rejected = True
        self._receiver.kill()


class ReceivingAssociation(Association):
    """One peer's association, from its TCP connection to its end.

    Parameters
    ----------
    ae : ApplicationEntity
        Ours.
    connection : Connection
        The accepted connection, as entered in `connections`.
    connections : Connections
        The book of connections, which this strikes itself out of at the end.
    peers : sequence of Peer
        The allow-list.
    handler : StoreHandler
        Answers C-STORE.
    associate_timeout_s, idle_timeout_s : float
        How long the peer may be silent before it asks for an association, and afterwards, seconds.
    """

    dul: ReceivingDUL
    dimse: ReceivingDIMSE

    def __init__(
        self,
        ae: ApplicationEntity,
        *,
        connection: Connection,
        connections: Connections,
        peers: Sequence[Peer],
        handler: StoreHandler,
        associate_timeout_s: float,
        idle_timeout_s: float,
    ) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self._connection = connection
        self._connections = connections
        self._peers = peers
        self._store_handler = handler
        self.sender = Sender("", connection.address, uuid.uuid4().hex)
        self.statuses: dict[int, int] = {}
        self.acse = AdmittingACSE(self)
        self.dul = ReceivingDUL(self)
        self.dimse = ReceivingDIMSE(self)
        self.dul.to_user_queue = Doorbell(lambda: self.dimse.msg_queue.put((None, None)))
        # Setting them tells the new upper layer's timers.
        self.acse_timeout = associate_timeout_s
        self.network_timeout = self._idle_timeout_s = idle_timeout_s
        self._socket = ReceivingSocket(self, connection.sock, pdu_timeout_s=associate_timeout_s)
        self.set_socket(self._socket)

    def _bind_defaults(self) -> None:
        """Bind pynetdicom's default answers, but not its log handlers, which format every PDU."""
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    def rejection(self) -> tuple[int, int, int] | None:
        """Return why this peer's request is rejected (result, source, reason), or None.

        References
        ----------
        PS3.8 section 9.3.4.
        """
        request = self.requestor.primitive
        calling = str(request.calling_ae_title or "") if request else ""
        self.sender = Sender(sanitised_ae_title(calling), self._connection.address, self.sender.association_id)
        about = {"peer": self.sender.ae_title, "address": self._connection.address}
        if not is_invited(self._peers, calling, self._connection.address):
            log.warning("association_rejected", reason="not on the allow-list", **about)
            return CALLING_AE_NOT_RECOGNISED
        if not self._connections.associate(self._connection):
            log.warning("association_rejected", reason="too many associations", **about)
            return LOCAL_LIMIT_EXCEEDED
        return None

    def run_reactor(self) -> None:
        """Run from the association request to the end of the connection."""
        try:
            super().run_reactor()
        finally:
            self._connection.cut()
            self._connections.close(self._connection)
            self.dimse.discard_unfinished()
            self._report_end()

    def _report_end(self) -> None:
        if self.sender.ae_title and (self.is_released or self.is_aborted):
            log.info(
                "association_released" if self.is_released else "association_aborted",
                association=self.sender.association_id,
                peer=self.sender.ae_title,
                address=self.sender.address,
                statuses={f"{status:04X}": count for status, count in self.statuses.items()},
            )
        if self.is_released and self.statuses:
            try:
                self._store_handler.released(self.sender)
            except Exception:  # The edge of the process: only a hint is lost.
                log.exception("release_failed", association=self.sender.association_id)

    def _run_reactor(self) -> None:
        """Serve until the association ends; waits for messages, where pynetdicom's own looks every millisecond."""
        self._socket.set_pdu_timeout(self._idle_timeout_s)
        while not self._kill and not self._is_over():
            context_id, message = self.dimse.wait_msg(TICK_S)
            if message is not None and context_id is not None:
                self._serve_request(message, context_id)
                # The peer was waiting for us: only now its silence begins.
                self.dul._idle_timer.restart()
                self.dul.wake()

    def _is_over(self) -> bool:
        """End the association if it was released, aborted, cut or silent for too long."""
        if self.is_established and self.acse.is_release_requested():
            self.acse.send_release(is_response=True)
            self.is_released = True
            self.is_established = False
            evt.trigger(self, evt.EVT_RELEASED, {})
        elif self.acse.is_aborted():
            self.dul.receive_pdu(wait=False)
            self.is_aborted = True
            self.is_established = False
            evt.trigger(self, evt.EVT_ABORTED, {})
        elif self.dul.idle_timer_expired():
            log.warning("association_idle", association=self.sender.association_id, peer=self.sender.ae_title)
            self.is_aborted = True
            self.abort()
        elif self.dul.is_alive():
            return False
        self.kill()
        return True

    def open_reception(self, message: DIMSEMessage) -> Reception | None:
        """Open the way to disk for a C-STORE request whose command has come; None in an unknown context."""
        context = self._accepted_cx.get(message.context_id or 0)
        if context is None:
            return None
        return Reception(
            self._store_handler.store,
            abstract_syntax=str(context.abstract_syntax),
            sop_class_uid=_take_uid(message.command_set, "AffectedSOPClassUID"),
            sop_instance_uid=_take_uid(message.command_set, "AffectedSOPInstanceUID"),
            transfer_syntax_uid=str(context.transfer_syntax[0]),
        )

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Answer a request; C-STORE here, all else by pynetdicom's service classes."""
        is_store = isinstance(msg, C_STORE) and msg.MessageIDBeingRespondedTo is None
        if not is_store or msg.MessageID is None or context_id not in self._accepted_cx:
            super()._serve_request(msg, context_id)
            return
        reply = self._store(msg)
        self.statuses[reply.status] = self.statuses.get(reply.status, 0) + 1
        rsp = C_STORE()
        rsp.MessageID = msg.MessageID
        rsp.MessageIDBeingRespondedTo = msg.MessageID
        rsp.AffectedSOPClassUID = msg.AffectedSOPClassUID
        rsp.AffectedSOPInstanceUID = msg.AffectedSOPInstanceUID
        rsp.Status = reply.status
        if reply.comment:
            rsp.ErrorComment = reply.comment  # type: ignore[assignment]
        self.dimse.send_msg(rsp, context_id)

    def _store(self, msg: C_STORE) -> Reply:
        sink = msg.DataSet
        reception = sink.reception if isinstance(sink, DataSetSink) else None
        if reception is None:
            return Reply(0xC000, "there is no data set")
        try:
            return self._store_handler.handle(self.sender, reception)
        except Exception:  # The edge of the process: the peer gets a status whatever happens.
            log.exception("store_failed", association=self.sender.association_id)
            return Reply(OUT_OF_RESOURCES, "internal error")


def _take_uid(command_set: Dataset, keyword: str) -> str:
    """Return a command's UID; one that pynetdicom would choke on is taken out of the command and returned empty."""
    value = command_set.get(keyword)
    text = value if isinstance(value, str) else ""
    if not 0 < len(text) <= MAX_UID or not text.isascii():
        command_set.pop(keyword, None)
        return ""
    return str(text)
