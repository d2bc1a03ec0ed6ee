"""Logging: one line per event on standard error, JSON unless a person watches. No patient data, ever: studies,
jobs and objects are named by their numbers in the ledger."""

import logging
import os
import sys

import structlog


def configure_logging() -> None:
    """Set up structlog and route the libraries' warnings through the standard library's logging."""
    watched = sys.stderr.isatty()
    level = logging.getLevelNamesMapping().get(os.environ.get("LOG_LEVEL", "INFO").upper(), logging.INFO)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    # pynetdicom and pydicom quote data sets in their messages: nothing below an error leaves them.
    for name in ("pynetdicom", "pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer() if watched else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
