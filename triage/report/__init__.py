"""Results become Structured Reports (TID 1500) that say what was found, by which model, from which images."""

from triage.report.build import (
    COMPREHENSIVE_3D_SR,
    COMPREHENSIVE_SR,
    ENHANCED_SR,
    SR_CLASSES,
    build_report,
    encode,
)
from triage.report.result import ReportInput

__all__ = [
    "COMPREHENSIVE_3D_SR",
    "COMPREHENSIVE_SR",
    "ENHANCED_SR",
    "SR_CLASSES",
    "ReportInput",
    "build_report",
    "encode",
]
