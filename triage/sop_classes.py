"""SOP classes of our results (PS3.4 table B.5-1): written by `triage.report`, offered by `triage.deliver`."""

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"
ENHANCED_SR = "1.2.840.10008.5.1.4.1.1.88.22"
#: Best first: what a destination takes is tried in this order.
SR_CLASSES = (COMPREHENSIVE_3D_SR, COMPREHENSIVE_SR, ENHANCED_SR)

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
#: What relevance maps are delivered as, where a destination wants them.
MAP_CLASSES = (SECONDARY_CAPTURE, PARAMETRIC_MAP)
