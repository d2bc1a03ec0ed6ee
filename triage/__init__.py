"""The node: DICOM, ledger, dispatch, reports, delivery, worklist, web, command line. Never imports torch."""

from importlib.metadata import version

__version__ = version("triage-node")
