"""SOP classes (PS3.4 table B.5-1) of what is scored, and of our results: written by `triage.report`, offered by
`triage.deliver`.
"""

from collections.abc import Iterable

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
)

#: What is prepared for scoring, by the Modality (0008,0060) that such an object should have: not all senders fill that
#: in. DX For Processing is among it so that a study that has nothing else says why it has no score.
MODALITY_OF = {
    ComputedRadiographyImageStorage: "CR",
    DigitalXRayImageStorageForPresentation: "DX",
    DigitalXRayImageStorageForProcessing: "DX",
    CTImageStorage: "CT",
    EnhancedCTImageStorage: "CT",
    LegacyConvertedEnhancedCTImageStorage: "CT",
}
TOMOGRAMS = tuple(uid for uid, modality in MODALITY_OF.items() if modality == "CT")
RADIOGRAPHS = tuple(uid for uid, modality in MODALITY_OF.items() if modality != "CT")

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"
#: Best first: what a destination takes is tried in this order.
SR_CLASSES = (COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR, ENHANCED_SR)

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
#: What relevance maps are delivered as, where a destination wants them.
MAP_CLASSES = (SECONDARY_CAPTURE, PARAMETRIC_MAP)


def scored_as(sop_class_uids: Iterable[str]) -> str:
    """Return as what images of these classes are scored: ``"BCT"`` if there is a CT among them, else ``"CXR"``."""
    return "BCT" if any(uid in TOMOGRAMS for uid in sop_class_uids) else "CXR"
