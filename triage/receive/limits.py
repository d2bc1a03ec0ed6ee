"""How many connections and associations there may be, in all and from one address.

A TCP connection that hasn't asked for an association yet is *pending*. Pending connections hold no association's
place: when there are too many, the oldest one goes, so that clients that connect and say nothing can't keep anybody
out. Only an association request takes a place.
"""

import socket
import threading
from collections import OrderedDict
from dataclasses import dataclass

MAX_PENDING = 64
MAX_PENDING_PER_ADDRESS = 32


@dataclass(eq=False)
class Connection:
    """One TCP connection."""

    sock: socket.socket
    address: str
    associated: bool = False

    def cut(self) -> None:
        """Shut the connection down; its reader then sees the end and cleans up."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            # The peer was faster.
            return


class Connections:
    """The book of connections; safe from every thread.

    Parameters
    ----------
    max_associations : int
        Associations at once.
    max_associations_per_peer : int
        Associations at once from one address.
    """

    def __init__(self, max_associations: int, max_associations_per_peer: int) -> None:
        self._max = max_associations
        self._max_per_peer = max_associations_per_peer
        self._lock = threading.Lock()
        self._pending: OrderedDict[int, Connection] = OrderedDict()
        self._associated: dict[int, Connection] = {}

    def open(self, sock: socket.socket, address: str) -> Connection:
        """Enter a new connection as pending; cuts the oldest pending one when there are too many."""
        connection = Connection(sock, address)
        with self._lock:
            evicted = self._surplus(address)
            self._pending[id(connection)] = connection
        if evicted:
            evicted.cut()
        return connection

    def _surplus(self, address: str) -> Connection | None:
        same = [c for c in self._pending.values() if c.address == address]
        if len(same) >= MAX_PENDING_PER_ADDRESS:
            return self._pending.pop(id(same[0]))
        if len(self._pending) >= MAX_PENDING:
            return self._pending.popitem(last=False)[1]
        return None

    def associate(self, connection: Connection) -> bool:
        """Give a pending connection an association's place; False if there is none left for it."""
        with self._lock:
            self._pending.pop(id(connection), None)
            same = sum(c.address == connection.address for c in self._associated.values())
            if len(self._associated) >= self._max or same >= self._max_per_peer:
                return False
            connection.associated = True
            self._associated[id(connection)] = connection
            return True

    def close(self, connection: Connection) -> None:
        """Strike a connection out; harmless when done already."""
        with self._lock:
            self._pending.pop(id(connection), None)
            self._associated.pop(id(connection), None)

    def cut_all(self) -> None:
        """Shut every connection down."""
        with self._lock:
            connections = [*self._pending.values(), *self._associated.values()]
        for connection in connections:
            connection.cut()

    def counts(self) -> tuple[int, int]:
        """Return how many connections are pending and how many are associations."""
        with self._lock:
            return len(self._pending), len(self._associated)
