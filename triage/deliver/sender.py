"""The C-STORE SCU: stored bytes go out as they are."""

from pydicom.dataset import Dataset
from pynetdicom.association import Association

from triage.errors import DeliveryError, UnparsableObjectError


def store(assoc: Association, ds: Dataset) -> int:
    """Send one object.

    Parameters
    ----------
    assoc : pynetdicom.association.Association
        An association that accepted the object's SOP class.
    ds : pydicom.dataset.Dataset
        The object as read from its file and not touched since, so that it is encoded as it was.

    Returns
    -------
    int
        The C-STORE status.

    Raises
    ------
    DeliveryError
        If the association ended, or no answer came.
    UnparsableObjectError
        If the object cannot be sent; the association is as good as before.
    """
    try:
        status = assoc.send_c_store(ds)
    except RuntimeError as exc:
        raise DeliveryError("the association could not carry the object") from exc
    except (ValueError, AttributeError, TypeError) as exc:
        raise UnparsableObjectError("the object cannot be encoded as the destination wants it") from exc
    if "Status" not in status:
        raise DeliveryError("no answer to C-STORE: the association was aborted or timed out")
    return int(status.Status)
