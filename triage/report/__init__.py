"""Results become Structured Reports (TID 1500) that say what was found, by which model, from which images."""

from triage.report.build import build_report, encode
from triage.report.map_objects import build_capture, build_parametric_map
from triage.report.result import ReportInput

__all__ = [
    "ReportInput",
    "build_capture",
    "build_parametric_map",
    "build_report",
    "encode",
]
