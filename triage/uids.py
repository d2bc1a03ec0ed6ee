"""UIDs: those that peers send are checked before use; ours are derived, never random."""

import re
import uuid

from pydicom.uid import UID

from triage.errors import InvalidUIDError

# Constant for this product: every derived UID hangs on it.
NAMESPACE = uuid.UUID("6f1f7f0e-6a43-5d2e-9d0e-0a6f8e5b7c11")

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
# Real devices do send components with leading zeros; they are harmless, so they are let in (digits and dots).
_TOLERATED = re.compile(r"[0-9]+(\.[0-9]+)+")


def checked_uid(value: object, name: str = "the UID") -> str:
    """Return a peer's UID as text, without padding, or refuse it.

    Parameters
    ----------
    value : object
        It stays out of the message, which goes into logs and to the sender.
    name : str
        What it is, for the message.

    Raises
    ------
    InvalidUIDError
        If it is empty, longer than 64 characters or holds anything but digits and single dots.

    References
    ----------
    PS3.5 section 9.1.
    """
    text = str(value or "").rstrip("\0 ")
    if len(text) > 64 or not (_UID.fullmatch(text) or _TOLERATED.fullmatch(text)):
        raise InvalidUIDError(f"{name} breaks the rules of UIDs (PS3.5 section 9.1)")
    return text


def derived_uid(*parts: object) -> UID:
    """Return the ``2.25.`` UID that belongs to these parts; the same parts always give the same UID.

    References
    ----------
    PS3.5 section B.2 (UUID derived UID).
    """
    return UID("2.25." + str(uuid.uuid5(NAMESPACE, "|".join(map(str, parts))).int))
