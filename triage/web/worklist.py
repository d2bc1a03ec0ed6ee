"""``GET /api/worklist``: the studies in the order in which the rank policy would have them read."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from fastapi import APIRouter, HTTPException, Query

from triage.ledger import State
from triage.ledger.worklist import parse_cursor
from triage.web.schemas import RankedItem, WorklistPage
from triage.web.services import Identified, Services, ServicesOf

router = APIRouter()

ListedState = State | Literal["read"]
"""What a list can be asked for: a state, or what was marked read."""

MAX_LIMIT = 500
DEFAULT_LIMIT = 100
# More studies than any list has.
MAX_OFFSET = 10**9


@dataclass(frozen=True)
class Cursor:
    """Where the next part of a list begins.

    Attributes
    ----------
    offset : int
        Studies in the parts before it.
    ledger : str
        The ledger's own cursor.
    """

    offset: int
    ledger: str

    def encode(self) -> str:
        """Return it as text for a URL."""
        content = json.dumps([self.offset, self.ledger]).encode()
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read what `encode` wrote; raises ``ValueError`` on anything else."""
        try:
            offset, ledger = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
        except (binascii.Error, UnicodeDecodeError, TypeError, RecursionError) as exc:
            raise ValueError("not a cursor") from exc
        if not (isinstance(offset, int) and isinstance(ledger, str) and 0 <= offset <= MAX_OFFSET):
            raise ValueError("not a cursor")
        if ledger:
            parse_cursor(ledger)
        return cls(offset, ledger)


def worklist_page(
    services: Services,
    *,
    modality: str | None = None,
    state: ListedState | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> WorklistPage:
    """Return a part of the worklist.

    Raises
    ------
    HTTPException
        400 if the cursor is not one of ours.
    """
    now = services.now()
    try:
        start = Cursor.decode(cursor) if cursor else Cursor(0, "")
    except ValueError as exc:
        raise HTTPException(400, "cursor: take it from next_cursor of the part before, as it is.") from exc
    studies, following = services.ledger.worklist(
        now, services.config.rank, modality, state, limit, start.ledger or None
    )
    items = [
        RankedItem.ranked(study, now=now, rank=services.config.rank, place=start.offset + place)
        for place, study in enumerate(studies, start=1)
    ]
    following_cursor = Cursor(start.offset + len(items), following).encode() if following else None
    return WorklistPage(items=items, next_cursor=following_cursor)


@router.get("/api/worklist", summary="The worklist, in the order of the rank policy")
def get_worklist(
    services: ServicesOf,
    _identity: Identified,
    modality: Annotated[str | None, Query(max_length=16, pattern="^[A-Za-z]*$")] = None,
    state: ListedState | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> WorklistPage:
    """Return unread studies, or those in `state`; STAT, overdue, HIGH, MEDIUM, then by arrival."""
    return worklist_page(services, modality=modality or None, state=state, limit=limit, cursor=cursor)
