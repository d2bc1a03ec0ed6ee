"""Proof by C-FIND that a destination holds an object."""

from pydicom.dataset import Dataset
from pynetdicom.association import Association

from triage.deliver.link import STUDY_ROOT_FIND, accepts
from triage.errors import DeliveryError

_PENDING = {0xFF00, 0xFF01}


def can_find(assoc: Association) -> bool:
    """Tell whether the peer accepted Study Root C-FIND."""
    return accepts(assoc, STUDY_ROOT_FIND)


def holds(assoc: Association, ds: Dataset) -> bool | None:
    """Ask at IMAGE level for an object by its UIDs.

    Parameters
    ----------
    assoc : pynetdicom.association.Association
        An association with Study Root C-FIND.
    ds : pydicom.dataset.Dataset
        The object.

    Returns
    -------
    bool or None
        None if the peer refused the query, so that nothing is known.

    Raises
    ------
    DeliveryError
        If the association ended, or no answer came.

    References
    ----------
    PS3.4 section C.4.1 (C-FIND), C.6.2.1.5 (instance level of the Study Root).
    """
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = ds.StudyInstanceUID
    query.SeriesInstanceUID = ds.SeriesInstanceUID
    query.SOPInstanceUID = ds.SOPInstanceUID
    found = False
    try:
        for status, match in assoc.send_c_find(query, STUDY_ROOT_FIND):
            if "Status" not in status:
                raise DeliveryError("no answer to C-FIND: the association was aborted or timed out")
            if status.Status in _PENDING:
                found = found or (match is not None and match.get("SOPInstanceUID") == ds.SOPInstanceUID)
            elif status.Status != 0x0000:
                return None
    except (RuntimeError, ValueError) as exc:
        raise DeliveryError("the association could not carry the query") from exc
    return found
