"""Text of peers' headers: decoded whatever the Specific Character Set claims, tidied, never raising.

References
----------
PS3.3 section C.12.1.1.2 (Specific Character Set), PS3.5 section 6.1.
"""

from collections.abc import Sequence

from pydicom.charset import decode_bytes, python_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.valuerep import TEXT_VR_DELIMS, PersonName

# Under these declarations a high byte should be Latin-1 or not be there at all; if the bytes are flawless UTF-8
# the sender forgot to say so, because no Latin-1 name reads like that.
_LATIN = {"", "ISO_IR 6", "ISO_IR 100", "ISO 2022 IR 6", "ISO 2022 IR 100"}
_CODE_EXTENSIONS = ("iso2022_jp", "iso2022_jp_2", "euc_kr", "iso_ir_58")
_ESCAPE = b"\x1b"


def text_of(ds: Dataset, keyword: str) -> str:
    """Return an attribute's text, multiple values joined by a backslash; empty if absent.

    Parameters
    ----------
    ds : pydicom.dataset.Dataset
        A data set as read, with whatever Specific Character Set (0008,0005) it has.
    keyword : str
        The attribute's DICOM keyword; a text or person name attribute.
    """
    tag = Tag(keyword)
    if tag not in ds:
        return ""
    element = ds.get_item(tag)
    value = element.value if isinstance(element, RawDataElement) else ds[tag].value
    declared = ds.get_item("SpecificCharacterSet") if "SpecificCharacterSet" in ds else None
    return _as_text(value, terms_of(None if declared is None else declared.value))


def terms_of(value: object) -> list[str]:
    """Return the terms of Specific Character Set (0008,0005), as read or raw; the first may be empty: the default."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").split("\\")
    terms = value if isinstance(value, MultiValue | list | tuple) else [value]
    return [str(term or "").strip("\0 ").replace("ISO-IR", "ISO_IR") for term in terms] or [""]


def _as_text(value: object, declared: Sequence[str]) -> str:
    if isinstance(value, MultiValue | list | tuple):
        return "\\".join(_as_text(part, declared) for part in value)
    if isinstance(value, PersonName) and isinstance(value.original_string, bytes):
        value = value.original_string
    if isinstance(value, bytes):
        return decode(value, declared)
    return "" if value is None else _tidy(str(value))


def decode(raw: bytes, declared: Sequence[str]) -> str:
    """Decode a value by the declared terms, or by what it evidently is when those terms cannot be right.

    Parameters
    ----------
    raw : bytes
        As encoded, padding included.
    declared : sequence of str
        From `terms_of`.

    Returns
    -------
    str
        Without control characters: a NUL is refused by PostgreSQL, a line break forges a log line.
    """
    return _tidy(_decoded(raw, declared))


def _decoded(raw: bytes, declared: Sequence[str]) -> str:
    known = [python_encoding[term] for term in declared if term in python_encoding]
    if _ESCAPE in raw:
        return _decode_escaped(raw, known)
    plain_latin = not known or (len(declared) == 1 and declared[0] in _LATIN)
    candidates = ["utf-8", *known[:1]] if plain_latin else [*known[:1], "utf-8"]
    for encoding in candidates:
        try:
            return raw.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return raw.decode("latin-1")


def _decode_escaped(raw: bytes, known: list[str]) -> str:
    # Every code extension is offered, declared or not: the escape sequence itself says which one it is.
    encodings = [*(known or ["iso8859"]), *(e for e in _CODE_EXTENSIONS if e not in known)]
    try:
        return decode_bytes(raw, encodings, TEXT_VR_DELIMS | {ord("^"), ord("=")})
    except (UnicodeDecodeError, LookupError):
        return raw.replace(_ESCAPE, b"").decode("latin-1")


def _tidy(text: str) -> str:
    return "".join(c for c in text if c.isprintable() or c == "\u3000").strip()  # a wide space is part of a name
