"""What the REST interface says, as pydantic models; OpenAPI is made from them.

Identifiers and names are as DICOM has them (``Doe^Jane``, ``20260131``); only the page makes them readable.
"""

from datetime import UTC, datetime
from math import isfinite
from typing import Self

from pydantic import BaseModel, Field

from triage.config.schema import Rank
from triage.ledger import Event, Job, Ledger, OutboxItem, Study
from triage.messages import Priority
from triage.rank import is_overdue, waited_s


def moment(seconds: float) -> datetime:
    """Return a ledger time (seconds since the epoch) as a UTC date and time."""
    return datetime.fromtimestamp(seconds, UTC)


def _moment_or_none(seconds: float | None) -> datetime | None:
    return None if seconds is None else moment(seconds)


def model_of(study: Study) -> str | None:
    """Return name, version and the digest's first 12 digits of the bundle that scored the study; none if unscored."""
    if study.score is None or not study.score.bundle_name:
        return None
    score = study.score
    return f"{score.bundle_name} {score.bundle_version} ({score.bundle_digest[:12]})"


class WorklistItem(BaseModel):
    """One study of the worklist."""

    study_instance_uid: str
    patient_name: str
    patient_id: str
    accession_number: str
    modality: str
    study_date: str = Field(description="DICOM DA, YYYYMMDD")
    study_description: str
    arrived_at: datetime = Field(description="when the study's first object came, UTC")
    state: str
    reason: str = Field(description="why it is unsuitable, failed, superseded or discarded; empty otherwise")
    notes: str = Field(description="which images were scored, and what was done to them")
    priority: Priority | None = Field(
        description="suggested by the model, perhaps by an earlier score; null: no score. LOW is not 'normal'"
    )
    percentile: float | None = Field(
        description="abnormality percentile, 0 to 100, that the priority is from: perhaps an earlier score's"
    )
    percentile_now: float | None = Field(description="of this revision's own score, by `model`; null: it has none")
    log_posterior: float | None = Field(description="log p(x|normal) - log p(x), nats")
    percentiles: dict[str, float] = Field(
        description="abnormality percentile by estimator: flows, set_classifier, local_classifier, …"
    )
    p_value: float | None = Field(description="conformal: how usual such a score is among reported normals")
    calibrated: float | None = Field(description="probability of an abnormality, where labels were calibrated on")
    prevalence: float | None = Field(description="the share of abnormal studies that it takes for granted")
    model: str | None = Field(description="bundle that scored it: name, version, start of the digest")
    compute: str | None = Field(description="device and precision that scored it; a preview says so")
    calibration: str | None = Field(description="reference set that the percentile is against")
    waited_s: float = Field(description="seconds since arrival, or until it was read")
    overdue: bool = Field(description="waited longer than rank.max_wait_s")
    result_sop_instance_uid: str | None
    stat: bool = Field(description="a person asked for it to be read first")
    claimed_by: str | None
    read_at: datetime | None
    revision: int

    @classmethod
    def of(cls, study: Study, *, now: float, rank: Rank) -> Self:
        """Describe a study as of `now` (seconds since the epoch)."""
        score = study.score
        # Numbers that must not be ranked by (and may not even be finite) are not shown.
        ranked = score if score is not None and not score.not_scored else None
        return cls(
            study_instance_uid=study.study_instance_uid,
            patient_name=study.patient_name,
            patient_id=study.patient_id,
            accession_number=study.accession_number,
            modality=study.modality,
            study_date=study.study_date,
            study_description=study.study_description,
            arrived_at=moment(study.arrived_at),
            state=study.state.value,
            reason=study.reason,
            notes=study.notes,
            priority=study.priority,
            percentile=study.percentile,
            percentile_now=ranked.percentile if ranked and isfinite(ranked.percentile) else None,
            log_posterior=study.log_posterior,
            percentiles=ranked.percentiles if ranked else {},
            p_value=ranked.p_value if ranked else None,
            calibrated=ranked.calibrated if ranked else None,
            prevalence=ranked.prevalence if ranked else None,
            model=model_of(study),
            compute=(score.compute or None) if score else None,
            calibration=(score.calibration or None) if score else None,
            waited_s=round(waited_s(study, now), 3),
            overdue=is_overdue(study, now, rank),
            result_sop_instance_uid=study.result_sop_instance_uid or None,
            stat=study.stat,
            claimed_by=study.claimed_by or None,
            read_at=_moment_or_none(study.read_at),
            revision=study.revision,
        )


