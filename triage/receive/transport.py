"""pynetdicom's upper layer, made to wait instead of to poll, and bounded against peers that misbehave.

pynetdicom's reactor looks for work every millisecond and reads 4 KiB at a time without a time limit: an object costs
several milliseconds of sleep, and a peer that sends half a PDU holds its thread for ever.
"""

import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket

# What we tell peers they may send in one PDU, bytes.
MAX_PDU = 256 * 1024
# An A-ASSOCIATE-RQ with 128 contexts and every transfer syntax in each has some 100 kB; nothing honest is longer.
MAX_PDU_READ = 1 << 20
# The reactors look at their timers this often, seconds.
TICK_S = 0.05
# So many requests may wait unanswered before no more is read from the peer.
MAX_QUEUED = 2


class ReceivingSocket(AssociationSocket):
    """A peer's connection: reads whole PDUs within a time limit.

    Parameters
    ----------
    assoc : pynetdicom.association.Association
        Whom it serves; its `dul` is a `ReceivingDUL`.
    client_socket : socket.socket
        The accepted connection.
    pdu_timeout_s : float
        A PDU that has begun must be complete after this, seconds.
    """

    def __init__(self, assoc: Association, client_socket: socket.socket, *, pdu_timeout_s: float) -> None:
        # Small responses must not wait for the peer's delayed acknowledgement (Nagle: 40 ms an object).
        client_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client_socket.settimeout(pdu_timeout_s)
        super().__init__(assoc, client_socket=client_socket)
        self._peer = client_socket
        self._dul = cast(ReceivingDUL, assoc.dul)
        self._requests = assoc.dimse.msg_queue
        self._pdu_timeout_s = pdu_timeout_s
        self._poll = select.poll()
        self._poll.register(client_socket, select.POLLIN)
        self._fd = client_socket.fileno()
        self._wake_fd = self._dul.wake_fd
        self._poll.register(self._wake_fd, select.POLLIN)
        self._wake_only = select.poll()
        self._wake_only.register(self._wake_fd, select.POLLIN)

    @property
    def ready(self) -> bool:
        """Wait for the peer's bytes or for something to send; True if there are bytes."""
        if self.socket is None or not self._is_connected:
            time.sleep(0.001)
            return False
        wait_s = TICK_S if self.event_queue.empty() else 0.0
        # A peer that doesn't wait for responses has to wait for us: what it sends stays in the network.
        poll = self._poll if self._requests.qsize() < MAX_QUEUED else self._wake_only
        try:
            events = dict(poll.poll(wait_s * 1000))
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            return False
        if self._wake_fd in events:
            self._dul.drain_wake()
        return self._fd in events

    def set_pdu_timeout(self, pdu_timeout_s: float) -> None:
        """Change the time limit, seconds."""
        self._pdu_timeout_s = pdu_timeout_s
        self._peer.settimeout(pdu_timeout_s)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read exactly `nr_bytes`, or fewer if the peer closes.

        Raises
        ------
        OSError
            If the peer is too slow or announces a PDU beyond all measure; the upper layer then closes.
        """
        if nr_bytes > MAX_PDU_READ:
            raise OSError(f"a PDU of {nr_bytes} bytes was announced")
        deadline = time.monotonic() + self._pdu_timeout_s
        buffer = bytearray(nr_bytes)
        view = memoryview(buffer)
        have = 0
        while have < nr_bytes:
            got = self._peer.recv_into(view[have:])
            if not got:
                view.release()
                del buffer[have:]
                break
            have += got
            if have < nr_bytes and time.monotonic() > deadline:
                raise TimeoutError("the peer sends too slowly")
        return buffer


class ReceivingDUL(DULServiceProvider):
    """The upper layer's thread; sleeps until the peer sends or we have something to send."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self.daemon = True
        # The waiting is done in `ReceivingSocket.ready`.
        self._run_loop_delay = 0
        # Read and write end of the pipe that ends that waiting.
        self.wake_fd, self._ring_fd = os.pipe()
        os.set_blocking(self.wake_fd, False)
        os.set_blocking(self._ring_fd, False)
        self._wake_lock = threading.Lock()
        self._wake_open = True

    def wake(self) -> None:
        """End the wait in `ReceivingSocket.ready`."""
        with self._wake_lock:
            if self._wake_open:
                try:
                    os.write(self._ring_fd, b"!")
                except BlockingIOError:
                    # The pipe is full of rings already.
                    return

    def drain_wake(self) -> None:
        """Take the rings out of the pipe."""
        try:
            os.read(self.wake_fd, 4096)
        except BlockingIOError:
            return

    def close_wake(self) -> None:
        """Close the pipe."""
        with self._wake_lock:
            if self._wake_open:
                self._wake_open = False
                os.close(self.wake_fd)
                os.close(self._ring_fd)

    def send_pdu(self, primitive: Any) -> None:
        """Queue a primitive for the peer and wake the thread that sends it."""
        super().send_pdu(primitive)
        self.wake()

    def run_reactor(self) -> None:
        """Run until the connection has ended."""
        try:
            super().run_reactor()
        finally:
            self.close_wake()
            # Nothing will come any more: whoever waits for a primitive needn't wait for the time-out.
            self.to_user_queue.put(None)  # type: ignore[arg-type]


class Doorbell(queue.Queue):  # type: ignore[type-arg]
    """A queue that calls `ring` after every put."""

    def __init__(self, ring: Callable[[], None]) -> None:
        super().__init__()
        self._ring = ring

    def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
        """Put and ring."""
        super().put(item, block, timeout)
        self._ring()
