"""Real images for the tests of `workers.images`: unpacked once, altered in memory, written as the node stores them."""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import Dataset as Item
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from tests.support.peers import shared
from triage.errors import NotScoredError
from triage.manifest import Preprocessing
from workers.images import BCT, CXR, Prepared, Source, prepare


def model_grid(size: tuple[int, ...], spacing_mm: tuple[float, ...] | None = None) -> Preprocessing:
    """Return a model's grid without its bundle."""
    return Preprocessing(size=size, spacing_mm=spacing_mm, grey_levels=256 if len(size) == 2 else 128)


GRIDS = {CXR: model_grid((128, 128)), BCT: model_grid((32, 128, 128), (4.0, 1.72, 1.72))}

Store = Callable[[Iterable[Dataset]], list[Source]]
Slices = list[Dataset]


@pytest.fixture(scope="session")
def _head() -> list[Dataset]:
    files = sorted(shared("data", "dicom_bct", "p64_noich").glob("*.dcm"))
    return [plain(dcmread(file)) for file in files]


@pytest.fixture
def head(_head: list[Dataset]) -> list[Dataset]:
    """The slices of a real head CT, decoded, by instance number (superior first); altering them is safe."""
    return deepcopy(_head)


@pytest.fixture
def chest() -> Dataset:
    """A real chest radiograph, decoded: DX, MONOCHROME2."""
    for file in sorted(shared("data", "dicom_cxr").glob("*normal.dcm")):
        ds = dcmread(file)
        if ds.Modality == "DX" and ds.PhotometricInterpretation == "MONOCHROME2":
            return plain(ds)
    pytest.fail("no such radiograph in ../shared/data/dicom_cxr")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Write data sets as files and return them as the node hands them to `prepare`."""

    def write(datasets: Iterable[Dataset]) -> list[Source]:
        found = []
        for ds in datasets:
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}.dcm"
            ds.save_as(path, enforce_file_format=True)
            found.append(Source(str(ds.SOPInstanceUID), path))
        return found

    return write


def plain(ds: Dataset) -> Dataset:
    """Return the data set with its pixels uncompressed, little endian."""
    set_pixels(ds, np.array(pixel_array(ds, raw=True)))
    return ds


def set_pixels(ds: Dataset, stored: npt.NDArray[np.generic]) -> None:
    """Put stored values, shape (rows, columns), into a data set."""
    ds.Rows, ds.Columns = stored.shape
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.PixelData = np.ascontiguousarray(stored.astype(stored.dtype.newbyteorder("<"))).tobytes()
    ds["PixelData"].VR = "OW"
    ds["PixelData"].is_undefined_length = False


def score_input(sources: Sequence[Source]) -> Prepared:
    """Prepare a study for the models that come with the node."""
    return prepare(sources, GRIDS)


def reason_of(sources: Sequence[Source]) -> str:
    """Return why a study is not scored; fails if it is."""
    with pytest.raises(NotScoredError) as refused:
        score_input(sources)
    return refused.value.message


def same_but_for(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Return the mean difference of two tensors in grey levels."""
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).mean())


def with_(slices: Slices, **attributes: object) -> Slices:
    """Set attributes of all slices, in place."""
    for ds in slices:
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
    return slices


def second_series(slices: Slices, **attributes: object) -> Slices:
    """Return the same slices as another series."""
    other = with_(deepcopy(slices), SeriesInstanceUID=generate_uid(), **attributes)
    for ds in other:
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return other


def stored(ds: Dataset) -> npt.NDArray[np.uint16]:
    """Return the values as they are stored, (rows, columns)."""
    found: npt.NDArray[np.uint16] = ds.pixel_array.astype(np.uint16)
    return found


def by_position(slices: Slices) -> Slices:
    """Return the slices from below."""
    return sorted(slices, key=lambda ds: float(ds.ImagePositionPatient[2]))


def again(slices: Slices) -> Slices:
    """Return the same slices of the same series under new SOP Instance UIDs."""
    return with_(second_series(slices), SeriesInstanceUID=slices[0].SeriesInstanceUID)


def enhanced(slices: Slices, *, everything_shared: bool) -> Dataset:
    """Return single-frame slices as one Enhanced CT instance (PS3.3 A.38), geometry per frame, the rest shared."""
    first = slices[0]
    ds = deepcopy(first)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
                    "RescaleSlope", "RescaleIntercept", "RescaleType", "ConvolutionKernel"):  # fmt: skip
        delattr(ds, keyword)
    shared_group, frames = Item(), []
    always = {
        "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
        "PlaneOrientationSequence": ("ImageOrientationPatient",),
        "CTReconstructionSequence": ("ConvolutionKernel",),
        "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    }
    for source in slices:
        group = Item()
        group.PlanePositionSequence = Items([_part(source, ("ImagePositionPatient",))])
        if not everything_shared:
            for name, keywords in always.items():
                setattr(group, name, Items([_part(source, keywords)]))
        frames.append(group)
    if everything_shared:
        for name, keywords in always.items():
            setattr(shared_group, name, Items([_part(first, keywords)]))
    ds.SharedFunctionalGroupsSequence = Items([shared_group])
    ds.PerFrameFunctionalGroupsSequence = Items(frames)
    ds.NumberOfFrames = len(slices)
    ds.PixelData = b"".join(s.PixelData for s in slices)
    return ds


def _part(source: Dataset, keywords: tuple[str, ...]) -> Dataset:
    part = Item()
    for keyword in keywords:
        setattr(part, keyword, getattr(source, keyword))
    return part