class RankedItem(WorklistItem):
    """A study with its place in the list asked for."""

    rank: int = Field(description="place in this list (with its filters), from 1")

    @classmethod
    def ranked(cls, study: Study, *, now: float, rank: Rank, place: int) -> Self:
        """Describe a study as of `now` (seconds since the epoch) at its place in the list."""
        return cls(**dict(WorklistItem.of(study, now=now, rank=rank)), rank=place)


class WorklistPage(BaseModel):
    """A part of the worklist, in the order of the rank policy."""

    items: list[RankedItem]
    next_cursor: str | None = Field(description="give it as `cursor` to get the next part; null at the end")


class EventItem(BaseModel):
    """One step of a study."""

    at: datetime
    actor: str
    from_state: str
    to_state: str
    reason: str

    @classmethod
    def of(cls, event: Event) -> Self:
        """Describe a ledger event."""
        return cls(
            at=moment(event.at),
            actor=event.actor,
            from_state=event.from_state,
            to_state=event.to_state,
            reason=event.reason,
        )


class JobItem(BaseModel):
    """One piece of work on a study."""

    job: int
    stage: str
    state: str
    attempts: int
    fence: int
    lease_until: datetime | None
    bundle_digest: str
    last_error: str

    @classmethod
    def of(cls, job: Job) -> Self:
        """Describe a ledger job."""
        return cls(
            job=job.id,
            stage=job.stage,
            state=job.state,
            attempts=job.attempts,
            fence=job.fence,
            lease_until=_moment_or_none(job.lease_until),
            bundle_digest=job.bundle_digest,
            last_error=job.last_error,
        )


class DeliveryItem(BaseModel):
    """One result on its way to one destination."""

    outbox: int
    destination: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    state: str
    attempts: int
    next_try_at: datetime
    last_status: str
    last_error: str
    sent_at: datetime | None
    committed_at: datetime | None
    proof: str

    @classmethod
    def of(cls, item: OutboxItem) -> Self:
        """Describe a row of the outbox."""
        return cls(
            outbox=item.id,
            destination=item.destination,
            kind=item.kind,
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            state=item.state,
            attempts=item.attempts,
            next_try_at=moment(item.next_try_at),
            last_status=item.last_status,
            last_error=item.last_error,
            sent_at=_moment_or_none(item.sent_at),
            committed_at=_moment_or_none(item.committed_at),
            proof=item.proof,
        )


class StudyDetail(WorklistItem):
    """A study with all that happened to it."""

    completed_by: str = Field(description="the signal that told that the study was complete")
    instances: int
    events: list[EventItem]
    jobs: list[JobItem]
    outbox: list[DeliveryItem]


def study_detail(ledger: Ledger, study: Study, *, now: float, rank: Rank) -> StudyDetail:
    """Gather a study and all that happened to it, as of `now` (seconds since the epoch)."""
    return StudyDetail(
        **dict(WorklistItem.of(study, now=now, rank=rank)),
        completed_by=study.completed_by,
        instances=study.instance_count,
        events=[EventItem.of(event) for event in ledger.events(study.id)],
        jobs=[JobItem.of(job) for job in ledger.jobs_of(study.id)],
        outbox=[DeliveryItem.of(row) for row in ledger.outbox_of(study.id)],
    )


class Part(BaseModel):
    """Whether one part of the node works."""

    ok: bool
    detail: str


class ReadinessAnswer(BaseModel):
    """Whether the node can do its work, part by part."""

    ready: bool
    parts: dict[str, Part]


class Alive(BaseModel):
    """The web process lives."""

    status: str = "alive"
