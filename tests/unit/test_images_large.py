"""Large radiographs: the same picture, in bounded time and room."""

import tracemalloc

import numpy as np
import pytest
from pydicom import Dataset

from tests.support.images import Store, same_but_for, score_input, set_pixels, stored
from workers.images.borders import content_box
from workers.images.cxr import cxr_tensor
from workers.images.pixels import displayed

pytest_plugins = ["tests.support.images"]


def test_a_detectors_whole_size_looks_like_its_quarter(store: Store, chest: Dataset) -> None:
    """Smoothing 7,600 pixels at once once gave no numbers at all."""
    small = score_input(store([chest])).model_input.pixels
    grey = stored(chest).astype(np.float32) / (2**chest.BitsStored - 1)
    plain = cxr_tensor(grey, (128, 128))
    for times in (2, 3, 8):
        large = cxr_tensor(grey.repeat(times, axis=0).repeat(times, axis=1), (128, 128))
        assert same_but_for(large, plain) < 0.6
    assert small.shape == plain.shape


@pytest.mark.parametrize(("times", "error"), [(14, 0), (17, 1)])
def test_the_border_of_a_very_large_picture_is_where_it_is(times: int, error: int) -> None:
    rng = np.random.default_rng(5)
    picture = np.pad((0.2 + 0.6 * rng.random((300, 280))).astype(np.float32), 20)
    rows, columns = content_box(picture.repeat(times, axis=0).repeat(times, axis=1))
    found = np.array([rows.start, rows.stop, columns.start, columns.stop])
    assert np.abs(found - times * np.array([20, 320, 20, 300])).max() <= error


def test_a_very_large_picture_without_border_stays_whole() -> None:
    rng = np.random.default_rng(5)
    assert content_box(rng.random((5001, 41)).astype(np.float32)) == (slice(0, 5001), slice(0, 41))


def test_a_large_radiograph_takes_a_few_times_its_own_room(chest: Dataset) -> None:
    """Its stored values are 2 bytes a pixel, its greys 4."""
    chest.add_new("PixelPaddingValue", "US", 5)
    chest.RescaleSlope, chest.RescaleIntercept = 1, 0
    set_pixels(chest, stored(chest).repeat(2, axis=0).repeat(2, axis=1))
    tracemalloc.start()
    displayed(chest)
    peak = tracemalloc.get_traced_memory()[1] / (chest.Rows * chest.Columns)
    tracemalloc.stop()
    assert peak < 16, f"{peak} bytes a pixel"
