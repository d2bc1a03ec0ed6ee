"""DIMSE statuses that more than one room knows (PS3.7 annex C)."""

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110


def says_stored(status: int) -> bool:
    """Tell whether a C-STORE status means that the peer holds the object.

    References
    ----------
    PS3.4 table B.2-1, PS3.7 annex C: success and warnings. 0111 (duplicate SOP Instance) is what some archives answer
    to a resend.
    """
    return status in {SUCCESS, 0x0001, 0x0107, 0x0111, 0x0116} or 0xB000 <= status <= 0xBFFF
