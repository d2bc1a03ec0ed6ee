"""Fixtures that every test may use; each room's own are in tests/support."""

import os
import sys
from collections.abc import Iterator

import pytest
import structlog

# As `serve` does: log lines of parts that run in the test's own process must not get into what a command prints.
structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=sys.__stderr__))


@pytest.fixture(scope="session", autouse=True)
def _no_configuration_from_outside() -> Iterator[None]:
    """No test reads the developer's own configuration, nor does a node that several tests share."""
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.startswith("TRIAGE_"):
                environment.delenv(name)
        yield
