"""The DICOM conformance statement, made from the running configuration and from the lists the listener really uses.

References
----------
PS3.2 (structure of a conformance statement), annex A.
"""

from collections.abc import Iterable, Iterator

from pydicom.uid import UID
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from triage import __version__
from triage.config.schema import Configuration
from triage.receive.contexts import SCORABLE_SOP_CLASSES, STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from triage.receive.handler import (
    CANNOT_UNDERSTAND,
    CONFLICTS,
    DOES_NOT_MATCH,
    OUT_OF_RESOURCES,
    SOP_CLASS_NOT_SUPPORTED,
)
from triage.receive.listener import ASSOCIATE_TIMEOUT_S
from triage.receive.transport import MAX_PDU
from triage.sop_classes import MAP_CLASSES, SR_CLASSES
from triage.statuses import SUCCESS
from triage.store import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

STORE_STATUSES: tuple[tuple[int, str, str], ...] = (
    (
        SUCCESS,
        "Success",
        "the object is on disk (file and folder synchronised) and in the ledger; or it was there, byte for byte",
    ),
    (
        SOP_CLASS_NOT_SUPPORTED,
        "Refused: SOP class not supported",
        "the command's SOP class is not the presentation context's",
    ),
    (
        OUT_OF_RESOURCES,
        "Refused: out of resources",
        "disk full, free space below the watermark, or ledger unavailable; send again later",
    ),
    (
        DOES_NOT_MATCH,
        "Error: data set does not match SOP class",
        "SOP class or instance UID of the data set differs from the command's, or is absent",
    ),
    (
        CANNOT_UNDERSTAND,
        "Error: cannot understand",
        "the data set cannot be parsed or is truncated; a UID is missing or breaks the rules of PS3.5 9.1",
    ),
    (CONFLICTS, "Error: cannot understand", "a different object is already stored under this SOP Instance UID"),
)


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    rows = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _uids(uids: Iterable[UID]) -> Iterator[str]:
    return _table((uid.name, str(uid)) for uid in uids)


def _overview(config: Configuration) -> Iterator[str]:
    yield f"DICOM CONFORMANCE STATEMENT: triage-node {__version__}"
    yield "Research use only. Made from the running configuration; every list is the one in use."
    yield ""
    yield "1. IMPLEMENTATION"
    yield from _table(
        (
            ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
            ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME),
            ("AE title", config.listen.ae_title),
            ("Listens on", f"{config.listen.host}:{config.listen.port}"),
            ("Maximum PDU length received", f"{MAX_PDU} bytes"),
            ("Asynchronous operations", "not negotiated (window 1, 1)"),
        )
    )


def _admission(config: Configuration) -> Iterator[str]:
    listen = config.listen
    yield ""
    yield "2. ASSOCIATIONS AS ACCEPTOR"
    yield from _table(
        (
            ("Called AE title", f"must be {listen.ae_title}"),
            ("Associations at once", f"{listen.max_associations}; from one address {listen.max_associations_per_peer}"),
            ("Time to ask for an association", f"{min(ASSOCIATE_TIMEOUT_S, listen.idle_timeout_s):g} s"),
            ("Silence before an abort", f"{listen.idle_timeout_s:g} s"),
        )
    )
    yield "  Callers accepted (AE title, address):"
    if listen.peer:
        yield from _table(("  " + peer.ae_title, str(peer.network)) for peer in listen.peer)
    else:
        yield "    any"


def _reception(config: Configuration) -> Iterator[str]:
    yield ""
    yield "3. SERVICES AS SCP"
    yield "3.1 Verification"
    yield from _uids([Verification])
    yield ""
    yield f"3.2 Storage (level 2, full): {len(STORAGE_SOP_CLASSES)} SOP classes"
    yield "  Scored where the input gate finds them suitable (never what is For Processing):"
    yield from _uids(SCORABLE_SOP_CLASSES)
    yield "  Stored, never scored:"
    yield from _uids(uid for uid in STORAGE_SOP_CLASSES if uid not in SCORABLE_SOP_CLASSES)
    yield "  Transfer syntaxes, for each of them, in the order of preference:"
    yield from _uids(TRANSFER_SYNTAXES)
    yield "  No attribute is coerced, no pixel data is decoded or converted on reception."
    yield f"  Free-space watermark: {config.listen.min_free_gib:g} GiB"
    yield ""
    yield "3.3 C-STORE response statuses"
    yield from _table((f"{status:04X}", name, when) for status, name, when in STORE_STATUSES)
    yield "  An object that comes again in another uncompressed transfer syntax, otherwise equal, is a duplicate;"
    yield "  one that comes again compressed, or decompressed, is refused as different."


def _delivery(config: Configuration) -> Iterator[str]:
    yield ""
    yield "4. SERVICES AS SCU"
    yield "4.1 Storage of results: the first of these that the destination accepts"
    yield from _uids(map(UID, SR_CLASSES))
    yield '  Relevance maps, only where destination.send names "heatmap" (off by default):'
    yield from _uids(map(UID, MAP_CLASSES))
    yield ""
    yield "4.2 Storage Commitment Push Model; the report is accepted on the same association or on a new one"
    yield "    (role selection: the reporting AE is the SCP)"
    yield from _uids([StorageCommitmentPushModel])
    yield ""
    yield "4.3 Query (C-FIND), to prove a delivery where there is no storage commitment, and to count instances"
    yield "    A destination that offers neither is believed its C-STORE response."
    yield from _uids([StudyRootQueryRetrieveInformationModelFind])
    yield ""
    yield "4.4 Verification: proposed with every delivery, and sent by triage-node doctor"
    yield from _uids([Verification])
    yield ""
    yield "4.5 Destinations"
    if config.destination:
        yield from _table(
            (
                d.name,
                f"{d.ae_title}@{d.host}:{d.port}",
                "proof asked for: " + ("commitment, else C-FIND" if d.storage_commitment else "C-FIND"),
            )
            for d in config.destination
        )
    else:
        yield "  none"


def _rest() -> Iterator[str]:
    yield ""
    yield "5. CHARACTER SETS"
    yield "  Specific Character Set (0008,0005) is honoured for the texts shown in the worklist: all single-byte sets,"
    yield "  ISO 2022 code extensions, GB18030, GBK and UTF-8. An unknown set never leads to a refusal."
    yield ""
    yield "6. SECURITY"
    yield "  Allow-list by calling AE title and address; bounded associations, PDU lengths, memory and times per peer."


def conformance_statement(config: Configuration) -> str:
    """Return the conformance statement as plain text.

    Parameters
    ----------
    config : Configuration
        The running configuration.
    """
    parts = (_overview(config), _admission(config), _reception(config), _delivery(config), _rest())
    return "\n".join(line for part in parts for line in part) + "\n"
