"""What the node reads from an object as it comes in: the identifiers, nothing else, no pixel decoded."""

import mmap
import re
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import IO

from pydicom.uid import UID

from triage.errors import InvalidUIDError, MismatchedObjectError, UnparsableObjectError
from triage.receive.walk import Walker
from triage.store import WATERMARK_STEP
from triage.text import decode, terms_of
from triage.uids import checked_uid

#: Before it nobody was examined by X-rays; programs write the year 1 where they know no date.
FIRST_YEAR = 1895
SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
STUDY_DATE = 0x00080020
ACCESSION_NUMBER = 0x00080050
MODALITY = 0x00080060
STUDY_DESCRIPTION = 0x00081030
PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
WANTED = frozenset(
    {
        SPECIFIC_CHARACTER_SET,
        SOP_CLASS_UID,
        SOP_INSTANCE_UID,
        STUDY_DATE,
        ACCESSION_NUMBER,
        MODALITY,
        STUDY_DESCRIPTION,
        PATIENT_NAME,
        PATIENT_ID,
        STUDY_INSTANCE_UID,
        SERIES_INSTANCE_UID,
    }
)
INFLATE_STEP = 1 << 20
# A deflated data set that grows beyond this (1,024 slices of a head) is an attack, not an image: whoever reads it later
# needs as much memory.
MAX_INFLATED = 512 << 20
# Three component groups of 64 characters and their delimiters (PS3.5 section 6.2, PN); nothing is longer.
MAX_TEXT = 200


@dataclass(frozen=True, kw_only=True)
class Header:
    """The identifiers of one object; texts are decoded, trimmed, free of control characters, maybe empty."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    patient_name: str
    patient_id: str
    accession_number: str
    study_date: str
    study_description: str

    def check_command(self, sop_class_uid: str, sop_instance_uid: str) -> None:
        """Compare with what the C-STORE command said.

        Raises
        ------
        MismatchedObjectError
            If SOP class or instance differ.
        """
        if self.sop_class_uid != sop_class_uid:
            raise MismatchedObjectError("the data set's SOP Class UID differs from the command's")
        if self.sop_instance_uid != sop_instance_uid:
            raise MismatchedObjectError("the data set's SOP Instance UID differs from the command's")


def read_header(
    path: Path, offset: int, transfer_syntax_uid: str, check_free: Callable[[], None] = lambda: None
) -> Header:
    """Read the identifiers of the data set in a file, and check that it can be walked to its end.

    Parameters
    ----------
    path : Path
        The file.
    offset : int
        Where the data set begins, bytes.
    transfer_syntax_uid : str
        How it is encoded.
    check_free : callable
        Called now and then while a deflated data set takes room on the disk; raises if there is too little.

    Raises
    ------
    UnparsableObjectError
        If it is truncated or makes no sense.
    InvalidUIDError
        If study or series have no UID, or no UID that breaks no rule.
    MismatchedObjectError
        If it doesn't say its SOP class or instance: then neither is what the command said.
    """
    with path.open("rb") as file:
        values = _find(file, offset, UID(transfer_syntax_uid), path.parent, check_free)
    character_sets = terms_of(values.get(SPECIFIC_CHARACTER_SET))

    def text(tag: int) -> str:
        return decode(values.get(tag, b""), character_sets)[:MAX_TEXT].rstrip()

    return Header(
        sop_class_uid=_own_uid(values, SOP_CLASS_UID, "SOP Class UID"),
        sop_instance_uid=_own_uid(values, SOP_INSTANCE_UID, "SOP Instance UID"),
        study_instance_uid=_uid(values, STUDY_INSTANCE_UID, "Study Instance UID"),
        series_instance_uid=_uid(values, SERIES_INSTANCE_UID, "Series Instance UID"),
        modality=re.sub(r"[^A-Z0-9_ ]", "", text(MODALITY).upper())[:16],
        patient_name=text(PATIENT_NAME),
        patient_id=text(PATIENT_ID),
        accession_number=text(ACCESSION_NUMBER),
        study_date=_date(text(STUDY_DATE)),
        study_description=text(STUDY_DESCRIPTION),
    )


def _date(value: str) -> str:
    """Return a DA, or the older form with dots, as ``YYYYMMDD``; empty where it is no date that people know."""
    digits = re.sub(r"[^0-9]", "", value)[:8]
    with suppress(ValueError):
        return digits if date.fromisoformat(digits).year >= FIRST_YEAR else ""
    return ""


def _find(file: IO[bytes], offset: int, syntax: UID, scratch: Path, check_free: Callable[[], None]) -> dict[int, bytes]:
    """Return the wanted values; a deflated data set is inflated into a nameless file in `scratch` first."""
    if not syntax.is_deflated:
        return _find_mapped(file, offset, syntax)
    with tempfile.TemporaryFile(dir=scratch) as inflated:
        file.seek(offset)
        _inflate(file, inflated, check_free)
        return _find_mapped(inflated, 0, syntax)


def _find_mapped(file: IO[bytes], offset: int, syntax: UID) -> dict[int, bytes]:
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise UnparsableObjectError("the data set is empty") from error
    with mapped:
        walker = Walker(mapped, explicit=not syntax.is_implicit_VR, little=syntax.is_little_endian, start=offset)
        return walker.find(WANTED)


def _inflate(source: IO[bytes], target: IO[bytes], check_free: Callable[[], None]) -> None:
    """Inflate a raw deflate stream (PS3.5 annex A.5), a step at a time."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    size, next_look = 0, WATERMARK_STEP
    try:
        while not inflater.eof:
            chunk = inflater.unconsumed_tail or source.read(INFLATE_STEP)
            if not chunk:
                break
            size += target.write(inflater.decompress(chunk, INFLATE_STEP))
            if size > MAX_INFLATED:
                raise UnparsableObjectError("the deflated data set is too large")
            if size >= next_look:
                check_free()
                next_look = size + WATERMARK_STEP
    except zlib.error as error:
        raise UnparsableObjectError("the deflated data set is damaged") from error
    if not inflater.eof:
        raise UnparsableObjectError("the deflated data set is truncated")
    target.flush()


def _raw_uid(values: dict[int, bytes], tag: int) -> str:
    return values.get(tag, b"").decode("ascii", errors="replace").rstrip("\0 ")


def _own_uid(values: dict[int, bytes], tag: int, name: str) -> str:
    raw = _raw_uid(values, tag)
    if not raw:
        raise MismatchedObjectError(f"the data set has no {name}")
    return raw


def _uid(values: dict[int, bytes], tag: int, name: str) -> str:
    raw = _raw_uid(values, tag)
    if not raw:
        raise InvalidUIDError(f"the data set has no {name}")
    return checked_uid(raw, f"the data set's {name}")
