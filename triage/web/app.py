"""Puts the web application together: parts, routes, edge, and which error is which answer."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError

from triage import __version__
from triage.config.schema import Configuration
from triage.errors import InvalidUIDError, LedgerError, NotFoundError
from triage.ledger import Ledger
from triage.probes import Probe
from triage.web import health, page, studies, worklist
from triage.web.auth import LoginThrottle, Sessions, ensure_token
from triage.web.edge import Edge
from triage.web.events import ChangeFeed
from triage.web.metrics import WebMetrics
from triage.web.readable import make_environment
from triage.web.readiness import Readiness
from triage.web.services import CrossSiteRequestError, Services, UnauthorizedError

log = structlog.get_logger(__name__)

_STATIC = Path(__file__).parent / "static"
_DESCRIPTION = (
    "The worklist of a triage node. Prioritization only, not diagnostic; an unflagged study is not normal. "
    'Research use only. Send the token as "Authorization: Bearer …".'
)


def create_app(
    config: Configuration,
    ledger: Ledger,
    probes: Mapping[str, Probe],
    *,
    feed: ChangeFeed | None = None,
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """Return the web application.

    Parameters
    ----------
    config : Configuration
        The node's configuration.
    ledger : Ledger
        Where studies are.
    probes : mapping of str to Probe
        How each part tells whether it works, for ``/readyz``; see `readiness.default_probes`.
    feed : ChangeFeed, optional
        Default: one that looks every second.
    clock : callable, optional
        Seconds since the epoch.

    Raises
    ------
    ConfigurationError
        If there is no usable token.
    """
    token = ensure_token(config)
    metrics = WebMetrics(config, ledger)
    services = Services(
        config=config,
        ledger=ledger,
        token=token,
        sessions=Sessions(token),
        throttle=LoginThrottle(),
        readiness=Readiness(probes),
        feed=feed or ChangeFeed(ledger),
        metrics=metrics,
        pages=make_environment(),
        clock=clock,
    )
    # The interactive documentation would load scripts from elsewhere; the description itself is served.
    app = FastAPI(
        title="triage-node",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.services = services
    for router in (health.router, worklist.router, studies.router, page.router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.add_exception_handler(UnauthorizedError, _unauthorized)
    app.add_exception_handler(CrossSiteRequestError, _cross_site)
    app.add_exception_handler(InvalidUIDError, _invalid_uid)
    app.add_exception_handler(LedgerError, _ledger_error)
    app.add_middleware(Edge, metrics=metrics)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    yield
    await services.feed.close()


def _detail(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)


async def _unauthorized(request: Request, exc: Exception) -> Response:
    for_person = not request.url.path.startswith("/api/") or "text/html" in request.headers.get("accept", "")
    if for_person and "authorization" not in request.headers:
        return RedirectResponse("/login", status_code=303)
    answer = _detail(401, 'Log in, or send the token as "Authorization: Bearer".')
    answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


async def _cross_site(_request: Request, _exc: Exception) -> Response:
    return _detail(403, "The request did not come from this node's own page (Origin and Referer name another).")


async def _invalid_uid(_request: Request, _exc: Exception) -> Response:
    return _detail(422, "That is not a DICOM UID (PS3.5 section 9.1).")


async def _ledger_error(_request: Request, exc: Exception) -> Response:
    if isinstance(exc, NotFoundError):
        return _detail(404, "The ledger knows no such study.")
    if isinstance(exc.__cause__, SQLAlchemyError):
        log.error("web.ledger_does_not_answer", error=type(exc.__cause__).__name__)
        return _detail(503, "The ledger does not answer; try again.")
    return _detail(409, str(exc))
