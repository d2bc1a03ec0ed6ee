"""Log lines of real processes: an exception is named by its type and place, and nothing that it quotes gets out."""

import json
import os
import pty
import subprocess
import sys

import pytest

PROGRAM = """
import structlog
from triage.logs import configure_logging

configure_logging()
log = structlog.get_logger("test")

def break_down():
    raise ValueError("Doe^Jane")

try:
    break_down()
except ValueError as exc:
    log.exception("first", job=1)
    log.error("second", exc_info=exc)
    log.error("third", error="in our words", exc_info=exc)
log.exception("fourth")
"""


def test_an_exception_is_named_by_type_and_place_in_json() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    first, second, third, fourth = map(json.loads, ended.stderr.splitlines())
    assert (first["event"], first["job"], first["error"]) == ("first", 1, "ValueError")
    assert first["where"] == second["where"] == third["where"] == "<string>:9"
    assert (second["error"], third["error"]) == ("ValueError", "in our words")
    assert "error" not in fourth
    assert "exc_info" not in ended.stderr
    assert "Doe" not in ended.stderr


def test_on_a_terminal_neither_message_nor_frames_are_shown() -> None:
    ours, its = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=its)
        os.close(its)
        shown = b""
        try:
            while chunk := terminal.read(4096):
                shown += chunk
        except OSError:  # how Linux says that the other end has closed
            pass
        assert process.wait(60) == 0
    assert b"ValueError" in shown
    assert b"<string>:9" in shown
    assert b"Doe" not in shown


IMPORTED = "from pydicom.dataset import Dataset"
CONFIGURED = "from triage.logs import configure_logging; configure_logging()"
QUOTING = """
import logging
ds = Dataset()
ds.PatientAge = ds.PatientID = "Doe^Jane"
ds.StudyInstanceUID = "1.2.010.4711"
ds.StudyDate = "Doe's"
logging.getLogger("celery").warning("heard")
"""


@pytest.mark.parametrize("start", [(IMPORTED, CONFIGURED), (CONFIGURED, IMPORTED)])
def test_what_libraries_quote_of_a_patient_is_told_nowhere(start: tuple[str, str]) -> None:
    """Whichever comes first: pydicom sets its logger's level when it is imported."""
    program = "\n".join([*start, QUOTING])
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stderr == "WARNING celery heard\n"
