"""What may be received: SOP classes and transfer syntaxes, and which of them are scored."""

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom.presentation import (
    AllStoragePresentationContexts,
    PresentationContext,
    StoragePresentationContexts,
    build_context,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    Verification,
)

from triage.sop_classes import MODALITY_OF, TOMOGRAMS

# An acceptor picks the first of *its* list that the sender proposed in a context: uncompressed ones first, because
# every sender can produce them; a sender that holds compressed objects proposes their syntax in its own context.
TRANSFER_SYNTAXES: tuple[UID, ...] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)

SCORABLE_SOP_CLASSES: tuple[UID, ...] = tuple(MODALITY_OF)

# pynetdicom's longer list lacks the retired classes of its shorter one, which old archives still send.
STORAGE_SOP_CLASSES: tuple[UID, ...] = tuple(
    dict.fromkeys(
        UID(str(context.abstract_syntax)) for context in (*AllStoragePresentationContexts, *StoragePresentationContexts)
    )
)


def not_scored_reason(sop_class_uid: str) -> str:
    """Return why objects of this SOP class are never scored; empty if they are."""
    uid = UID(sop_class_uid)
    return "" if uid in SCORABLE_SOP_CLASSES else f"not scored: {uid.name}"


def modality_of(sop_class_uid: str, said: str) -> str:
    """Return an object's modality: what it says; of a CT, and where it says nothing, what its SOP class stands for."""
    uid = UID(sop_class_uid)
    return MODALITY_OF.get(uid, said) if uid in TOMOGRAMS or said in {"", "OT"} else said


def supported_contexts() -> list[PresentationContext]:
    """Return the presentation contexts of the listener.

    The PACS is the SCP of storage commitment and sends its report (N-EVENT-REPORT) on an association of its own: it
    proposes the role of SCP for itself, which an acceptor grants with ``scp_role``.

    References
    ----------
    PS3.4 annex J.3.3 (N-EVENT-REPORT), PS3.7 annex D.3.3.4 (role selection).
    """
    syntaxes: list[str | UID] = list(TRANSFER_SYNTAXES)
    contexts = [build_context(Verification, syntaxes[:2])]
    contexts += [build_context(uid, syntaxes) for uid in STORAGE_SOP_CLASSES]
    commitment = build_context(StorageCommitmentPushModel, syntaxes[:2])
    commitment.scu_role = False
    commitment.scp_role = True
    return [*contexts, commitment]
