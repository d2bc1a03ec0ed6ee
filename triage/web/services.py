"""What the routes work with, made once in `create_app` and found through the request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from jinja2 import Environment

from triage.config.schema import Configuration
from triage.ledger import Ledger
from triage.web.auth import COOKIE, Identity, LoginThrottle, Sessions, is_same_origin, same_secret
from triage.web.events import ChangeFeed
from triage.web.metrics import WebMetrics
from triage.web.readiness import Readiness

API_ACTOR = "api"
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


class UnauthorizedError(Exception):
    """Log in, or send the token as "Authorization: Bearer"."""


class CrossSiteRequestError(Exception):
    """The request did not come from the node's own page."""


@dataclass(frozen=True)
class Services:
    """The parts behind the routes."""

    config: Configuration
    ledger: Ledger
    token: str
    sessions: Sessions
    throttle: LoginThrottle
    readiness: Readiness
    feed: ChangeFeed
    metrics: WebMetrics
    pages: Environment
    clock: Callable[[], float]

    def now(self) -> float:
        """Return the time, seconds since the epoch."""
        return self.clock()


def services_of(request: Request) -> Services:
    """Return the application's parts."""
    return cast(Services, request.app.state.services)


ServicesOf = Annotated[Services, Depends(services_of)]


def identify(request: Request, services: ServicesOf) -> Identity:
    """Return who asks.

    Raises
    ------
    UnauthorizedError
        If neither the token nor a valid session comes with the request.
    CrossSiteRequestError
        If a browser's session is used to change something from another site.
    """
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "bearer" and same_secret(given.strip(), services.token):
            return Identity(API_ACTOR)
        raise UnauthorizedError
    identity = services.sessions.read(request.cookies.get(COOKIE, ""))
    if identity is None:
        raise UnauthorizedError
    if request.method not in _SAFE_METHODS:
        check_origin(request)
    return identity


def check_origin(request: Request) -> None:
    """Refuse a browser's request that another site caused.

    Raises
    ------
    CrossSiteRequestError
        If neither Origin nor Referer names this host.
    """
    headers = request.headers
    if not is_same_origin(
        origin=headers.get("origin", ""), referer=headers.get("referer", ""), host=headers.get("host", "")
    ):
        raise CrossSiteRequestError


Identified = Annotated[Identity, Depends(identify)]
