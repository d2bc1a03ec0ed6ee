"""The score task: of several images of a study the most abnormal one counts, wherever it stands."""

from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread

from tests.support.peers import shared
from triage.bundles import Bundle, models_folder
from triage.config.schema import Models
from triage.messages import ModelInput
from workers.flows.engine import Engine
from workers.images.cxr import cxr_tensor
from workers.images.pixels import displayed
from workers.score import score_one


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(Bundle.open(models_folder(Models()) / "cxr-starter"), "cpu")


def test_the_most_abnormal_image_counts(engine: Engine) -> None:
    engines, digest = {engine.bundle.digest: engine}, engine.bundle.digest
    files = sorted(shared("data", "dicom_cxr").glob("*.dcm"))
    pictures = [cxr_tensor(displayed(dcmread(file))[0], (128, 128)) for file in (files[0], files[13])]
    noise = np.random.default_rng(0).integers(0, 256, (128, 128)).astype(np.uint8)
    alone = [engine.score(ModelInput(modality="CXR", pixels=pixels)) for pixels in (*pictures, noise)]
    assert alone[2].not_scored
    assert not alone[0].not_scored
    highest = max(alone[:2], key=lambda score: score.combined)
    assert highest.p_value is not None
    for images in ([*pictures, noise], [noise, *pictures[::-1]]):  # the highest is another one of them
        score = score_one(engines, digest, ModelInput(modality="CXR", pixels=images[0], others=tuple(images[1:])))
        assert score.images == 3
        assert score.combined == highest.combined
        assert np.array_equal(images[score.chosen], pictures[alone.index(highest)])
        assert score.p_value == min(1.0, 2 * highest.p_value)
        assert score.calibrated is None
        assert score.passed_over == f"1 of 3 images not scored: {alone[2].not_scored}"
    one = score_one(engines, digest, ModelInput(modality="CXR", pixels=pictures[0]))
    assert replace(one, model_time_s=0) == replace(alone[0], model_time_s=0)
    none = score_one(engines, digest, ModelInput(modality="CXR", pixels=noise, others=(noise,)))
    assert none.not_scored
    assert not none.passed_over
