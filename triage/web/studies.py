"""``/api/studies/{study_instance_uid}``: one study with its history, and what a person may do with it."""

from enum import StrEnum
from typing import Annotated

import structlog
from fastapi import APIRouter, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import RedirectResponse

from triage.ledger import Study
from triage.uids import checked_uid
from triage.web.auth import Identity
from triage.web.schemas import StudyDetail, WorklistItem, study_detail
from triage.web.services import Identified, Services, ServicesOf

log = structlog.get_logger(__name__)

router = APIRouter()

StudyUID = Annotated[str, PathParameter(description="Study Instance UID (0020,000D)", max_length=64)]


class Action(StrEnum):
    """What a person may do with a study."""

    REQUEUE = "requeue"
    STAT = "stat"
    CLAIM = "claim"
    RELEASE = "release"
    COMPLETE = "complete"


def _find(services: Services, study_instance_uid: str) -> Study:
    """Return the study; raises `InvalidUIDError` or `NotFoundError`, which become 422 and 404."""
    return services.ledger.study(checked_uid(study_instance_uid))


@router.get("/api/studies/{study_instance_uid}", summary="One study with events, jobs and deliveries")
def get_study(study_instance_uid: StudyUID, services: ServicesOf, _identity: Identified) -> StudyDetail:
    """Return the study's current revision; 404 if the ledger does not know it."""
    study = _find(services, study_instance_uid)
    return study_detail(services.ledger, study, now=services.now(), rank=services.config.rank)


@router.post(
    "/api/studies/{study_instance_uid}/{action}",
    response_model=WorklistItem,
    summary="requeue, stat, claim, release, or complete (mark as read)",
)
def act(
    study_instance_uid: StudyUID,
    action: Action,
    request: Request,
    services: ServicesOf,
    identity: Identified,
    *,
    off: bool = False,
) -> WorklistItem | Response:
    """Do it and return the study as it is now; 404 if unknown, 409 if its state does not allow it.

    ``stat?off=true`` takes a STAT back, ``complete?off=true`` a mark as read; so does ``stat``. A form of the page is
    answered with a redirect to the page.
    """
    study = _find(services, study_instance_uid)
    _do(services, study.study_instance_uid, action, identity, off=off)
    log.info("web.action", study=study.id, action=action.value)
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/", status_code=303)
    after = _find(services, study_instance_uid)
    return WorklistItem.of(after, now=services.now(), rank=services.config.rank)


def _do(services: Services, uid: str, action: Action, identity: Identity, *, off: bool) -> None:
    ledger, actor = services.ledger, identity.name
    match action:
        case Action.REQUEUE:
            ledger.requeue(uid, actor)
        case Action.STAT:
            ledger.stat(uid, actor, on=not off)
        case Action.CLAIM:
            ledger.claim(uid, actor)
        case Action.RELEASE:
            ledger.release(uid, actor)
        case Action.COMPLETE:
            ledger.mark_read(uid, actor, on=not off)
