"""What a worker does when broker or device go while it is at a task: it ends, and is started again."""

import os

import structlog
from celery.worker.request import Request
from kombu.asynchronous import get_event_loop

log = structlog.get_logger(__name__)


class EndingRequest(Request):  # type: ignore[misc] # Celery has no types
    """A task's message; one that cannot be acknowledged ends the process.

    Celery logs that the broker did not take the acknowledgement and goes on, but Kombu counts the message as still
    unfinished, and with a prefetch of one never asks for another: the worker would live, look alive and do nothing
    until somebody restarts it. What it found is in the ledger, or is found again once the lease is taken back.
    """

    last = False
    """Whether the process ends once the message at hand is acknowledged, so that it isn't delivered again."""

    def acknowledge(self) -> None:
        """Acknowledge the message, or end."""
        if self.last:
            try:
                self.message.ack()  # at once, not in the loop's next round: no other task shall begin
            finally:
                os._exit(1)
        super().acknowledge()
        # Celery acknowledges in the loop's next round, so this looks in the one after it. A loop that was broken off
        # and begun anew knows nothing of either: then the message counts no more.
        loop = get_event_loop()
        if loop is None:
            self._end_unless_acknowledged()
        else:
            loop.call_soon(loop.call_soon, self._end_unless_acknowledged)  # type: ignore[no-untyped-call] # nor Kombu

    def _end_unless_acknowledged(self) -> None:
        if not self.message.acknowledged:
            log.error("message_not_acknowledged", task=self.task_name)
            os._exit(1)


def end_after_this_task() -> None:
    """Let the process end after its task, and be started again by its supervisor."""
    EndingRequest.last = True
