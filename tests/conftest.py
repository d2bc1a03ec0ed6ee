"""Fixtures that every test may use; each room's own are in tests/support."""

import os
import signal
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from threadpoolctl import threadpool_limits

# Before anything of it is imported: its assertions tell their values, too.
pytest.register_assert_rewrite("tests.support")

from tests.support.peers import shared  # noqa: E402


def _log_to_standard_error() -> None:
    structlog.reset_defaults()
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=sys.__stderr__))


# As `serve` does: log lines of parts that run in the test's own process must not get into what a command prints.
_log_to_standard_error()


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """Undo what a command set up: it logs to its runner's standard error, which is closed when the command ends."""
    yield
    _log_to_standard_error()


def pytest_collection_finish() -> None:
    """Compute with one thread: the processes of tests/run.sh share the cores, where threads wait for one another.

    Nodes and other processes that tests start have as many as ever, and what threads must not change is tested with
    numbers of its own.
    """
    threadpool_limits(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_configuration_from_outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads the developer's own configuration, nor does a node that several tests share."""
    empty = tmp_path_factory.mktemp("configuration") / "empty.toml"
    empty.touch()
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.startswith("TRIAGE_"):
                environment.delenv(name)
        # Otherwise the folder's ./triage.toml would be read.
        environment.setenv("TRIAGE_CONFIG", str(empty))
        yield


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the 153 DICOM files of public test suites and their ``index.tsv``, for reading only."""
    folder = tmp_path_factory.mktemp("collection")
    with tarfile.open(shared("data", "dicom.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder / "dicom"


# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
