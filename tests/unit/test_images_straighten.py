"""That a head which lies turned comes out as if it didn't, and its map back onto its slices."""

from copy import deepcopy

import numpy as np
import pytest
from pydicom import Dataset
from scipy import ndimage

from tests.support.heads import volume_of
from tests.support.images import Store, model_grid, same_but_for
from tests.support.peers import shared
from triage.manifest import Preprocessing
from triage.messages import Relevance
from workers.images import BCT, Source, prepare
from workers.images.backdrop import backdrop
from workers.images.pixels import Floats
from workers.images.resample import head_frame, on_grid
from workers.images.straighten import MAX_DEGREES, pose, straightened

pytest_plugins = ["tests.support.images"]

AS_IT_LIES = model_grid((32, 128, 128), (5.0, 1.8, 1.8))
STRAIGHT = AS_IT_LIES.model_copy(update={"straighten": True})


@pytest.fixture(scope="module", params=(3, 12))
def hu(request: pytest.FixtureRequest) -> Floats:
    with np.load(shared("data", "bct_ctich.npz"), allow_pickle=False) as arrays:
        volume: Floats = arrays["x"][request.param].astype(np.float32) / 255 * 120 - 20
    return np.pad(np.where(volume < -19, -1000, volume), ((0, 0), (16, 16), (16, 16)), constant_values=-1000)


def turned(hu: Floats, degrees: float) -> Floats:
    found: Floats = ndimage.rotate(hu, degrees, axes=(1, 2), reshape=False, order=1, cval=-1000)
    return found


@pytest.mark.parametrize("degrees", [-15.0, 5.0])
def test_a_turned_head_comes_out_as_it_was(hu: Floats, degrees: float) -> None:
    def laid(of: Floats, grid: Preprocessing) -> np.ndarray:
        volume = volume_of(of)
        return on_grid(volume, pose(volume, head_frame(volume), grid), grid)

    straight, askew = (laid(of, STRAIGHT) for of in (hu, turned(hu, degrees)))
    drift = same_but_for(laid(hu, AS_IT_LIES), laid(turned(hu, degrees), AS_IT_LIES))
    assert same_but_for(straight, askew) < 0.5 * drift


def test_the_turn_is_found_within_a_degree(hu: Floats) -> None:
    volumes = [volume_of(turned(hu, degrees)) for degrees in (0, 6, -6, -45)]
    found = [straightened(volume, head_frame(volume)).turned_degrees for volume in volumes]
    assert np.diff(found) == pytest.approx([-6, 12, 39], abs=1.5)
    assert np.abs(found).max() <= MAX_DEGREES


def test_axes_stay_at_right_angles_and_the_slices_normal_stays(hu: Floats) -> None:
    volume = volume_of(turned(hu, 20))
    before = head_frame(volume)
    after = straightened(volume, before)
    assert after.axes @ after.axes.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.array_equal(after.axes[2], before.axes[2])
    assert after.top == pytest.approx(before.top)


def test_the_same_line_from_the_same_head(hu: Floats) -> None:
    volume = volume_of(hu)
    one, other = (straightened(volume, head_frame(volume)) for _ in range(2))
    assert one.turned_degrees == other.turned_degrees
    assert np.array_equal(one.centre, other.centre)


def askew(slices: list[Dataset], degrees: float) -> list[Dataset]:
    """Say of the slices that they were acquired turned: the head lies turned in the patient's axes."""
    turn, found = np.radians(degrees), deepcopy(slices)
    middle = np.array([(ds.Rows - 1) / 2 * float(ds.PixelSpacing[0]) for ds in slices[:1] * 2])
    for ds in found:
        row, column = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        ds.ImageOrientationPatient = [*row, 0, *column, 0]
        old = np.array([float(v) for v in ds.ImagePositionPatient])
        centre = old[:2] + middle
        ds.ImagePositionPatient = [*(centre - middle[0] * row - middle[1] * column), old[2]]
    return found


def test_a_reader_is_told_and_the_input_is_the_same(store: Store, head: list[Dataset]) -> None:
    grids = {BCT: STRAIGHT}
    one, other = (prepare(store(askew(head, degrees)), grids) for degrees in (0.0, 20.0))
    assert same_but_for(one.model_input.pixels, other.model_input.pixels) < 1.0
    told = [note for note in other.notes if note.endswith("straightened")]
    assert len(told) == 1
    assert 10 <= int(told[0].removeprefix("head turned by ").split()[0]) <= 30


def test_a_map_comes_back_onto_the_slices_it_was_made_of() -> None:
    """A map that is high where the input is bright lies, on the slices, where they are bright."""
    files = sorted(shared("data", "dicom_bct", "p79_ich").glob("*.dcm"))
    sources = [Source(file.name, file) for file in files]
    pixels = prepare(sources, {BCT: STRAIGHT}).model_input.pixels
    relevance = Relevance.of("gradient", pixels / 10)
    shown = backdrop(sources, BCT, relevance, STRAIGHT)
    assert shown.pictures
    for picture in shown.pictures:
        inside = picture.deviations > 1
        agreement = np.corrcoef(picture.grey[inside], picture.deviations[inside])[0, 1]
        assert agreement > 0.8
