"""The structure of an encoded data set, walked without decoding it: a few values found, every length checked.

pydicom's reader builds thousands of objects for an enhanced multi-frame header; this walk costs microseconds, holds
nothing in memory and, unlike it, notices bytes that are missing at the end.
"""

import mmap
import struct
from collections.abc import Container

from triage.errors import UnparsableObjectError

UNDEFINED = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
PIXEL_DATA_GROUP = 0x7FE0
# PS3.5 section 7.1.2: these have two reserved bytes and a length of four bytes.
LONG_VR = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
MAX_DEPTH = 100
# Values longer than this are none of the identifiers that are looked for.
MAX_VALUE = 10_240

Buffer = bytes | mmap.mmap


class Walker:
    """Walks one encoded data set.

    Parameters
    ----------
    data : bytes or mmap
        What holds the data set, from ``start`` to its end.
    explicit, little : bool
        Encoding by the transfer syntax: explicit VR, little endian.
    start : int
        Offset of the data set, bytes.
    """

    def __init__(self, data: Buffer, *, explicit: bool, little: bool, start: int = 0) -> None:
        self._data = data
        self._end = len(data)
        self._start = start
        self._explicit = explicit
        order = "<" if little else ">"
        self._tag_length = struct.Struct(order + "HHL").unpack_from
        self._tag_vr_length = struct.Struct(order + "HH2sH").unpack_from
        self._long_length = struct.Struct(order + "L").unpack_from
        self._sequence_end = struct.pack(order + "HHL", 0xFFFE, 0xE0DD, 0)

    def find(self, wanted: Container[int]) -> dict[int, bytes]:
        """Return the values of the wanted top-level elements, and check that the whole data set can be walked.

        Parameters
        ----------
        wanted : container of int
            Tags.

        Raises
        ------
        UnparsableObjectError
            If it is empty, or an element reaches past the end.
        """
        found: dict[int, bytes] = {}
        position = self._start
        # Fewer than eight bytes at the end are no element: some writers pad (pydicom ignores them too).
        while position + 8 <= self._end:
            tag, vr, length, value_at = self._head(position)
            position = self._skip(tag, vr, length, value_at, 0)
            if tag in wanted and length <= MAX_VALUE:
                found[tag] = self._data[value_at : value_at + length]
        if position == self._start:
            raise UnparsableObjectError("the data set is empty")
        return found

    def _head(self, position: int) -> tuple[int, bytes, int, int]:
        """Return tag, VR (empty if implicit), length and offset of the value of the element at `position`."""
        if not self._explicit:
            group, number, length = self._tag_length(self._data, position)
            return group << 16 | number, b"", length, position + 8
        group, number, vr, length = self._tag_vr_length(self._data, position)
        if vr in LONG_VR:
            if position + 12 > self._end:
                raise UnparsableObjectError("the data set ends within an element's head")
            return group << 16 | number, vr, self._long_length(self._data, position + 8)[0], position + 12
        if group == 0xFFFE or not b"AA" <= vr <= b"ZZ":
            # Items and delimiters have no VR; and some writers fall into implicit VR, mostly within sequences.
            return group << 16 | number, b"", self._long_length(self._data, position + 4)[0], position + 8
        return group << 16 | number, vr, length, position + 8

    def _skip(self, tag: int, vr: bytes, length: int, value_at: int, depth: int) -> int:
        """Return the offset behind the element."""
        if length != UNDEFINED:
            if value_at + length > self._end:
                raise UnparsableObjectError("the data set is shorter than its elements say")
            return value_at + length
        if depth > MAX_DEPTH:
            raise UnparsableObjectError(f"sequences are nested more than {MAX_DEPTH} deep")
        return self._skip_items(tag, vr, value_at, depth)

    def _skip_items(self, tag: int, vr: bytes, position: int, depth: int) -> int:
        """Return the offset behind a sequence, or encapsulated pixel data, of undefined length."""
        fragments = tag >> 16 == PIXEL_DATA_GROUP or vr in (b"OB", b"OW")
        first = True
        while position + 8 <= self._end:
            item, _, length, value_at = self._item_head(position)
            if item == SEQUENCE_END:
                return value_at
            if item != ITEM:
                if first:
                    return self._search_end(position)
                raise UnparsableObjectError("something that isn't an item lies within a sequence")
            if length == UNDEFINED and fragments:
                raise UnparsableObjectError("a fragment of pixel data has no length")
            first = False
            position = (
                self._skip(item, b"", length, value_at, depth)
                if length != UNDEFINED
                else (self._skip_item_elements(value_at, depth + 1))
            )
        raise UnparsableObjectError("a sequence has no end")

    def _item_head(self, position: int) -> tuple[int, bytes, int, int]:
        group, number, length = self._tag_length(self._data, position)
        return group << 16 | number, b"", length, position + 8

    def _skip_item_elements(self, position: int, depth: int) -> int:
        while position + 8 <= self._end:
            tag, vr, length, value_at = self._head(position)
            if tag == ITEM_END:
                return value_at
            position = self._skip(tag, vr, length, value_at, depth)
        raise UnparsableObjectError("an item has no end")

    def _search_end(self, position: int) -> int:
        """Private elements of undefined length that hold no items end with a delimiter all the same."""
        at = self._data.find(self._sequence_end, position)
        if at < 0:
            raise UnparsableObjectError("an element of undefined length has no end")
        return at + 8
