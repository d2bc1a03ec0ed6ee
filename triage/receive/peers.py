"""Who may associate: the allow-list, and how a peer's name may appear in a log line."""

from collections.abc import Sequence
from ipaddress import ip_address

from triage.config.schema import Peer


def sanitised_ae_title(value: object) -> str:
    """Return an AE title fit for a log line or a table: printable ASCII, at most 16 characters.

    Control characters would let a peer forge log lines (PS3.5 section 6.2 forbids them in an AE).
    """
    text = str(value or "")[:64].strip()
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in text)[:16]


def is_invited(peers: Sequence[Peer], calling_ae_title: str, address: str) -> bool:
    """Tell whether this AE title may associate from this address.

    Parameters
    ----------
    peers : sequence of Peer
        The allow-list; empty = anybody.
    calling_ae_title : str
        As it came, without padding; the comparison minds upper and lower case.
    address : str
        IPv4 or IPv6 address the connection came from.
    """
    if not peers:
        return True
    # A socket that listens on both families shows an IPv4 peer as ::ffff:10.0.0.7.
    ip = ip_address(address.split("%", 1)[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = mapped or ip
    return any(
        peer.ae_title == calling_ae_title.strip() and ip.version == peer.network.version and ip in peer.network
        for peer in peers
    )
