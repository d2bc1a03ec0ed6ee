"""Results become Structured Reports (TID 1500) that say what was found, by which model, from which images."""

from triage.report.build import build_report, encode
from triage.report.result import ReportInput

__all__ = [
    "ReportInput",
    "build_report",
    "encode",
]
