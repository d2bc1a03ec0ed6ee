"""What the ledger hands out and takes in: frozen records. Times are seconds since the epoch, UTC."""

from dataclasses import dataclass
from enum import StrEnum

from triage.messages import Priority, Score, Stage

# Series of these modalities hold no images. They are left out wherever images are counted: reports (ours among
# them), key object selections and presentation states come and go at a PACS without the examination changing.
NON_IMAGE_MODALITIES = frozenset({"SR", "KO", "PR"})

LIFTED = (Priority.HIGH, Priority.MEDIUM)
"""What a study can be lifted by, the highest first."""


class State(StrEnum):
    """The states of a study revision."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    PREPARING = "preparing"
    SCORING = "scoring"
    SCORED = "scored"
    REPORTED = "reported"
    DELIVERED = "delivered"
    UNSUITABLE = "unsuitable"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    DISCARDED = "discarded"


class JobState(StrEnum):
    """The states of a job."""

    READY = "ready"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"


class OutboxState(StrEnum):
    """The states of an object on its way to one destination."""

    PENDING = "pending"
    SENT = "sent"
    COMMITTED = "committed"
    DEAD = "dead"
    DISCARDED = "discarded"


class Recorded(StrEnum):
    """What `Ledger.record_instance` did."""

    NEW = "new"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, kw_only=True)
class ReceivedInstance:
    """An object whose bytes are durable in the store and that the ledger shall know.

    Attributes
    ----------
    digest : str
        SHA-256 of the data set's bytes, hexadecimal: its name in the store.
    size : int
        Bytes.
    association_id : str
        Names the association for good (no other association ever has the same), for `association_released`.
    scorable : bool
        Whether a flow could look at it; only such an object opens a new revision when it comes late.
    not_scored : str
        Why it isn't scorable, for a radiographer; empty if it is.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    digest: str
    size: int
    calling_ae_title: str
    calling_address: str
    association_id: str
    scorable: bool
    not_scored: str = ""
    patient_name: str = ""
    patient_id: str = ""
    accession_number: str = ""
    study_date: str = ""
    study_description: str = ""


@dataclass(frozen=True, kw_only=True)
class Study:
    """One revision of a study.

    Attributes
    ----------
    reason : str
        Why it is unsuitable, failed, superseded or discarded; otherwise empty.
    arrived_at : float
        When the first object of the *first* revision came: what the waiting time counts from.
    first_object_at, last_object_at : float
        First and last object of *this* revision.
    released_at : float or None
        When an association that brought objects of this revision was released last.
    completed_by : str
        The signal that completed it: ``"quiet"``, ``"quiet+release"``, ``"count"`` or ``"cap"``.
    modality : str
        Modality (0008,0060), the most telling one of the study's objects.
    manifest_hash : str
        SHA-256 over the sorted (SOP Instance UID, digest) of all objects at completion; empty before.
    instance_count, image_count : int
        Objects held of the study up to this revision: all, and those of modalities that hold images.
    priority, percentile : Priority or None, float or None
        Of this revision's score; those of the revision before it while this one has none, can't have any, or would let
        the study sink.
    notes : str
        Which images were scored, and what was done to them.
    current : bool
        Whether this is the study's latest revision.
    """

    id: int
    study_instance_uid: str
    revision: int
    state: State
    reason: str
    arrived_at: float
    first_object_at: float
    last_object_at: float
    released_at: float | None
    completed_by: str
    modality: str
    patient_name: str
    patient_id: str
    accession_number: str
    study_date: str
    study_description: str
    manifest_hash: str
    instance_count: int
    image_count: int
    priority: Priority | None
    percentile: float | None
    log_posterior: float | None
    score: Score | None
    result_sop_instance_uid: str
    stat: bool
    claimed_by: str
    read_at: float | None
    reported_at: float | None
    notes: str
    current: bool


@dataclass(frozen=True, kw_only=True)
class Instance:
    """An object held; `study_id` is the first revision that holds it."""

    id: int
    study_id: int
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    digest: str
    size: int
    received_at: float
    calling_ae_title: str
    calling_address: str
    association_id: str
    scorable: bool
    not_scored: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """The work of one stage on one study revision.

    Attributes
    ----------
    fence : int
        Rises with every lease; a result that carries an older one is stale.
    attempts : int
        Leases so far, since it was created or requeued.
    leased_at, lease_until : float or None
        When the lease began and when it ends; None unless leased.
    not_before : float
        Isn't leased before this time.
    """

    id: int
    study_id: int
    stage: Stage
    state: JobState
    fence: int
    attempts: int
    leased_at: float | None
    lease_until: float | None
    not_before: float
    bundle_digest: str
    last_error: str


@dataclass(frozen=True)
class OutboxNew:
    """An object to be delivered; `digest` is its name in the store."""

    destination: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class OutboxItem:
    """An object on its way to one destination.

    Attributes
    ----------
    attempts : int
        Sendings tried, since it was queued or requeued.
    transaction_uid : str
        Of the storage commitment request that covers it; empty if none was made.
    proof : str
        What showed that the destination holds it: ``"storage commitment"``, ``"C-FIND"`` or ``"C-STORE success
        only"``; empty before.
    """

    id: int
    study_id: int
    destination: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    digest: str
    state: OutboxState
    attempts: int
    next_try_at: float
    last_status: str
    last_error: str
    sent_at: float | None
    transaction_uid: str
    committed_at: float | None
    proof: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """Who moved a study revision from which state to which, when and why. Equal states: a note, not a move."""

    id: int
    study_id: int
    at: float
    actor: str
    from_state: str
    to_state: str
    reason: str
