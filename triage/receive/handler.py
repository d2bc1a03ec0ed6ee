"""C-STORE: an object's bytes to the disk, its identifiers to the ledger, then the status. Nothing is decoded here."""

import time
from dataclasses import dataclass
from typing import Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from triage.errors import (
    ConflictingObjectError,
    InvalidUIDError,
    LedgerError,
    MismatchedObjectError,
    StorageFullError,
    TriageError,
    UnparsableObjectError,
)
from triage.ledger.records import Instance, ReceivedInstance, Recorded
from triage.receive.contexts import modality_of, not_scored_reason
from triage.receive.header import Header, read_header
from triage.receive.same import same_content
from triage.statuses import SUCCESS
from triage.store import Incoming, ObjectStore
from triage.uids import checked_uid

log = structlog.get_logger(__name__)

SOP_CLASS_NOT_SUPPORTED = 0x0122
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
CONFLICTS = 0xC001

# The one place where exceptions become statuses (PS3.4 section B.2.3, PS3.7 annex C). Everything that is the node's
# own trouble is "out of resources": the sender keeps the object and tries again.
STATUS_OF: tuple[tuple[type[Exception], int], ...] = (
    (StorageFullError, OUT_OF_RESOURCES),
    (LedgerError, OUT_OF_RESOURCES),
    (SQLAlchemyError, OUT_OF_RESOURCES),
    (OSError, OUT_OF_RESOURCES),
    (MismatchedObjectError, DOES_NOT_MATCH),
    (ConflictingObjectError, CONFLICTS),
    (InvalidUIDError, CANNOT_UNDERSTAND),
    (UnparsableObjectError, CANNOT_UNDERSTAND),
)
REFUSALS = tuple(kind for kind, _ in STATUS_OF)


class InstanceLedger(Protocol):
    """What reception needs of the ledger."""

    def record_instance(self, obj: ReceivedInstance) -> Recorded:
        """Commit one object's row."""

    def find_instance(self, sop_instance_uid: str) -> Instance | None:
        """Return the object known under this UID."""

    def association_released(self, association_id: str, at: float) -> list[int]:
        """Note that the sender has released the association; return the studies it touched."""


@dataclass(frozen=True)
class Sender:
    """Who sends: calling AE title (fit for logs), address, and the association's own name."""

    ae_title: str
    address: str
    association_id: str


@dataclass(frozen=True)
class Reply:
    """The status for the sender; `comment` has at most 64 characters and no patient data (0000,0902)."""

    status: int
    comment: str = ""


class Reception:
    """One object on its way in. Once refused it swallows the remaining bytes, so that the sender gets its status.

    Parameters
    ----------
    store : ObjectStore
        Where the bytes go.
    abstract_syntax : str
        The SOP class of the presentation context.
    sop_class_uid, sop_instance_uid : str
        As in the command; not checked yet.
    transfer_syntax_uid : str
        Of the presentation context.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        abstract_syntax: str,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
    ) -> None:
        self.sop_class_uid = sop_class_uid
        self.sop_instance_uid = sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self.supported = sop_class_uid == abstract_syntax
        self.refusal: Exception | None = None
        self.incoming: Incoming | None = None
        if self.supported:
            self._open(store)

    def _open(self, store: ObjectStore) -> None:
        try:
            checked_uid(self.sop_instance_uid, "the command's SOP Instance UID")
            self.incoming = store.receive(self.sop_class_uid, self.sop_instance_uid, self.transfer_syntax_uid)
        except (InvalidUIDError, StorageFullError, OSError) as error:
            self.refusal = error

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of the data set."""
        if self.incoming is None:
            return
        try:
            self.incoming.write(chunk)
        except (StorageFullError, OSError) as error:
            self.refusal = error
            self.discard()

    def discard(self) -> None:
        """Forget what was received; harmless after it was kept."""
        if self.incoming is not None:
            self.incoming.discard()
            self.incoming = None


