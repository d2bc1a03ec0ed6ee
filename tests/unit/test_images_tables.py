"""Radiographs with lookup tables and rescales, ordinary and odd: the same chest, or a refusal of that image alone."""

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ImplicitVRLittleEndian, generate_uid

from tests.support.images import Store, reason_of, same_but_for, score_input, set_pixels, stored
from workers.images.tables import Table

pytest_plugins = ["tests.support.images"]


def lut(first: int, bits: int, data: list[int] | bytes, *, count: int | None = None, descriptor: str = "") -> Items:
    """Return a LUT sequence."""
    item = Dataset()
    count = (len(data) if count is None else count) % 65536
    item.add_new("LUTDescriptor", descriptor or ("SS" if first < 0 else "US"), [count, first, bits])
    item.add_new("LUTData", "OW" if isinstance(data, bytes) else "US", data)
    return Items([item])


def ramp(chest: Dataset, top: int, *, before: int = 0) -> list[int]:
    """Return entries for all of the chest's values, 0 to top, after some of 0."""
    return [0] * before + np.round(np.linspace(0, top, 2**chest.BitsStored)).astype(int).tolist()


def tensor(store: Store, ds: Dataset) -> np.ndarray:
    return score_input(store([ds])).model_input.pixels


TABLES = {
    "8 bits": lambda chest: lut(0, 8, ramp(chest, 255)),
    "8 bits, two in a word": lambda chest: lut(0, 8, bytes(ramp(chest, 255))),
    "12 bits": lambda chest: lut(0, 12, ramp(chest, 4095)),
    "16 bits": lambda chest: lut(0, 16, ramp(chest, 65535)),
    "from a negative value on": lambda chest: lut(-100, 16, ramp(chest, 65535, before=100)),
    "of 65536": lambda chest: lut(0, 16, np.array(ramp(chest, 65535) + [65535] * 64512, "<u2").tobytes(), count=65536),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_every_ordinary_table_shows_the_same_chest(store: Store, chest: Dataset, keyword: str, name: str) -> None:
    assert chest.BitsStored == 10
    del chest.WindowCenter, chest.WindowWidth
    reference = tensor(store, chest)
    setattr(chest, keyword, TABLES[name](chest))
    assert same_but_for(tensor(store, chest), reference) < 1.5


@pytest.mark.parametrize("descriptor", ["US", "SS"])
def test_signed_pixels_have_a_signed_first_value_whichever_was_written(
    store: Store, chest: Dataset, descriptor: str
) -> None:
    reference = tensor(store, chest)
    del chest.WindowCenter, chest.WindowWidth
    signed = stored(chest).astype(np.int16) - 512
    chest.PixelRepresentation, chest.BitsStored, chest.HighBit = 1, 16, 15
    set_pixels(chest, signed)
    chest.VOILUTSequence = lut(
        -512 if descriptor == "SS" else 65536 - 512, 16, np.linspace(0, 65535, 1024).astype(int).tolist(),
        descriptor=descriptor,
    )  # fmt: skip
    assert same_but_for(tensor(store, chest), reference) < 1.0


def test_a_tables_first_value_is_one_of_the_rescaled_values(store: Store, chest: Dataset) -> None:
    reference = tensor(store, chest)
    del chest.WindowCenter, chest.WindowWidth
    chest.RescaleSlope, chest.RescaleIntercept = 2, -1024
    chest.VOILUTSequence = lut(65536 - 1024, 16, np.linspace(0, 65535, 2048).astype(int).tolist())
    assert same_but_for(tensor(store, chest), reference) < 1.0


def test_a_table_in_a_file_of_implicit_vr_is_read(store: Store, chest: Dataset) -> None:
    reference = tensor(store, chest)
    del chest.WindowCenter, chest.WindowWidth
    chest.VOILUTSequence = lut(0, 16, ramp(chest, 65535))
    chest.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert same_but_for(tensor(store, chest), reference) < 1.0


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_words_lie_in_the_files_byte_order(order: str) -> None:
    words = np.array([0x0201, 0x0003])
    for bits, count, entries in ((16, 2, [0x0201, 0x0003]), (8, 3, [1, 2, 3])):
        item = lut(0, bits, words.astype(order).tobytes(), count=count)[0]
        assert Table.of(item, signed=False, little_endian=order == "<u2").entries.tolist() == entries


BROKEN = {
    "short": lambda: lut(0, 16, bytes(2000), count=1024),
    "short and packed": lambda: lut(0, 8, bytes(1000), count=1024),
    "of half words": lambda: lut(0, 16, bytes(1024), count=1024),
    "of 32 bits": lambda: lut(0, 32, list(range(0, 65536, 64))),
    "without an item's content": lambda: Items([Dataset()]),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_broken_table_costs_its_own_image_alone(store: Store, chest: Dataset, keyword: str, name: str) -> None:
    [good] = store([chest])
    setattr(chest, keyword, BROKEN[name]())
    chest.SOPInstanceUID = chest.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    [bad] = store([chest])
    assert reason_of([bad]) == "the image's brightness tables cannot be used"
    found = score_input([good, bad])
    assert found.sources == [good.sop_instance_uid]
    assert found.notes[-1] == "not scored: the image's brightness tables cannot be used"


def test_values_before_and_after_a_table_have_its_ends() -> None:
    table = Table.of(lut(10, 16, [7, 8, 9])[0], signed=False, little_endian=True)
    assert table(np.array([0, 10, 11, 12, 65535], np.uint16)).tolist() == [7, 7, 8, 9, 9]
    assert table(np.array([-1e9, 10.4, 1e9], np.float32)).tolist() == [7, 7, 9]


@pytest.mark.parametrize(("slope", "intercept"), [(None, None), ("1", None), (None, "-100"), ("0", "0")])
def test_a_rescale_that_says_nothing_changes_nothing(
    store: Store, chest: Dataset, slope: str | None, intercept: str | None
) -> None:
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if keyword in chest:
            delattr(chest, keyword)
    reference = tensor(store, chest)
    chest.RescaleSlope, chest.RescaleIntercept = slope, intercept
    assert np.array_equal(tensor(store, chest), reference)


def test_a_rescale_without_bounds_changes_nothing(store: Store, chest: Dataset) -> None:
    reference = tensor(store, chest)
    chest.RescaleSlope, chest.RescaleIntercept = "1e300", "0"
    assert np.array_equal(tensor(store, chest), reference)
