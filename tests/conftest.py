"""Fixtures that every test may use; each room's own are in tests/support."""

import os
import sys

import pytest
import structlog

# As `serve` does: log lines of parts that run in the test's own process must not get into what a command prints.
structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=sys.__stderr__))


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads the developer's own configuration."""
    for name in list(os.environ):
        if name.startswith("TRIAGE_"):
            monkeypatch.delenv(name)
