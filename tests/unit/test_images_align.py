"""That heads come out in one pose however they lay and however far they were scanned, and their maps back onto them."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from tests.support.heads import volume_of
from tests.support.images import ModelGrid, Store, same_but_for
from tests.support.peers import shared
from triage.messages import Relevance
from workers.images import BCT, Source, prepare
from workers.images.align import aligned, boxed, fitted, mean_head, pose
from workers.images.backdrop import backdrop
from workers.images.pixels import Floats
from workers.images.resample import HeadFrame, head_frame, on_grid
from workers.images.straighten import straightened

pytest_plugins = ["tests.support.images"]

STRAIGHT = ModelGrid((32, 128, 128), (5.0, 1.8, 1.8), straighten=True)
ALIGNED = replace(STRAIGHT, align=True)
SLICE_MM = 5.0


@pytest.fixture(scope="module", params=(9, 37))
def hu(request: pytest.FixtureRequest) -> Floats:
    """A head, slices 5 mm apart, with air around and above it."""
    with np.load(shared("data", "bct_ctich.npz"), allow_pickle=False) as arrays:
        volume: Floats = arrays["x"][request.param].astype(np.float32) / 255 * 120 - 20
    return np.pad(np.where(volume < -19, -1000, volume), ((0, 5), (16, 16), (16, 16)), constant_values=-1000)


def turned(hu: Floats, degrees: float, axis: int) -> Floats:
    """Turn a head about the axis from ear to ear (2) or from front to back (1)."""
    flat = (SLICE_MM, 1.56, 1.56)
    angle, across = np.radians(degrees), 3 - axis
    turn = np.eye(3)
    turn[0, 0] = turn[across, across] = np.cos(angle)
    turn[0, across], turn[across, 0] = np.sin(angle), -np.sin(angle)
    matrix = np.diag(1 / np.array(flat)) @ turn @ np.diag(flat)
    middle = (np.array(hu.shape) - 1) / 2
    found: Floats = ndimage.affine_transform(hu, matrix, middle - matrix @ middle, order=1, cval=-1000)
    return found


def laid(hu: Floats, grid: ModelGrid) -> np.ndarray:
    volume = volume_of(hu, SLICE_MM)
    return on_grid(volume, pose(volume, head_frame(volume), grid), grid)


def common(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean difference of two heads from 20 to 90 mm under the grid's upper edge, which both show."""
    return same_but_for(one[14:28], other[14:28])


@pytest.mark.parametrize(("degrees", "axis"), [(8.0, 2), (-8.0, 2), (8.0, 1)])
def test_a_head_that_nods_or_leans_comes_out_as_it_was(hu: Floats, degrees: float, axis: int) -> None:
    askew = turned(hu, degrees, axis)
    drift = common(laid(hu, STRAIGHT), laid(askew, STRAIGHT))
    assert common(laid(hu, ALIGNED), laid(askew, ALIGNED)) < 0.75 * drift


@pytest.mark.parametrize("cut", [slice(None, -6), slice(2, None)], ids=["highest slice", "lowest two slices"])
def test_a_missing_slice_moves_nothing(hu: Floats, cut: slice) -> None:
    whole, less = (head_and_frame(of) for of in (hu, hu[cut]))
    below = SLICE_MM * (cut.start or 0)
    assert np.abs(place(whole) - place(less) - [0, 0, below]).max() < 3.0


def head_and_frame(hu: Floats) -> HeadFrame:
    volume = volume_of(hu, SLICE_MM)
    return aligned(volume, straightened(volume, head_frame(volume)))


def place(frame: HeadFrame) -> np.ndarray:
    """Return where a point in the middle of the head, 70 mm under its top, is in the patient, mm."""
    found: np.ndarray = np.array([*frame.centre, frame.top - 70.0]) @ frame.axes
    return found


def test_axes_stay_at_right_angles(hu: Floats) -> None:
    axes = head_and_frame(turned(hu, 8, 2)).axes
    assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)


def test_a_head_fits_the_mean_head_better_afterwards(hu: Floats) -> None:
    volume = volume_of(hu, SLICE_MM)
    before = straightened(volume, head_frame(volume))
    poses = [fitted(boxed(volume, frame), mean_head()) for frame in (before, aligned(volume, before))]
    turns, shifts = ([float(np.linalg.norm(one[part])) for one in poses] for part in (slice(3), slice(3, 6)))
    assert turns[1] < 0.2 * turns[0] + 1.5
    assert shifts[1] < 0.2 * shifts[0] + 1.0


def test_what_fits_no_head_stays_as_it_lies(hu: Floats) -> None:
    volume = volume_of(hu, 3 * SLICE_MM)
    frame = straightened(volume, head_frame(volume))
    assert aligned(volume, frame) is frame


_POSE = """
import numpy as np
from tests.unit.test_images_align import SLICE_MM, head_and_frame
from tests.support.peers import shared
with np.load(shared("data", "bct_ctich.npz"), allow_pickle=False) as arrays:
    hu = arrays["x"][9].astype(np.float32) / 255 * 120 - 20
frame = head_and_frame(np.where(hu < -19, -1000, hu))
print(frame.axes.tobytes().hex(), frame.centre.tobytes().hex(), frame.top.hex())
"""


def test_the_same_pose_by_any_number_of_threads() -> None:
    def found(threads: int) -> str:
        count = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        run = subprocess.run(
            [sys.executable, "-c", _POSE], env=os.environ | count, capture_output=True, text=True, check=True
        )
        return run.stdout

    assert found(1) == found(2) != ""


def test_a_reader_is_told_of_a_large_tilt(store: Store) -> None:
    sources = [Source(file.name, file) for file in sorted(shared("data", "dicom_bct", "p64_noich").glob("*.dcm"))]
    told = [note for note in prepare(sources, {BCT: ALIGNED}).notes if note.endswith("levelled")]
    assert len(told) == 1
    assert 10 <= int(told[0].removeprefix("head tilted by ").split()[0]) <= 25
    assert not [note for note in prepare(sources, {BCT: STRAIGHT}).notes if note.endswith("levelled")]


def test_a_map_comes_back_onto_the_slices_it_was_made_of() -> None:
    """A map that is high where the input is bright lies, on the slices, where they are bright."""
    sources = [Source(file.name, file) for file in sorted(shared("data", "dicom_bct", "p64_noich").glob("*.dcm"))]
    pixels = prepare(sources, {BCT: ALIGNED}).model_input.pixels
    shown = backdrop(sources, BCT, Relevance.of("gradient", pixels / 10), ALIGNED)
    for picture in shown.pictures:
        inside = picture.deviations > 1
        assert np.corrcoef(picture.grey[inside], picture.deviations[inside])[0, 1] > 0.75
