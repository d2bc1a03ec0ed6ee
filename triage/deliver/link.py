"""An association with a destination, opened for all that delivery says on it."""

from contextlib import AbstractContextManager

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from triage import association
from triage.association import STUDY_ROOT_FIND, VERIFICATION, EventHandlers
from triage.config.schema import Destination
from triage.deliver.policy import DeliveryPolicy
from triage.sop_classes import MAP_CLASSES, SR_CLASSES

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"


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


def associate(
    destination: Destination,
    *,
    calling_ae_title: str,
    policy: DeliveryPolicy,
    contexts: list[PresentationContext],
    handlers: EventHandlers = (),
) -> AbstractContextManager[Association]:
    """Open an association with a destination; see `triage.association.associate`."""
    return association.associate(
        destination.host,
        destination.port,
        destination.ae_title,
        calling_ae_title=calling_ae_title,
        contexts=contexts,
        timeouts=policy.timeouts,
        handlers=handlers,
    )
