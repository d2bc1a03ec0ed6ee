"""Ledgers on both databases, objects to record in them, and the road of a study through its states."""

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from triage.config.schema import Configuration
from triage.config.schema import Ledger as LedgerSection
from triage.ledger import Job, Ledger, OutboxNew, ReceivedInstance, State, Study, open_ledger
from triage.messages import Priority, Score, Stage

DIGEST = hashlib.sha256(b"bundle").hexdigest()
LEASE_S = 60.0
SR = "1.2.840.10008.5.1.4.1.1.88.34"
_numbers = count(1)


@dataclass
class Clock:
    """A clock that goes only when told to; seconds since the epoch."""

    now: float = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def ledger_config(url: str, folder: Path) -> Configuration:
    """A configuration with its ledger at `url`."""
    return Configuration(data_dir=folder, ledger=LedgerSection(url=url))


@contextmanager
def ledger_at_broker(folder: Path, url: str) -> Iterator[tuple[Ledger, Configuration, Clock]]:
    """Open a ledger on SQLite whose configuration names a broker; its clock goes only when told to."""
    clock, config = Clock(), ledger_config(f"sqlite:///{folder / 'ledger.sqlite3'}", folder)
    config = config.model_copy(update={"broker": config.broker.model_copy(update={"url": url})})
    with closing(open_ledger(config, clock)) as ledger:
        yield ledger, config, clock


def an_object(
    study_instance_uid: str,
    number: int = 1,
    *,
    modality: str = "CR",
    digest: str = "",
    scorable: bool = True,
    not_scored: str = "",
    association_id: str = "association-1",
    patient_name: str = "Doe^Jane",
) -> ReceivedInstance:
    """An object of a study; the same number is the same SOP Instance UID, and the same bytes unless told otherwise."""
    sop_instance_uid = f"{study_instance_uid}.1.{number}"
    return ReceivedInstance(
        study_instance_uid=study_instance_uid,
        series_instance_uid=f"{study_instance_uid}.1",
        sop_instance_uid=sop_instance_uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality=modality,
        digest=digest or hashlib.sha256(sop_instance_uid.encode()).hexdigest(),
        size=1000,
        calling_ae_title="MODALITY1",
        calling_address="127.0.0.1",
        association_id=association_id,
        scorable=scorable,
        not_scored=not_scored,
        patient_name=patient_name,
        patient_id="4711",
    )


def a_report(study: Study, destination: str = "pacs") -> OutboxNew:
    """The report of a study revision for a destination."""
    uid = f"2.25.{study.id}"
    return OutboxNew(destination, "sr", SR, uid, hashlib.sha256(uid.encode()).hexdigest())


def a_score(percentile: float = 97.0, not_scored: str = "") -> Score:
    """A score."""
    return Score(
        log_prob_normal=-3000.5,
        log_prob_mixture=-2900.25,
        log_posterior=-100.25,
        percentile=percentile,
        not_scored=not_scored,
        bundle_digest=DIGEST,
    )


def snapshot(ledger: Ledger, study: Study) -> object:
    """Everything that a stale result must leave as it is."""
    return (
        ledger.study_by_id(study.id),
        ledger.jobs_of(study.id),
        ledger.outbox_of(study.id),
        ledger.sources_of(study.id),
        ledger.events(study.id),
    )


def receive(ledger: Ledger, uid: str = "", **kwargs: object) -> Study:
    """A study of one object, still receiving."""
    uid = uid or f"1.2.3.{next(_numbers)}"
    ledger.record_instance(an_object(uid, **kwargs))  # type: ignore[arg-type]
    return ledger.study(uid)


def lease(ledger: Ledger, stage: Stage, study: Study) -> Job:
    """Lease the study's job of a stage; there must be no other."""
    (job,) = ledger.claim_jobs(stage, 1, LEASE_S)
    assert job.study_id == study.id
    return job


def to_complete(ledger: Ledger, study: Study) -> Study:
    """receiving → complete."""
    assert ledger.complete_study(study.id, "quiet")
    return ledger.study_by_id(study.id)


def to_preparing(ledger: Ledger, study: Study) -> Job:
    """receiving → preparing; returns the PREPARE job."""
    to_complete(ledger, study)
    job = lease(ledger, Stage.PREPARE, study)
    assert ledger.start(job.id, job.fence, LEASE_S) is not None
    return job


def to_scoring(ledger: Ledger, study: Study) -> Job:
    """receiving → scoring; returns the leased SCORE job."""
    job = to_preparing(ledger, study)
    assert ledger.prepared(job.id, job.fence, DIGEST, [f"{study.study_instance_uid}.1.1"]) is not None
    return lease(ledger, Stage.SCORE, study)


def to_scored(ledger: Ledger, study: Study, priority: Priority | None = Priority.HIGH, percentile: float = 97.0) -> Job:
    """receiving → scored; returns the leased REPORT job."""
    job = to_scoring(ledger, study)
    assert ledger.scored(job.id, job.fence, a_score(percentile), priority) is not None
    return lease(ledger, Stage.REPORT, study)


def to_reported(ledger: Ledger, study: Study, *destinations: str) -> Study:
    """receiving → reported."""
    job = to_scored(ledger, study)
    items = [a_report(study, destination) for destination in destinations or ("pacs",)]
    assert ledger.reported(job.id, job.fence, items)
    return ledger.study_by_id(study.id)


def to_state(ledger: Ledger, study: Study, state: State) -> Study:
    """Bring a study that is receiving to any other state, on the way that a real one takes."""
    match state:
        case State.COMPLETE:
            to_complete(ledger, study)
        case State.PREPARING:
            to_preparing(ledger, study)
        case State.SCORING:
            to_scoring(ledger, study)
        case State.SCORED:
            to_scored(ledger, study)
        case State.REPORTED:
            to_reported(ledger, study)
        case State.DELIVERED:
            to_reported(ledger, study)
            (item,) = ledger.outbox_of(study.id)
            ledger.outbox_sent(item.id, "0000", "2.25.9")
            ledger.outbox_committed(item.id, "commitment")
        case State.UNSUITABLE:
            job = to_preparing(ledger, study)
            ledger.unsuitable(job.id, job.fence, "lateral view")
        case State.FAILED:
            job = to_preparing(ledger, study)
            ledger.fail(job.id, job.fence, "cannot be decoded")
        case State.SUPERSEDED:
            to_complete(ledger, study)
            ledger.record_instance(an_object(study.study_instance_uid, 2))
        case State.DISCARDED:
            ledger.discard(study.study_instance_uid, "operator", "sent by mistake")
    reached = ledger.study_by_id(study.id)
    assert reached.state is state
    return reached
