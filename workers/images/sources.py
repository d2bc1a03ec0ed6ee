"""What goes into and comes out of `workers.images.prepare`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from triage.manifest import Preprocessing
from triage.messages import ModelInput
from workers.images.dicom_file import read_dicom

CXR = "CXR"
BCT = "BCT"


class Lattice(Protocol):
    """Points to bring an image onto."""

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W) for CXR, (D, H, W) for BCT."""

    @property
    def spacing_mm(self) -> tuple[float, ...] | None:
        """(D, H, W) spacing in millimetres for BCT; None where the model has no physical grid (CXR)."""


def spacing_of(lattice: Lattice) -> tuple[float, ...]:
    """Return how far a head's points are apart, (D, H, W), mm: as in the paper where nothing is said."""
    return lattice.spacing_mm or (4.0, 1.72, 1.72)


#: Modality ("CXR", "BCT") -> the active bundle's grid. A modality without an entry has no model.
Grids = Mapping[str, Preprocessing]


@dataclass(frozen=True)
class Source:
    """One stored instance, read when needed and not kept.

    Attributes
    ----------
    sop_instance_uid : str
        SOP Instance UID (0008,0018), as the ledger knows it.
    path : pathlib.Path
        The Part 10 file.
    """

    sop_instance_uid: str
    path: Path

    def header(self) -> Dataset:
        """Return the data set up to, and without, its pixels.

        Raises
        ------
        NotScoredError
            If the file cannot be parsed.
        OSError
            If the operating system doesn't let it be read.
        """
        return self._read(stop_before_pixels=True)

    def dataset(self) -> Dataset:
        """Return the whole data set, with its pixels still encoded.

        Raises
        ------
        NotScoredError
            If the file cannot be parsed.
        OSError
            If the operating system doesn't let it be read.
        """
        return self._read(stop_before_pixels=False)

    def _read(self, *, stop_before_pixels: bool) -> Dataset:
        ds = read_dicom(self.path, pixels=not stop_before_pixels, force=True)
        if "TransferSyntaxUID" not in ds.file_meta:
            ds.file_meta.TransferSyntaxUID = _encoding_as_read(ds)
        return ds


def _encoding_as_read(ds: Dataset) -> UID:
    """Return the transfer syntax of a file without meta information: the one the parser found it in."""
    implicit, little = ds.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A study made ready for the flows.

    Attributes
    ----------
    model_input : triage.messages.ModelInput
        The image on the bundle's grid, or several.
    sources : list of str
        SOP Instance UIDs that went into it, in anatomical order (inferior to superior for BCT); of several images one
        each.
    modality : str
        ``"CXR"`` or ``"BCT"``.
    notes : list of str
        What a reader of the result should know about the choice, without patient data.
    """

    model_input: ModelInput
    sources: list[str]
    modality: str
    notes: list[str] = field(default_factory=list)
