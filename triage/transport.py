"""Celery and its broker: the doorbell. The ledger is the queue; losing everything in here loses nothing.

No message carries a UID, a name, an identifier or a date: a job is known by its number and its fence.
"""

import hashlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from triage.config import Configuration
from triage.errors import BrokerError
from triage.messages import LEASE_S, Stage

log = structlog.get_logger(__name__)

PREPARE_TASK = "prepare.run"
SCORE_TASK = "score.run"
SCORED_TASK = "report.scored"
REFUSED_TASK = "report.refused"
MAPPED_TASK = "report.mapped"
REPORT_TASK = "report.build"

# A Unix socket's path is limited to 107 bytes by the kernel (unix(7)).
_SOCKET_PATH_LIMIT = 100
_BEAT_S = 3.0
_BEAT_TTL_S = 12
# Redelivery by the broker is only the second line: the ledger's leases are the first. An hour is longer
# than any job's lease, so the two never race.
_VISIBILITY_TIMEOUT_S = 3600
# A broker that accepts and never answers: kombu waits for ever unless told otherwise. Its blocking pops ask for a
# second's patience, and get their answer within it.
_CONNECT_S = 3
_ANSWER_S = 5


def socket_path(config: Configuration) -> Path:
    """Return the embedded broker's Unix socket; the same for every process with the same data folder."""
    path = config.data_dir.resolve() / "broker" / "valkey.sock"
    if _is_short(path):
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    elsewhere = Path(f"triage-node-{os.getuid()}-{digest}") / "valkey.sock"
    # TMPDIR may be as long as the data folder.
    places = (Path(folder) / elsewhere for folder in (tempfile.gettempdir(), "/tmp"))  # noqa: S108 - mode 0700, owner checked
    return next(filter(_is_short, places))


def _is_short(path: Path) -> bool:
    return len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT


def forget_socket(config: Configuration) -> None:
    """Remove the embedded broker's socket, and its folder where that isn't in the data folder, at a clean stop."""
    path = socket_path(config)
    with suppress(OSError):
        path.unlink(missing_ok=True)
        if not path.is_relative_to(config.data_dir.resolve()):
            path.parent.rmdir()


def broker_url(config: Configuration) -> str:
    """Return the URL that kombu connects to."""
    if config.broker.url == "embedded":
        return f"redis+socket://{socket_path(config)}"
    return config.broker.url


def connect(config: Configuration) -> redis.Redis:
    """Return a client of the broker with short timeouts; it connects at first use."""
    url = f"unix://{socket_path(config)}" if config.broker.url == "embedded" else config.broker.url
    return redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=_CONNECT_S)


def make_app(config: Configuration) -> Celery:
    """Return the Celery application that every role shares: JSON or msgpack only, late acknowledgement, no prefetch."""
    app = Celery("triage-node", broker=broker_url(config), set_as_current=False)
    app.conf.update(
        accept_content=["json", "msgpack"],
        task_serializer="msgpack",
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_default_queue="prepare",
        task_routes={
            PREPARE_TASK: {"queue": "prepare"},
            SCORE_TASK: {"queue": "score"},
            SCORED_TASK: {"queue": "report"},
            REFUSED_TASK: {"queue": "report"},
            MAPPED_TASK: {"queue": "report"},
            REPORT_TASK: {"queue": "report"},
        },
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_TIMEOUT_S,
            "socket_keepalive": True,
            "socket_connect_timeout": _CONNECT_S,
            "socket_timeout": _ANSWER_S,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # No events, no remote control: nothing but our own messages crosses the broker.
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        enable_utc=True,
    )
    return app


def send(app: Celery, task: str, *args: object) -> None:
    """Put one message on its task's queue.

    Raises
    ------
    BrokerError
        If the broker cannot be reached, or doesn't answer, within some ten seconds.
    """
    try:
        app.send_task(
            task,
            args=args,
            compression="zlib",
            # Celery would put a readable copy of the arguments into the headers: not here.
            argsrepr="()",
            kwargsrepr="{}",
            retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_step": 0.3},
        )
    except (OperationalError, redis.RedisError) as exc:
        raise BrokerError(
            f"the broker did not take a message: {type(exc).__name__}", remedy="is it running? see broker.url"
        ) from exc


def queue_length(client: redis.Redis, stage: Stage) -> int:
    """Return how many messages wait on a stage's queue; raises ``redis.RedisError`` when it cannot be asked."""
    return int(client.llen(stage.value))


def busy_key(stage: Stage, job_id: int) -> str:
    """Return the broker key that lives as long as a worker is at a job."""
    return f"triage:busy:{stage.value}:{job_id}"


def answered_key(job_id: int, fence: int) -> str:
    """Return the broker key that says that what a score worker found under a lease was sent to the report queue."""
    return f"triage:answered:{job_id}:{fence}"


class Pulse:
    """Tells the broker every few seconds that a role lives and which job it is at.

    A key dies with its writer (time to live), so silence is the sign of death.
    """

    def __init__(self, config: Configuration, role: str) -> None:
        self._client = connect(config)
        self._alive_key = f"triage:alive:{role}:{socket.gethostname()}:{os.getpid()}"
        self._job_key: str | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"pulse-{role}", daemon=True)

    def start(self) -> None:
        """Begin; the first beat is sent at once."""
        self._thread.start()

    def stop(self) -> None:
        """End and take the keys away."""
        self._stop.set()
        self._thread.join(timeout=5)
        with suppress(redis.RedisError):
            self._client.delete(self._alive_key)

    @contextmanager
    def busy(self, stage: Stage, job_id: int) -> Iterator[None]:
        """Show this job as being worked on, for as long as the block runs."""
        key = busy_key(stage, job_id)
        with self._lock:
            self._job_key = key
        self._beat()
        try:
            yield
        finally:
            with self._lock:
                self._job_key = None
            with suppress(redis.RedisError):
                self._client.delete(key)

    def answered(self, job_id: int, fence: int) -> None:
        """Show that a score job has its answer, which may wait long on the report queue: for as long as its lease."""
        with suppress(redis.RedisError):
            self._client.set(answered_key(job_id, fence), 1, ex=round(LEASE_S))

    def _run(self) -> None:
        while True:
            self._beat()
            if self._stop.wait(_BEAT_S):
                return

    def _beat(self) -> None:
        with self._lock:
            keys = [self._alive_key] + ([self._job_key] if self._job_key else [])
        try:
            for key in keys:
                self._client.set(key, 1, ex=_BEAT_TTL_S)
        except redis.RedisError as exc:
            log.warning("pulse_not_heard", error=type(exc).__name__)


def alive(client: redis.Redis, role: str) -> int:
    """Return how many processes of a role have beaten lately; those of this machine must also still run."""
    here = socket.gethostname()
    count = 0
    for key in client.scan_iter(match=f"triage:alive:{role}:*", count=1000):
        host, _, pid = key.decode().removeprefix(f"triage:alive:{role}:").rpartition(":")
        if host != here or _runs(int(pid)):
            count += 1
    return count


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
