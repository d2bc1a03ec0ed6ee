"""The worklist page and the login: server-rendered, usable without a script, by keyboard and in a dark room."""

from typing import Annotated, Any
from urllib.parse import urlencode

import structlog
from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from triage.ledger import State
from triage.web.auth import COOKIE, MAX_NAME_LENGTH, same_secret
from triage.web.readable import viewer_link
from triage.web.schemas import RankedItem, moment
from triage.web.services import Identified, Services, ServicesOf, check_origin
from triage.web.worklist import ListedState, worklist_page

log = structlog.get_logger(__name__)

router = APIRouter(include_in_schema=False)

PAGE_LIMIT = 100
MODALITIES = ("CR", "DX", "CT")


def _render(services: Services, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    return HTMLResponse(services.pages.get_template(template).render(**values), status)


def _state_or_none(text: str) -> ListedState | None:
    if not text:
        return None
    if text == "read":
        return "read"
    try:
        return State(text)
    except ValueError as exc:
        raise HTTPException(422, f"state: one of {', '.join(State)}, read.") from exc


@router.get("/")
def show_worklist(
    services: ServicesOf,
    identity: Identified,
    modality: Annotated[str, Query(max_length=16, pattern="^[A-Za-z]*$")] = "",
    state: Annotated[str, Query(max_length=20)] = "",
    cursor: Annotated[str, Query(max_length=500)] = "",
) -> Response:
    """Show the worklist in rank order."""
    part = worklist_page(
        services, modality=modality or None, state=_state_or_none(state), limit=PAGE_LIMIT, cursor=cursor or None
    )
    filters = {"modality": modality, "state": state}
    following = urlencode({**filters, "cursor": part.next_cursor}) if part.next_cursor else ""
    return _render(
        services,
        "worklist.html",
        items=part.items,
        links=_viewer_links(services, part.items),
        models=sorted({(item.model, item.calibration or "unknown") for item in part.items if item.model}),
        filters=filters,
        modalities=MODALITIES,
        states=["read", *State],
        is_first=not cursor,
        following=following,
        name=identity.name,
        now=moment(services.now()),
        rank=services.config.rank,
    )


def _viewer_links(services: Services, items: list[RankedItem]) -> dict[str, str]:
    template = services.config.web.viewer_url
    return {item.study_instance_uid: viewer_link(template, item.study_instance_uid) for item in items}


@router.get("/login")
def show_login(services: ServicesOf) -> Response:
    """Show the login form."""
    return _render(services, "login.html", problem="")


@router.post("/login")
def log_in(
    request: Request,
    services: ServicesOf,
    token: Annotated[str, Form(max_length=500)] = "",
    name: Annotated[str, Form(max_length=500)] = "",
) -> Response:
    """Exchange the token for a session cookie; 401 on a wrong one, 429 after too many wrong ones."""
    if "origin" in request.headers or "referer" in request.headers:
        check_origin(request)
    address = request.client.host if request.client else ""
    wait_s = services.throttle.wait_s(address)
    if wait_s > 0:
        answer = _render(services, "login.html", 429, problem=f"Too many tries. Wait {int(wait_s) + 1} seconds.")
        answer.headers["Retry-After"] = str(int(wait_s) + 1)
        return answer
    if not same_secret(token.strip(), services.token):
        services.throttle.failed(address)
        log.warning("web.login_refused", address=address)
        return _render(services, "login.html", 401, problem="That is not this node's token.")
    name = " ".join(name.split())
    if not name.isprintable() or not 1 <= len(name) <= MAX_NAME_LENGTH:
        problem = f"Give the name to show beside what you do (1 to {MAX_NAME_LENGTH} characters)."
        return _render(services, "login.html", 422, problem=problem)
    return _with_session(request, services, name)


def _with_session(request: Request, services: Services, name: str) -> Response:
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(
        COOKIE,
        services.sessions.issue(name),
        max_age=services.sessions.lifetime_s,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
def log_out(services: ServicesOf, identity: Identified) -> Response:
    """End the session."""
    if identity.session:
        services.sessions.revoke(identity.session)
    answer = RedirectResponse("/login", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
