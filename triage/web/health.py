"""For machines that watch: ``/healthz``, ``/readyz`` and ``/metrics``, without a token, and ``/api/events``."""

from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST

from triage.web.schemas import Alive, ReadinessAnswer
from triage.web.services import Identified, ServicesOf

router = APIRouter()

# A whole number of eight bytes: the largest that the ledger can hold.
MAX_EVENT_ID = 2**63 - 1


@router.get("/healthz", summary="The web process lives")
def healthz() -> Alive:
    """Answer; nothing else is asked."""
    return Alive()


@router.get("/readyz", summary="Whether the node can do its work, part by part")
def readyz(services: ServicesOf, response: Response) -> ReadinessAnswer:
    """Return every part's state; 503 when one does not work."""
    answer = services.readiness.check()
    response.status_code = 200 if answer.ready else 503
    return answer


@router.get("/metrics", response_class=Response, summary="Prometheus metrics, without patient data")
def metrics(services: ServicesOf) -> Response:
    """Return the text exposition."""
    services.metrics.listeners.set(services.feed.listeners)
    return Response(services.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/api/events", response_class=StreamingResponse, summary="Worklist changes as server-sent events")
async def events(
    services: ServicesOf,
    _identity: Identified,
    last_event_id: Annotated[int | None, Header(ge=0, le=MAX_EVENT_ID)] = None,
) -> StreamingResponse:
    """Stream changes from now on, or from after ``Last-Event-ID``."""
    return StreamingResponse(
        services.feed.stream(last_event_id),
        media_type="text/event-stream",
        # Without this, nginx would keep the events back.
        headers={"X-Accel-Buffering": "no"},
    )
