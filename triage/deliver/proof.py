"""Proof by C-FIND that a destination holds an object."""

from pydicom.dataset import Dataset
from pynetdicom.association import Association

from triage.association import STUDY_ROOT_FIND, matches
from triage.deliver.link import accepts
from triage.errors import QueryError


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
        If the association ended, no answer came, or there was no end of answers.

    References
    ----------
    PS3.4 section C.4.1 (C-FIND), C.6.2.1.5 (instance level of the Study Root).
    """
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = ds.StudyInstanceUID
    query.SeriesInstanceUID = ds.SeriesInstanceUID
    query.SOPInstanceUID = ds.SOPInstanceUID
    try:
        found = {match.get("SOPInstanceUID") for match in matches(assoc, query)}
    except QueryError:
        return None
    return ds.SOPInstanceUID in found
