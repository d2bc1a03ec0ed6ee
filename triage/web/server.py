"""Runs the web application with uvicorn until it is told to stop."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from fastapi import FastAPI

from triage.config.schema import Configuration, Web
from triage.errors import ConfigurationError
from triage.ledger import open_ledger
from triage.web.app import create_app
from triage.web.readiness import default_probes
from triage.web.services import Services

log = structlog.get_logger(__name__)

GRACE_S = 3


class _Server(uvicorn.Server):
    """A uvicorn server that stops when an event is set; signals are its owner's business."""

    def __init__(self, config: uvicorn.Config, services: Services, stop: threading.Event) -> None:
        super().__init__(config)
        self._services = services
        self._stop = stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """End the event streams, then the server, once told to stop; called ten times a second."""
        if self._stop.is_set():
            # uvicorn waits for open answers before it ends the application, and these would never end.
            await self._services.feed.close()
            return True
        return await super().on_tick(counter)


def _bind(web: Web) -> socket.socket:
    family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
    try:
        return socket.create_server((web.host, web.port), family=family, backlog=128)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot listen on web port {web.port} of {web.host}: {exc.strerror}",
            remedy="set web.host and web.port to a free one",
        ) from exc


def run_web(config: Configuration, stop: threading.Event) -> None:
    """Serve the worklist until `stop` is set; then end within a few seconds.

    Raises
    ------
    ConfigurationError
        If the port cannot be listened on or there is no usable token.
    LedgerError
        If the ledger cannot be opened.
    """
    ledger = open_ledger(config)
    app = create_app(config, ledger, default_probes(config, ledger))
    listening = _bind(config.web)
    log.info("web.listening", host=config.web.host, port=config.web.port)
    serve(app, listening, stop)
    ledger.close()
    log.info("web.stopped")


def serve(app: FastAPI, listening: socket.socket, stop: threading.Event) -> None:
    """Serve an application of `create_app` on a listening socket until `stop` is set; closes the socket."""
    # No access log: its paths hold Study Instance UIDs.
    settings = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=32 * 1024,
        limit_concurrency=256,
    )
    _Server(settings, app.state.services, stop).run(sockets=[listening])
