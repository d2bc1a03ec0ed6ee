"""That a head from a scanner whose densities are off comes out as one from a scanner whose densities are not."""

from copy import deepcopy

import numpy as np
import pytest
from pydicom import Dataset

from tests.support.heads import volume_of
from tests.support.images import Store, model_grid, same_but_for
from tests.support.peers import shared
from triage.manifest import Preprocessing
from workers.images import BCT, prepare
from workers.images.bct import HeadTensor, bct_tensor
from workers.images.level import MAX_SHIFT_HU, brain_hu
from workers.images.pixels import Floats
from workers.images.resample import head_frame
from workers.images.volume import TOP

pytest_plugins = ["tests.support.images"]

AS_SCANNED = model_grid((32, 128, 128), (5.0, 1.8, 1.8))
LEVEL = AS_SCANNED.model_copy(update={"brain_hu": 35.0})


@pytest.fixture(scope="module", params=(3, 12))
def hu(request: pytest.FixtureRequest) -> Floats:
    with np.load(shared("data", "bct_ctich.npz"), allow_pickle=False) as arrays:
        volume: Floats = arrays["x"][request.param].astype(np.float32) / 255 * 120 - 20
    return np.where(volume < -19, -1000, np.where(volume > 99, 1000, volume))


def tensor(hu: Floats, grid: Preprocessing) -> HeadTensor:
    volume = volume_of(hu)
    return bct_tensor(volume, head_frame(volume), grid)


def brought_to(hu: Floats, brain: float) -> Floats:
    """Return a head whose brain has this density."""
    volume = volume_of(hu)
    return hu + np.float32(brain - brain_hu(volume, head_frame(volume)))


def noisy(hu: Floats) -> Floats:
    return hu + np.random.default_rng(0).normal(0, 5, hu.shape).astype(np.float32)


def test_the_density_of_brain_follows_the_scanner_and_not_its_noise(hu: Floats) -> None:
    volumes = [volume_of(of) for of in (hu, hu + 3, noisy(hu))]
    before, brighter, grainy = (brain_hu(volume, head_frame(volume)) for volume in volumes)
    assert 25 < before < 45
    assert brighter - before == pytest.approx(3, abs=0.1)
    assert grainy == pytest.approx(before, abs=0.5)


def test_heads_of_scanners_that_are_off_come_out_alike(hu: Floats) -> None:
    even = brought_to(hu, 35)
    for off in (-3, 3):
        with_it, without = (
            same_but_for(*(tensor(of, g).pixels for of in (even, even + off))) for g in (LEVEL, AS_SCANNED)
        )
        assert with_it < 0.3 * without


def test_air_and_bone_stay_and_soft_tissue_is_shifted_by_what_is_said(hu: Floats) -> None:
    dark = brought_to(hu, 33)
    before, after = tensor(dark, AS_SCANNED), tensor(dark, LEVEL)
    assert before.shift_hu == 0
    assert after.shift_hu == pytest.approx(2, abs=0.1)
    change = after.pixels.astype(int) - before.pixels
    assert np.all(change[before.pixels == TOP] == 0)
    assert np.all(np.abs(change[before.pixels == 0]) <= 1)  # rounded
    assert np.median(change[(before.pixels > 30) & (before.pixels < 80)]) == 2


def test_a_brain_that_is_dark_throughout_stays_darker(hu: Floats) -> None:
    oedema = tensor(brought_to(hu, 27), LEVEL)
    assert oedema.shift_hu == MAX_SHIFT_HU
    usual = tensor(brought_to(hu, 35), LEVEL).pixels.astype(int)
    brain = (usual > 40) & (usual < 60)
    assert np.median(usual[brain] - oedema.pixels[brain]) == pytest.approx(4, abs=0.5)


def test_a_reader_is_told_of_a_brain_that_was_much_brightened(store: Store, head: list[Dataset]) -> None:
    def notes(brain_at: float) -> list[str]:
        grid = LEVEL.model_copy(update={"brain_hu": brain_at})
        return [note for note in prepare(store(deepcopy(head)), {BCT: grid}).notes if note.startswith("brain")]

    lowest, highest = notes(25.0), notes(45.0)
    assert all("than usual, evened by" in note for note in lowest + highest)
    assert lowest + highest  # 20 HU lie between the two: at least one is far from any brain


def test_noise_reaches_a_smoothed_grid_much_less(hu: Floats) -> None:
    smooth = AS_SCANNED.model_copy(update={"smooth_mm": 1.8})
    drift, smoothed = (
        same_but_for(*(tensor(of, grid).pixels for of in (hu, noisy(hu)))) for grid in (AS_SCANNED, smooth)
    )
    assert smoothed < 0.6 * drift
