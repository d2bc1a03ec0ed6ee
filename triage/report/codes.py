"""The codes our Structured Reports use: standard ones, and the private scheme 99WLTRIAGE.

References
----------
PS3.16 TID 1500, 1501, 300, 311, 4019; CID 42, 230. ``docs`` of the private codes: the conformance statement.
"""

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from triage.messages import Priority

SCHEME = "99WLTRIAGE"
SCHEME_VERSION = "1"
MANUFACTURER = "triage-node project"
MODEL_NAME = "triage-node"

IMAGING_MEASUREMENT_REPORT = Code("126000", "DCM", "Imaging Measurement Report")
IMAGE_LIBRARY = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP = Code("126200", "DCM", "Image Library Group")
SOURCE = Code("260753009", "SCT", "Source")
MODALITY = Code("121139", "DCM", "Modality")
DEVICE = Code("121007", "DCM", "Device")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
IMAGING_FINDING = Code("365853002", "SCT", "Imaging finding")
PERCENTILE_RANKING = Code("121415", "DCM", "Percentile Ranking of measurement")
MEASUREMENT_FAILURE = Code("114006", "DCM", "Measurement failure")
COMMENT = Code("121106", "DCM", "Comment")
SALIENCY = Code("130404", "DCM", "Saliency")
ILLUSTRATION = Code("121200", "DCM", "Illustration of ROI")
NO_UNITS = Code("1", "UCUM", "no units")
PERCENT = Code("%", "UCUM", "Percent")

LOG_POSTERIOR = Code("LOGPNORM", SCHEME, "Log posterior of normal, nats, up to a constant")
ABNORMALITY_PERCENTILE = Code("ABNPCT", SCHEME, "Abnormality percentile")
# DCM 111012: "certainty that a device places upon an impression or finding, as a percentage".
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
P_VALUE = Code("PVALNORM", SCHEME, "Conformal p-value of normal")
FLOWS_STATISTIC = Code("FLOWSTAT", SCHEME, "Abnormality statistic of the flows, nats")
SET_CLASSIFIER_LOGIT = Code("SETLOGIT", SCHEME, "Logit of mixture against normal set, by the set classifier")
LOCAL_CLASSIFIER_VALUE = Code("LOCALCLS", SCHEME, "Likeness to artificial abnormalities, by the local classifier")
COMBINED_STATISTIC = Code("COMBINED", SCHEME, "Combined abnormality statistic")
SUSPECTED_ABNORMALITY = Code("SUSPABN", SCHEME, "Suspected abnormality")
READING_PRIORITY = Code("RDPRIO", SCHEME, "Suggested reading priority")
REASON_NOT_SCORED = Code("NOTSCORED", SCHEME, "Reason why the study has no score")

YES = Code("373066001", "SCT", "Yes")
# There is no code for "no": an unflagged study is not a normal study, and nothing here may read as a rule-out.
UNDETERMINED = Code("373068000", "SCT", "Undetermined")

PRIORITY = {
    Priority.HIGH: Code("PRIO-HIGH", SCHEME, "High priority"),
    Priority.MEDIUM: Code("PRIO-MEDIUM", SCHEME, "Medium priority"),
    Priority.LOW: Code("PRIO-LOW", SCHEME, "Low priority"),
}

FINDING_SITE = {
    "CXR": Code("816094009", "SCT", "Chest"),
    "BCT": Code("12738006", "SCT", "Brain"),
}
PROCEDURE = {
    "CXR": Code("399208008", "SCT", "Plain chest X-ray"),
    "BCT": Code("303653007", "SCT", "Computed tomography of head"),
}
# Of a study that the input gate declined: it may be of any part of the body (PS3.16 CID 10005).
UNKNOWN_PROCEDURE = {
    "CXR": Code("168537006", "SCT", "Plain radiography"),
    "BCT": Code("77477000", "SCT", "Computed tomography"),
}

# PS3.16 CID 29, by the image's Modality (0008,0060).
ACQUISITION_MODALITY = {
    "CR": Code("CR", "DCM", "Computed Radiography"),
    "DX": Code("DX", "DCM", "Digital Radiography"),
    "CT": Code("CT", "DCM", "Computed Tomography"),
}
OTHER_MODALITY = Code("OT", "DCM", "Other")


def coding_scheme() -> CodingSchemeIdentificationItem:
    """Return the declaration of 99WLTRIAGE for Coding Scheme Identification Sequence (0008,0110)."""
    return CodingSchemeIdentificationItem(
        SCHEME, name="triage-node codes", version=SCHEME_VERSION, responsible_organization=MANUFACTURER
    )
