"""Lookup tables in a data set, Modality LUT and VOI LUT: which grey stands for a value."""

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

Entries = npt.NDArray[np.uint16]


class Table(NamedTuple):
    """A lookup table (PS3.3 C.11.1.1 and C.11.2.1.1).

    Attributes
    ----------
    first : int
        The value that has the first entry.
    bits : int
        Bits of an entry, 8 to 16.
    entries : numpy.ndarray
        uint16, shape (number of entries,).
    """

    first: int
    bits: int
    entries: Entries

    @classmethod
    def of(cls, item: Dataset, *, signed: bool, little_endian: bool) -> Self:
        """Read a table.

        Parameters
        ----------
        item : pydicom.Dataset
            An item of Modality LUT Sequence (0028,3000) or VOI LUT Sequence (0028,3010).
        signed : bool
            Whether the values to look up may be negative: then the first one mapped is SS, else US. Writers pick the
            wrong one of the two.
        little_endian : bool
            The data set's byte order.

        Raises
        ------
        AttributeError, TypeError, ValueError
            If LUT Descriptor (0028,3002) and LUT Data (0028,3006) are no table.
        """
        count, first, bits = (int(number) for number in item.LUTDescriptor)
        if not 8 <= bits <= 16:
            raise ValueError(f"a table of {bits} bits")
        # "When the number of table entries is equal to 2^16 then this value shall be 0"; as SS large ones are negative.
        entries = _entries(item.LUTData, count % (1 << 16) or 1 << 16, bits, little_endian)
        return cls(first - (1 << 16) if signed and first >= 1 << 15 else first, bits, entries)

    def __call__(self, values: npt.NDArray[np.generic]) -> Entries:
        """Return what stands for values of any shape; those before the first and after the last one get its entry."""
        places = np.rint(values.astype(np.float32))  # exact up to 2^24
        places -= self.first
        return self.entries[np.clip(places, 0, len(self.entries) - 1, out=places).astype(np.uint16)]


def _entries(data: object, count: int, bits: int, little_endian: bool) -> Entries:
    """Return LUT Data as so many words.

    Entries of 8 bits may lie two in a word (OW), the first one in its lower half, or one: "this can be detected by
    comparing the number of entries specified in the LUT Descriptor with the actual value length" (C.11.2.1.1, notes).
    """
    if isinstance(data, bytes):
        data = np.frombuffer(data, "<u2" if little_endian else ">u2")
    words = np.atleast_1d(np.asarray(data)).astype("<u2")
    if bits == 8 and len(words) == -(-count // 2) < count:
        words = words.view(np.uint8).astype(np.uint16)
    if len(words) < count:
        raise ValueError(f"{len(words)} entries of {count}")
    return words[:count]
