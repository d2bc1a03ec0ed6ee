"""Where the inside of the skull is taken to be: also where a surgeon took a half of the vault away."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.bench.bleeds import PIXEL_MM, drawn
from tests.support.peers import shared
from triage.bundles import Bundle
from triage.calibration import UNLIKE
from triage.messages import ModelInput, Score
from workers.flows.engine import Engine
from workers.flows.intracranial import inside_skull
from workers.images.volume import lying_straight
from workers.lab.gridding import head_on_grid

Hu = npt.NDArray[np.float64]
MILLILITRES = 5.0 * 1.8 * 1.8 / 1000


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Bundle.open(Path("workers/models/bct-starter")), "cpu")


def head() -> tuple[Hu, float]:
    """Return a head without hemorrhage, HU, and how far its slices are apart, mm."""
    with np.load(shared("data", "bct_ctich.npz")) as arrays:
        row = int(np.flatnonzero(arrays["patient"].astype(str) == "54")[0])
        return arrays["x"][row] / 255 * 120 - 20.0, 0.15625 * float(arrays["n_slices"][row])


def without_half_of_its_vault(hu: Hu) -> Hu:
    """Return a head after a hemicraniectomy: scalp where bone was."""
    z, _, x = np.mgrid[-1 : 1 : hu.shape[0] * 1j, -1 : 1 : hu.shape[1] * 1j, -1 : 1 : hu.shape[2] * 1j]
    gone = (hu >= 85) & (x > 0.15) & (z > -0.3)
    return np.where(gone, 30, hu)


def on_grid(engine: Engine, hu: Hu, between_mm: float) -> npt.NDArray[np.uint8]:
    return head_on_grid(hu, lying_straight((between_mm, PIXEL_MM, PIXEL_MM)), engine.bundle.preprocessing)


def test_brain_behind_a_hole_in_the_skull_is_inside(engine: Engine) -> None:
    hu, between = head()
    whole, open_ = (inside_skull(on_grid(engine, a, between)) for a in (hu, without_half_of_its_vault(hu)))
    assert whole.sum() * MILLILITRES > 1000
    assert (whole & open_).sum() > 0.6 * whole.sum()
    assert (open_ & ~whole).sum() < 0.05 * whole.sum()  # scalp and muscle, bright as blood, stay outside


def test_a_bleed_lifts_a_head_after_a_craniectomy(engine: Engine) -> None:
    hu, between = head()
    bleeding = drawn(hu, between, "basal ganglia", 12.5)
    before, after = (
        engine.score(ModelInput(modality="BCT", pixels=on_grid(engine, without_half_of_its_vault(a), between)))
        for a in (hu, bleeding)
    )
    assert before.percentile < 80
    assert after.percentile > 95


def test_a_head_in_which_no_brain_is_found_has_no_score(engine: Engine) -> None:
    """What was not looked at is not normal: it stays in arrival order."""
    hu, between = head()
    score = engine.score(ModelInput(modality="BCT", pixels=on_grid(engine, hu.clip(None, 60), between)))
    assert score.not_scored == UNLIKE
    assert Score.from_wire(score.to_wire()).not_scored == UNLIKE
