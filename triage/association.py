"""Associations that we open: one place for their timeouts, their ends and their failures; and bounded queries on them.

Stages that are siblings open associations alike; so this is below all of them.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext

from triage.errors import AssociationError, DeliveryError, QueryError, RejectedError
from triage.statuses import SUCCESS

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"

_PENDING = (0xFF00, 0xFF01)
# More series than any study has: a peer cannot keep us reading for ever.
_MAX_MATCHES = 5000
_ALL_ANSWERS = 10

EventHandlers = Sequence[tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """For the TCP connection, for the association's negotiation, and for each DIMSE response, seconds."""

    connect_s: float = 5.0
    acse_s: float = 15.0
    response_s: float = 60.0

    @classmethod
    def each(cls, seconds: float) -> Self:
        """Return the same for all."""
        return cls(connect_s=seconds, acse_s=seconds, response_s=seconds)


@contextmanager
def associate(
    host: str,
    port: int,
    ae_title: str,
    *,
    calling_ae_title: str,
    contexts: list[PresentationContext],
    timeouts: Timeouts,
    handlers: EventHandlers = (),
    ext_neg: Sequence[Any] = (),
) -> Iterator[Association]:
    """Open an association for the length of a ``with`` block; it is released at its end, aborted on an exception.

    Parameters
    ----------
    host, port, ae_title : str, int, str
        Whom to call.
    calling_ae_title : str
        Our AE title.
    contexts : list of pynetdicom.presentation.PresentationContext
        What to propose.
    handlers, ext_neg : sequence
        Event handlers, and further items of the negotiation (roles), as pynetdicom takes them.

    Raises
    ------
    RejectedError
        If the peer rejects us.
    AssociationError
        If it cannot be reached, or accepts nothing of what we propose.
    """
    ae = AE(ae_title=calling_ae_title)
    ae.connection_timeout = timeouts.connect_s
    ae.acse_timeout = timeouts.acse_s
    ae.dimse_timeout = ae.network_timeout = timeouts.response_s
    bound = [*handlers, (evt.EVT_ABORTED, _unpause), (evt.EVT_CONN_CLOSE, _unpause)]
    assoc = ae.associate(
        host, port, contexts=contexts, ae_title=ae_title, evt_handlers=bound, ext_neg=list(ext_neg) or None
    )
    if not assoc.is_established:
        raise _failure(assoc, ae_title, calling_ae_title)
    try:
        yield assoc
    except BaseException:
        assoc.abort()
        raise
    if assoc.is_established:
        assoc.release()


def _unpause(event: Event) -> None:
    # pynetdicom's send_* methods spin until the association's own thread pauses; one that has ended never does, and
    # the caller's thread would spin for ever.
    event.assoc._is_paused = True


def _failure(assoc: Association, ae_title: str, calling_ae_title: str) -> AssociationError:
    primitive = assoc.acceptor.primitive
    if assoc.is_rejected:
        return RejectedError(
            f"the association was rejected ({primitive.reason_str if primitive else 'no reason'})",
            remedy=f"register our AE title {calling_ae_title} at {ae_title}, and check that this is its AE title",
        )
    remedy = f"check that {ae_title} runs, and its host and port"
    if assoc.is_aborted and primitive is not None:
        return AssociationError("the association was aborted, or no presentation context was accepted", remedy=remedy)
    return AssociationError("no association: nobody answers at its host and port", remedy=remedy)


def matches(assoc: Association, query: Dataset, *, limit: int = _MAX_MATCHES) -> Iterator[Dataset]:
    """Ask by Study Root C-FIND and yield the answers. Read them to the end: the association is busy until then.

    Parameters
    ----------
    limit : int
        How many answers are read at most; and all together may take ten times as long as each of them.

    Raises
    ------
    QueryError
        If the peer fails the query, or an answer cannot be read.
    DeliveryError
        If the association ended or cannot carry the query, no answer came, or there is no end of answers.

    References
    ----------
    PS3.4 section C.4.1 (C-FIND).
    """
    until = time.monotonic() + _ALL_ANSWERS * (assoc.dimse_timeout or Timeouts.response_s)
    try:
        for status, identifier in islice(assoc.send_c_find(query, STUDY_ROOT_FIND), limit):
            code = status.get("Status")
            if code == SUCCESS:
                return
            if code is None:
                raise DeliveryError("no answer to C-FIND: the association was aborted or timed out")
            if code not in _PENDING or identifier is None:
                raise QueryError(f"C-FIND failed: status {code:04X}H")
            if time.monotonic() > until:
                break
            yield identifier
    except (RuntimeError, ValueError) as exc:
        raise DeliveryError("the association could not carry the query") from exc
    raise DeliveryError("C-FIND never came to its end")
