"""A web server with a real ledger on a free port, and studies in any state made through the ledger's own methods."""

import hashlib
import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from triage.config.schema import Configuration, Destination, Rank, Web
from triage.ledger import Ledger, OutboxNew, ReceivedInstance, Study, open_ledger
from triage.messages import Score, Stage
from triage.probes import Probe
from triage.rank import suggested_priority
from triage.web.app import create_app
from triage.web.auth import ensure_token
from triage.web.events import ChangeFeed
from triage.web.server import serve

DIGEST = hashlib.sha256(b"bundle").hexdigest()
NOW = 1_790_000_000.0


@dataclass
class Clock:
    """A clock that goes only when told to; seconds since the epoch."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


def make_config(folder: Path, *, rank: Rank | None = None, web: Web | None = None) -> Configuration:
    """A configuration with its data in `folder` and one destination."""
    pacs = Destination(name="pacs", host="127.0.0.1", port=104, ae_title="PACS")
    return Configuration(data_dir=folder, destination=(pacs,), rank=rank or Rank(), web=web or Web())


@dataclass
class Ward:
    """Puts studies into a ledger, each through the states that a real one goes through."""

    config: Configuration
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.ledger: Ledger = open_ledger(self.config, clock=self.clock)
        self._count = 0
        self._notes: list[str] = []

    def receive(
        self, *, ago_s: float = 0.0, modality: str = "CR", name: str = "Doe^Jane", uid: str = "", number: str = ""
    ) -> Study:
        """A study whose first object arrived `ago_s` seconds ago, still receiving."""
        self._count += 1
        uid = uid or f"1.2.826.0.1.{self._count}"
        now, self.clock.now = self.clock.now, self.clock.now - ago_s
        self.ledger.record_instance(
            ReceivedInstance(
                study_instance_uid=uid,
                series_instance_uid=f"{uid}.1",
                sop_instance_uid=f"{uid}.1.{self._count}",
                sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                modality=modality,
                digest=hashlib.sha256(f"{uid}{self._count}".encode()).hexdigest(),
                size=1000,
                calling_ae_title="MODALITY1",
                calling_address="127.0.0.1",
                association_id=f"a{self._count}",
                scorable=True,
                patient_name=name,
                patient_id=number or f"P{self._count:04d}",
                accession_number=number or f"A{self._count:06d}",
                study_date="20260921",
            )
        )
        self.clock.now = now
        return self.ledger.study(uid)

    def unsuitable(self, reason: str, **how: object) -> Study:
        """A study that the gate refused."""
        study, job, fence = self._preparing(**how)
        self.ledger.unsuitable(job, fence, reason)
        return self.ledger.study_by_id(study.id)

    def failed(self, error: str, **how: object) -> Study:
        """A study whose work failed for good."""
        study, job, fence = self._preparing(**how)
        self.ledger.fail(job, fence, error)
        return self.ledger.study_by_id(study.id)

    def scored(self, percentile: float, **how: object) -> Study:
        """A study with a score, not reported yet."""
        return self._scored(percentile, {}, **how)

    def noted(self, notes: str, **how: object) -> Study:
        """A scored study with something to be said about its images."""
        self._notes = [notes]
        study = self.scored(50.0, **how)
        self._notes = []
        return study

    def exploded(self, reason: str, **how: object) -> Study:
        """A study whose score must not be ranked by, with numbers that aren't any."""
        broken = {"log_posterior": math.nan, "combined": math.inf, "percentiles": {"flows": math.nan}}
        return self._scored(0.0, {"not_scored": reason, "calibrated": math.nan, **broken}, **how)

    def _scored(self, percentile: float, changes: dict[str, Any], **how: object) -> Study:
        study, job, fence = self._preparing(**how)
        self.ledger.prepared(job, fence, DIGEST, [f"{study.study_instance_uid}.1.{self._count}"], self._notes)
        (lease,) = self.ledger.claim_jobs(Stage.SCORE, 1, 60)
        score = Score(
            log_prob_normal=-5000.0,
            log_prob_mixture=-4990.0,
            log_posterior=-10.0,
            percentile=percentile,
            bundle_name="cxr-starter",
            bundle_version="1.0",
            bundle_digest=DIGEST,
            calibration="cxr-starter reference, 400 images",
            compute="cpu float32",
        )
        priority = None if changes else suggested_priority(percentile, self.config.rank)
        self.ledger.scored(lease.id, lease.fence, replace(score, **changes), priority)
        return self.ledger.study_by_id(study.id)

    def reported(self, percentile: float, **how: object) -> Study:
        """A study with its report in the outbox."""
        study = self.scored(percentile, **how)
        (lease,) = self.ledger.claim_jobs(Stage.REPORT, 1, 60)
        result = f"2.25.{study.id}"
        self.ledger.reported(
            lease.id, lease.fence, [OutboxNew("pacs", "sr", "1.2.840.10008.5.1.4.1.1.88.34", result, DIGEST)]
        )
        return self.ledger.study_by_id(study.id)

    def _preparing(self, **how: object) -> tuple[Study, int, int]:
        study = self.receive(**how)  # type: ignore[arg-type]
        self.ledger.complete_study(study.id, "quiet")
        (lease,) = self.ledger.claim_jobs(Stage.PREPARE, 1, 60)
        self.ledger.start(lease.id, lease.fence, 60)
        return study, lease.id, lease.fence


@dataclass(frozen=True)
class RunningServer:
    """A server that answers at `url`."""

    url: str
    token: str
    app: FastAPI
    stop: threading.Event
    thread: threading.Thread

    def client(self, **options: object) -> httpx.Client:
        """A client that knows nothing yet."""
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False, **options)  # type: ignore[arg-type]

    def api(self) -> httpx.Client:
        """A client with the token."""
        return self.client(headers={"Authorization": f"Bearer {self.token}"})

    @contextmanager
    def browser(self, name: str = "Dr Roe") -> Iterator[httpx.Client]:
        """A client that logged in by the form, and sends Origin as browsers do."""
        with self.client(headers={"Origin": self.url}) as client:
            answer = client.post("/login", data={"token": self.token, "name": name})
            if answer.status_code != 303:
                raise RuntimeError(f"login failed: {answer.status_code}")
            yield client


@contextmanager
def running_server(ward: Ward, probes: dict[str, Probe] | None = None) -> Iterator[RunningServer]:
    """Serve a ward's worklist on a free port of this machine."""
    feed = ChangeFeed(ward.ledger, poll_s=0.05, heartbeat_s=0.2)
    app = create_app(ward.config, ward.ledger, probes or {}, feed=feed, clock=ward.clock)
    listening = socket.create_server(("127.0.0.1", 0))
    host, port = listening.getsockname()[:2]
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(app, listening, stop), daemon=True)
    thread.start()
    try:
        yield RunningServer(f"http://{host}:{port}", ensure_token(ward.config), app, stop, thread)
    finally:
        stop.set()
        thread.join(timeout=15)