class StoreHandler:
    """Answers C-STORE requests.

    Parameters
    ----------
    ledger : InstanceLedger
        Knows every object.
    store : ObjectStore
        Holds every object.
    """

    def __init__(self, ledger: InstanceLedger, store: ObjectStore) -> None:
        self._ledger = ledger
        self.store = store

    def handle(self, sender: Sender, reception: Reception) -> Reply:
        """Make an object durable and known, and return the status for its sender.

        Returns
        -------
        Reply
            ``0x0000`` stored (or there already, byte for byte)
            ``0x0122`` the command's SOP class isn't the presentation context's
            ``0xA700`` disk full, watermark crossed, ledger down: to be sent again later
            ``0xA900`` the data set's SOP class or instance differs from the command's
            ``0xC000`` cannot be parsed, or a UID is missing or breaks the rules
            ``0xC001`` a different object is known under this SOP Instance UID
        """
        if not reception.supported:
            log.warning("object_refused", status="0122", association=sender.association_id, peer=sender.ae_title)
            return Reply(SOP_CLASS_NOT_SUPPORTED, "SOP class is not that of the presentation context")
        try:
            self._take(sender, reception)
        except REFUSALS as error:
            return self._refuse(sender, error)
        finally:
            reception.discard()
        return Reply(SUCCESS)

    def released(self, sender: Sender) -> None:
        """Tell the ledger that the sender has released its association: a hint that it sent all it had."""
        try:
            self._ledger.association_released(sender.association_id, time.time())
        except (LedgerError, SQLAlchemyError) as error:
            # Only a hint is lost: the quiet time completes the study all the same.
            log.warning("release_not_recorded", association=sender.association_id, error=type(error).__name__)

    def _take(self, sender: Sender, reception: Reception) -> None:
        if reception.refusal is not None:
            raise reception.refusal
        incoming = reception.incoming
        if incoming is None or not incoming.size:
            raise UnparsableObjectError("the data set is empty")
        header = read_header(
            incoming.path, incoming.data_set_offset, reception.transfer_syntax_uid, self.store.check_free
        )
        header.check_command(reception.sop_class_uid, reception.sop_instance_uid)
        digest = incoming.keep()
        obj = _received(sender, header, reception.transfer_syntax_uid, digest, incoming.size)
        try:
            self._ledger.record_instance(obj)
        except ConflictingObjectError:
            self._resolve_conflict(sender, obj, incoming)

    def _resolve_conflict(self, sender: Sender, obj: ReceivedInstance, incoming: Incoming) -> None:
        """Another object has this UID: the same one in another uncompressed encoding is a duplicate, else refuse.

        The bytes put under `obj.digest` belong to nobody: had the ledger known them, it would be a duplicate. Another
        association that brought the same may have removed them already: what is compared is our own open file.
        """
        try:
            known = self._ledger.find_instance(obj.sop_instance_uid)
            same = known is not None and self._same(known, incoming)
        finally:
            self.store.remove(obj.digest)
        if same:
            return
        log.warning(
            "conflicting_object",
            study=known.study_id if known else None,
            instance=known.id if known else None,
            association=sender.association_id,
            peer=sender.ae_title,
        )
        raise ConflictingObjectError

    def _same(self, known: Instance, incoming: Incoming) -> bool:
        with self.store.path(known.digest).open("rb") as old, incoming.reopened() as new:
            return same_content(old, new)

    def _refuse(self, sender: Sender, error: Exception) -> Reply:
        status = next(status for kind, status in STATUS_OF if isinstance(error, kind))
        reason = error.message if isinstance(error, TriageError) else _own_trouble(error)
        log.warning(
            "object_refused",
            status=f"{status:04X}",
            reason=reason,
            error=type(error).__name__,
            association=sender.association_id,
            peer=sender.ae_title,
        )
        return Reply(status, reason[:64])


def _own_trouble(error: Exception) -> str:
    """Say what failed without the parameters that a database error carries."""
    return "storage failed" if isinstance(error, OSError) else "ledger unavailable"


def _received(sender: Sender, header: Header, transfer_syntax_uid: str, digest: str, size: int) -> ReceivedInstance:
    reason = not_scored_reason(header.sop_class_uid)
    return ReceivedInstance(
        study_instance_uid=header.study_instance_uid,
        series_instance_uid=header.series_instance_uid,
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        modality=modality_of(header.sop_class_uid, header.modality),
        digest=digest,
        size=size,
        calling_ae_title=sender.ae_title,
        calling_address=sender.address,
        association_id=sender.association_id,
        scorable=not reason,
        not_scored=reason,
        patient_name=header.patient_name,
        patient_id=header.patient_id,
        accession_number=header.accession_number,
        study_date=header.study_date,
        study_description=header.study_description,
    )
