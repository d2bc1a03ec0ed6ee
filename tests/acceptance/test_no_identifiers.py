"""Nothing that crosses the broker, and no log line, says who the patient is."""

import base64
import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from pydicom import dcmread

from tests.support.node import Node, running_node
from tests.support.redis import running_redis
from tests.support.studies import StudyFiles, chest_studies, dcmsend, head_studies

pytestmark = [pytest.mark.redis, pytest.mark.dcmtk, pytest.mark.timeout(300)]


@contextmanager
def captured(url: str) -> Iterator[list[str]]:
    """Record every command that reaches the broker while the block runs."""
    commands: list[str] = []
    client = redis.Redis.from_url(url, socket_timeout=None)  # a node that starts is silent for a while
    started = threading.Event()
    over = threading.Event()

    def listen() -> None:
        with client.monitor() as monitor:
            started.set()
            for command in monitor.listen():
                commands.append(command["command"])
                if over.is_set():
                    return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield commands
    finally:
        over.set()
        redis.Redis.from_url(url).ping()
        thread.join(timeout=10)


def unpacked(command: str) -> Iterator[bytes]:
    """Yield a command's own bytes and, of a Celery message, its body without base64 and compression."""
    yield command.encode()
    start = command.find('{"body"')
    if start < 0:
        return
    # MONITOR escapes quotes and backslashes; the envelope is JSON.
    envelope = json.JSONDecoder().raw_decode(command[start:])[0]
    body = base64.b64decode(envelope["body"])
    yield body
    if envelope["headers"].get("compression"):
        yield zlib.decompress(body)


def identifiers(study: StudyFiles) -> set[bytes]:
    """Return what would tell the study or its patient: UIDs, names, identifiers, dates."""
    found: set[bytes] = set()
    for path in study.files:
        ds = dcmread(path, stop_before_pixels=True)
        for keyword in (
            "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "PatientName", "AccessionNumber",
            "PatientBirthDate", "StudyDate", "StudyID", "PatientAge",
        ):  # fmt: skip
            text = str(ds.get(keyword, ""))
            # Four or five digits occur by chance among the digits of a score and of a job number.
            found |= {part.encode() for part in (text, *text.split("^")) if len(part) >= 6}
    return found


def misnamed(study: StudyFiles, folder: Path) -> StudyFiles:
    """Return a copy of a study with attributes of which libraries warn, quoting them."""
    copies = []
    for path in study.files:
        ds = dcmread(path)
        ds.PatientName, ds.PatientAge, ds.StudyID = "Unkomponiert", "Neunzigjahre", "Nummer-ohne-Ende-und-Sinn"
        copies.append(folder / f"{ds.SOPInstanceUID}.dcm")
        ds.save_as(copies[-1])
    return replace(study, files=tuple(copies))


def test_no_message_and_no_log_line_names_the_study_or_the_patient(tmp_path: Path):
    studies = [*chest_studies(1), *(misnamed(study, tmp_path) for study in [chest_studies(2)[1], *head_studies(1)])]
    with running_redis(tmp_path / "redis") as url, captured(url) as commands:
        node = Node(tmp_path / "node", sections={"broker": {"url": url}})
        with running_node(node):
            for study in studies:
                dcmsend(study.files, node.port)
            node.wait_for(len(studies), ("reported",))
    payloads = [payload for command in list(commands) for payload in unpacked(command)]
    scores = [command for command in commands if "score.run" in command and command.startswith("LPUSH")]
    assert len(scores) == len(studies)  # the capture saw the messages, images and all
    assert max(map(len, payloads)) > 1000
    logged = node.log.read_bytes() + "\n".join(node.lines).encode()
    assert logged.count(b"association_released") >= len(studies)
    for study in studies:
        for identifier in identifiers(study):
            assert not any(identifier in payload for payload in payloads), identifier
            assert identifier not in logged
