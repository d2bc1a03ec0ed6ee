"""A patient with a device in the chest has a score like anybody else."""

import numpy as np
import numpy.typing as npt
import pydicom

from tests.support.peers import shared
from triage.bundles import Bundle, models_folder
from triage.config.schema import Models
from triage.messages import ModelInput
from workers.flows.engine import Engine
from workers.images.cxr import cxr_tensor
from workers.images.pixels import displayed


def with_pacemaker(picture: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Draw a metal disc below the left clavicle and its lead: as white as a radiograph can be."""
    found = picture.copy()
    height, width = found.shape
    y, x = np.mgrid[:height, :width]
    found[np.hypot(y - 0.29 * height, x - 0.7 * width) < 0.054 * width] = 1
    lead = np.abs(x - 0.68 * width + (y - 0.29 * height) * 0.4) < 0.004 * width
    found[lead & (y > 0.29 * height) & (y < 0.63 * height)] = 1
    return found


def test_a_pacemaker_leaves_nobody_without_a_score() -> None:
    engine = Engine(Bundle.open(models_folder(Models()) / "cxr-starter"), "cpu")
    files = sorted(shared("data", "dicom_cxr").glob("*.dcm"))
    assert len(files) > 20
    for file in files[::3]:  # normals and opacities; all take long
        picture = with_pacemaker(np.array(displayed(pydicom.dcmread(file))[0], np.float32))
        pixels = cxr_tensor(picture, engine.bundle.preprocessing.size)
        assert not engine.score(ModelInput(modality="CXR", pixels=pixels)).not_scored, file.name


def test_noise_still_has_none() -> None:
    engine = Engine(Bundle.open(models_folder(Models()) / "cxr-starter"), "cpu")
    noise = np.clip(np.random.default_rng(0).normal(0.5, 0.5, (512, 512)), 0, 1).astype(np.float32)
    pixels = cxr_tensor(noise, engine.bundle.preprocessing.size)
    assert engine.score(ModelInput(modality="CXR", pixels=pixels)).not_scored
