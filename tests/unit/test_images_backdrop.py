"""What a head's relevance map is shown on: the slices that were scored, as a radiologist looks at them."""

from copy import deepcopy

import numpy as np
import pytest
from pydicom import Dataset

from tests.support.images import (
    GRIDS,
    Slices,
    Store,
    by_position,
    enhanced,
    score_input,
    second_series,
    set_pixels,
    stored,
    with_,
)
from triage.messages import Relevance
from triage.pictures import Backdrop
from workers.images import BCT, Source
from workers.images import backdrop as module
from workers.images.backdrop import backdrop

pytest_plugins = ["tests.support.images"]

PEAK = (4, 10, 20)


def shown(sources: list[Source]) -> Backdrop:
    """Return what a map with one high place is shown on."""
    values = np.zeros((8, 32, 32), np.uint8)
    values[PEAK] = 200
    return backdrop(sources, BCT, Relevance(method="test", values=values), GRIDS[BCT])


def test_a_map_is_shown_where_frames_are_doubled(store: Store, head: Slices) -> None:
    ordered = by_position(head)
    sources = store([enhanced([*ordered, ordered[4]], everything_shared=False)])
    found = score_input(sources)
    assert shown(sources).planes is not None
    assert found.sources == [sources[0].sop_instance_uid]


def test_only_the_scored_one_of_two_stacks_in_an_instance_is_shown(store: Store, head: Slices) -> None:
    sharp = with_(second_series(head[2:]), ConvolutionKernel="Hr68")
    between = deepcopy(sharp)
    for ds in between:
        ds.ImagePositionPatient[2] = float(ds.ImagePositionPatient[2]) + 2.0
    sources = store([enhanced([*by_position(head), *sharp, *between], everything_shared=False)])
    assert any(note.startswith(f"{len(head)} of ") for note in score_input(sources).notes)
    alone, beside = shown(store([enhanced(by_position(head), everything_shared=False)])), shown(sources)
    assert [picture.caption for picture in beside.pictures] == [picture.caption for picture in alone.pictures]
    assert beside.planes is not None
    assert alone.planes is not None
    assert beside.planes.positions == alone.planes.positions


def rotated(ds: Dataset, quarters: int, *, mirrored: bool) -> Dataset:
    """Return a slice whose rows and columns run along other axes of the same patient."""
    row, column = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
    corner, (down_mm, across_mm) = np.array(ds.ImagePositionPatient, float), map(float, ds.PixelSpacing)
    pixels, other = stored(ds), deepcopy(ds)
    if mirrored:
        pixels, row, column, down_mm, across_mm = pixels.T, column, row, across_mm, down_mm
    for _ in range(quarters):  # a quarter to the left: what was the last column is the first row
        corner = corner + row * across_mm * (pixels.shape[1] - 1)
        pixels, row, column, down_mm, across_mm = np.rot90(pixels), column, -row, across_mm, down_mm
    set_pixels(other, pixels)
    other.ImagePositionPatient, other.PixelSpacing = list(corner), [down_mm, across_mm]
    other.ImageOrientationPatient = [*row, *column]
    return other


def test_a_head_is_drawn_with_the_patients_left_on_the_right_however_it_was_stored(store: Store, head: Slices) -> None:
    """Of a patient who was scanned lying on a side the rows run from front to back."""
    upright = shown(store(head))
    for quarters, mirrored in ((1, False), (2, False), (0, True)):
        found = shown(store(rotated(ds, quarters, mirrored=mirrored) for ds in head))
        assert [picture.caption for picture in found.pictures] == [picture.caption for picture in upright.pictures]
        for one, other in zip(found.pictures, upright.pictures, strict=True):
            assert np.array_equal(one.grey, other.grey), (quarters, mirrored)
        # The head's own axes are found anew in the other raster.
        first, same = (there.pictures[0].deviations.ravel() for there in (found, upright))
        assert np.corrcoef(first, same)[0, 1] > 0.9, (quarters, mirrored)


def test_the_slice_with_the_highest_place_comes_first(store: Store, head: Slices) -> None:
    """One high place makes a slice less conspicuous as a whole than many that are half as high."""
    values = np.zeros((8, 32, 32), np.uint8)
    values[3, 8:24, 8:24] = 100
    values[6, 16, 16] = 250
    pictures = backdrop(store(head), BCT, Relevance(method="test", values=values), GRIDS[BCT]).pictures
    highest = [float(picture.deviations.max()) for picture in pictures]
    assert highest[0] == max(highest) > 6


def test_slices_are_chosen_by_maps_about_as_fine_as_the_models(
    store: Store, head: Slices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the slices' own pixels hundreds of thin ones would take minutes, and memory for all their maps."""
    sides: list[int] = []
    judge = module.conspicuousness

    def noted(deviations: np.ndarray) -> float:
        sides.append(max(deviations.shape))
        return judge(deviations)

    monkeypatch.setattr(module, "conspicuousness", noted)
    assert max(head[0].Rows, head[0].Columns) == 512
    assert {picture.deviations.shape for picture in shown(store(head)).pictures} == {(512, 512)}
    assert (len(sides), max(sides)) == (len(head), 64)
