"""``GET /api/events``: the worklist's changes as they happen, as server-sent events.

One watcher per process looks into the ledger while anybody listens; each listener then reads what is new to it.
A listener that comes back says what it saw last (``Last-Event-ID``) and misses nothing.

References
----------
HTML Living Standard, section 9.2, Server-sent events.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import structlog

from triage.errors import LedgerError
from triage.ledger import Event, Ledger

log = structlog.get_logger(__name__)

POLL_S = 1.0
HEARTBEAT_S = 15.0


class ChangeFeed:
    """Tells listeners about new events of the ledger.

    Parameters
    ----------
    ledger : Ledger
        Where the events are.
    poll_s, heartbeat_s : float
        Seconds between looks into the ledger, and between signs of life to a silent listener.
    """

    def __init__(self, ledger: Ledger, *, poll_s: float = POLL_S, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._ledger = ledger
        self._poll_s = poll_s
        self._heartbeat_s = heartbeat_s
        self._latest = 0
        self._changed = asyncio.Condition()
        self._listeners = 0
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many are listening now."""
        return self._listeners

    async def close(self) -> None:
        """End every stream; without this a server that stops would wait for its listeners for ever."""
        self._closed = True
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        async with self._changed:
            self._changed.notify_all()

    async def stream(self, last_seen: int | None) -> AsyncIterator[bytes]:
        """Yield server-sent events that come after `last_seen`, or from now on, until `close`."""
        seen = await asyncio.to_thread(self._ledger.last_event_id) if last_seen is None else last_seen
        self._listeners += 1
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch())
        try:
            # The browser's wait before it comes back, milliseconds.
            yield b"retry: 2000\n: hello\n\n"
            while not self._closed:
                events = await asyncio.to_thread(self._ledger.changes_since, seen)
                for event in events:
                    yield await asyncio.to_thread(self._message, event)
                    seen = max(seen, event.id)
                if not events and not await self._wait_beyond(seen):
                    yield b": alive\n\n"
        finally:
            self._listeners -= 1

    async def _wait_beyond(self, seen: int) -> bool:
        """Wait for an event after `seen` or the end; false when it is time for a sign of life."""
        async with self._changed:
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await self._changed.wait_for(lambda: self._closed or self._latest > seen)
            except TimeoutError:
                return False
        return True

    async def _watch(self) -> None:
        while self._listeners and not self._closed:
            try:
                latest = await asyncio.to_thread(self._ledger.last_event_id)
            except LedgerError as exc:
                log.warning("web.events_unreadable", error=type(exc).__name__)
                latest = self._latest
            if latest > self._latest:
                async with self._changed:
                    self._latest = latest
                    self._changed.notify_all()
            await asyncio.sleep(self._poll_s)

    def _message(self, event: Event) -> bytes:
        study = self._ledger.study_by_id(event.study_id)
        content = {
            "study_instance_uid": study.study_instance_uid,
            "revision": study.revision,
            "from_state": event.from_state,
            "to_state": event.to_state,
            "reason": event.reason,
            "at": event.at,
        }
        return f"id: {event.id}\nevent: change\ndata: {json.dumps(content)}\n\n".encode()
