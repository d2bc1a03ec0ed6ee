"""An association with a destination, opened for all that delivery says on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext

from triage.config.schema import Destination
from triage.deliver.policy import DeliveryPolicy
from triage.errors import DeliveryError
from triage.sop_classes import MAP_CLASSES, SR_CLASSES

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"

EventHandlers = Sequence[tuple[Any, ...]]


def report_contexts() -> list[PresentationContext]:
    """Return a context for each SR class and syntax, best class first.

    Explicit VR, in which reports are stored, has a context of its own: a PACS that takes it gets our bytes as they
    are, and only one that does not gets them re-encoded in Implicit VR.
    """
    return [
        build_context(uid, syntax) for uid in SR_CLASSES for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    ]


def delivery_contexts() -> list[PresentationContext]:
    """Return what delivery proposes: SR storage, the maps' storage, storage commitment, C-FIND.

    Verification is among them because an association without any accepted context is aborted, and then nobody
    could tell a PACS that takes no SR from one that is broken.
    """
    syntaxes: list[str | UID] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    others = (*MAP_CLASSES, STORAGE_COMMITMENT, STUDY_ROOT_FIND, VERIFICATION)
    return [*report_contexts(), *(build_context(uid, syntaxes) for uid in others)]


def accepts(assoc: Association, sop_class_uid: str) -> bool:
    """Tell whether the peer accepted a context for this SOP class."""
    return any(cx.abstract_syntax == sop_class_uid for cx in assoc.accepted_contexts)


@contextmanager
def associate(
    destination: Destination,
    *,
    calling_ae_title: str,
    policy: DeliveryPolicy,
    contexts: list[PresentationContext],
    handlers: EventHandlers = (),
) -> Iterator[Association]:
    """Open an association for the length of a ``with`` block; it is released at its end, aborted on an exception.

    Raises
    ------
    DeliveryError
        If the destination cannot be reached or rejects us.
    """
    ae = AE(ae_title=calling_ae_title)
    ae.connection_timeout = policy.connect_timeout_s
    ae.acse_timeout = policy.acse_timeout_s
    ae.dimse_timeout = policy.response_timeout_s
    ae.network_timeout = policy.response_timeout_s
    bound = [*handlers, (evt.EVT_ABORTED, _unpause), (evt.EVT_CONN_CLOSE, _unpause)]
    assoc = ae.associate(
        destination.host, destination.port, contexts=contexts, ae_title=destination.ae_title, evt_handlers=bound
    )
    if not assoc.is_established:
        raise DeliveryError(f"{destination.name}: {_why(assoc)}", remedy=_remedy(assoc, destination))
    try:
        yield assoc
    except BaseException:
        assoc.abort()
        raise
    if assoc.is_established:
        assoc.release()


def _unpause(event: Event) -> None:
    # pynetdicom's send_* methods spin until the association's own thread pauses; a thread that has just ended
    # because the peer aborted never does, and the destination's thread would spin for ever.
    event.assoc._is_paused = True


def _why(assoc: Association) -> str:
    if assoc.is_rejected:
        primitive = assoc.acceptor.primitive
        return f"the association was rejected ({primitive.reason_str if primitive else 'no reason'})"
    if assoc.is_aborted and assoc.acceptor.primitive is not None:
        return "the association was aborted, or no presentation context was accepted"
    return "no association: nobody answers at its host and port"


def _remedy(assoc: Association, destination: Destination) -> str:
    if assoc.is_rejected:
        return f"register our AE title at {destination.ae_title}, and check destination.ae_title"
    return "check that the PACS runs, and destination.host and destination.port"
