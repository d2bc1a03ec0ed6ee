"""Logging: one line per event on standard error, JSON unless a person watches. No patient data, ever: studies,
jobs and objects are named by their numbers in the ledger, exceptions by their type and place."""

import logging
import os
import sys
import warnings

import structlog
from structlog.typing import EventDict, WrappedLogger

from triage.errors import place_of

#: Libraries that quote data sets in what they log and warn.
_QUOTING = ("pynetdicom", "pydicom", "highdicom")


def _quotes_nobody(record: logging.LogRecord) -> bool:
    """Let pass what no library that quotes data sets says, unless it is critical.

    A filter, for their loggers' levels don't last: pydicom sets its own when it is imported.
    """
    return record.levelno >= logging.CRITICAL or record.name.partition(".")[0] not in _QUOTING


def without_message(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Name the exception of ``exc_info`` by its type and place: its message and its frames may hold a data set."""
    given = event.pop("exc_info", None)
    exc = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if exc is not None:
        event.setdefault("error", type(exc).__name__)
        event["where"] = place_of(exc)
    return event


def configure_logging(*, quiet: bool = False) -> None:
    """Set up structlog and route the libraries' warnings through the standard library's logging.

    ``quiet`` leaves errors alone: for a process beside another that says all the rest.
    """
    watched = sys.stderr.isatty()
    least = logging.ERROR if quiet else logging.NOTSET
    asked = logging.getLevelNamesMapping().get(os.environ.get("LOG_LEVEL", "INFO").upper(), logging.INFO)
    level = max(asked, least)
    libraries = max(logging.WARNING, least)
    logging.basicConfig(level=libraries, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_quotes_nobody)
    for name in _QUOTING:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # most of it isn't even made
        warnings.filterwarnings("ignore", module=name)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            without_message,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if watched else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
