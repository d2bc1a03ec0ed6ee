"""The inference engine against the training modules, and what must not change a bit of a score."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.flows import grey, images, pair, resum, tiny_bundle, tiny_calibration
from triage.bundles import Bundle
from triage.calibration import UNLIKE
from triage.messages import ModelInput
from workers.flows.engine import Engine
from workers.flows.fused import FusedFlows
from workers.flows.glow import dequantise

STARTERS = Path(__file__).parents[2] / "workers" / "models"

OPTIONS = [
    {},
    {"edge": False},
    {"scale": "openai", "convolution": "plain"},
    {"prior": "learned"},
    {"prior": "learned", "edge": False},
]
# One that is cut into strips and chunks in each direction, and ones with axes of one site after squeezing.
SIZES = [(16, 16), (8, 16, 8), (2, 8, 4), (96, 64), (8, 64, 64), (16, 4)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_training_modules_in_float64(size: tuple[int, ...], options: dict[str, object]) -> None:
    flows, x = [flow.double() for flow in pair(size, **options)], images(size)
    with torch.inference_mode():
        expected = torch.stack([flow.level_parts(x) for flow in flows])
    for count in (1, 3):
        found = FusedFlows(flows, dtype=torch.float64).parts(x[:count]).log_density
        assert torch.allclose(found, expected[:, :count], rtol=1e-11)


@pytest.mark.parametrize("name", ["cxr-starter", "bct-starter"])
def test_equals_the_training_modules_and_float64_on_trained_weights(name: str) -> None:
    engine = Engine(Bundle.open(STARTERS / name), "cpu")
    x = dequantise(torch.from_numpy(grey((2, 1, *engine.bundle.architecture.size), 32)).float(), 32)
    sample = engine.posterior.mixture.sample(2, generator=torch.Generator().manual_seed(3), temperature=0.8)
    for batch in (x, sample):
        found = engine.flows.parts(batch).log_density
        with torch.inference_mode():
            flows = (engine.posterior.normal, engine.posterior.mixture)
            naive = torch.stack([flow.level_parts(batch) for flow in flows])
            exact = torch.stack([flow.double().level_parts(batch.double()) for flow in flows])
            for flow in flows:
                flow.float()
        total = exact.sum(2)
        assert ((found.sum(2) - naive.sum(2)).abs() <= 1e-6 * naive.sum(2).abs()).all()
        assert ((found.sum(2) - total).abs() <= 1e-6 * total.abs()).all()
    ratio = total[1] - total[0]
    assert (found.sum(2)[1] - found.sum(2)[0] - ratio).abs().max() < 0.2


def test_the_largest_latents_are_those_of_the_training_modules() -> None:
    flows, x = pair((16, 16)), images((16, 16)).float()
    with torch.inference_mode():
        latents = [flow.encode(x)[0] for flow in flows]
    expected = torch.stack([torch.stack([z.abs().flatten(1).amax(1) for z in each], 1) for each in latents])
    assert torch.allclose(FusedFlows(flows).parts(x).largest_latent, expected.double(), rtol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (8, 16, 16)], ids=str)
def test_other_images_of_the_batch_do_not_change_a_bit(size: tuple[int, ...]) -> None:
    flows = FusedFlows(pair(size, widths=(32, 24)))
    x = images(size, 9).float()
    together = flows.parts(x).log_density
    alone = torch.cat([flows.parts(image[None]).log_density for image in x], 1)
    shuffled = flows.parts(x.flip(0)).log_density.flip(1)
    assert torch.equal(together, alone)
    assert torch.equal(together, shuffled)


SCRIPT = """
import json, torch
from tests.support.flows import images, perturbed
from triage.manifest import Architecture
from workers.flows.fused import FusedFlows
from workers.flows.glow import Glow
found = {}
# Deep levels of large images have matrix products that torch would share among its threads: the sums' order changes.
for size, widths in (((128, 96), (48, 33)), ((16, 32, 32), (48, 33)), ((32, 64, 64), (40, 33, 24))):
    architecture = Architecture(size=size, grey_levels=16, depth=1, widths=widths)
    flows = FusedFlows([perturbed(Glow(architecture, seed=seed), scale=0.03, seed=seed) for seed in (1, 2)])
    for count in (1, 2):
        parts = flows.parts(images(size, count).float())
        found[f"{size} {count}"] = [value.hex() for value in parts.log_density.flatten().tolist()]
print(json.dumps([torch.get_num_threads(), found]))
"""


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    answers = []
    for threads in ("1", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        answers.append(json.loads(done.stdout))
    assert [threads for threads, _ in answers] == [1, 2]
    assert answers[0][1] == answers[1][1]


def test_the_caller_s_threads_are_as_they_were() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        FusedFlows(pair((128, 96))).parts(images((128, 96)).float())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("options", [{}, {"prior": "learned"}], ids=str)
def test_shared_levels_cancel_to_exactly_zero(options: dict[str, object]) -> None:
    normal, mixture = pair((16, 16), shared_levels=1, **options)
    mixture.levels[0] = normal.levels[0]
    if mixture.priors:
        mixture.priors[0] = normal.priors[0]
    for count in (1, 3):
        parts = FusedFlows([normal, mixture]).parts(images((16, 16), count).float()).log_density
        assert (parts[1, :, 0] - parts[0, :, 0] == 0).all()
        assert (parts[1, :, 1] != parts[0, :, 1]).all()
        apart = FusedFlows([normal, mixture], shared_levels=0).parts(images((16, 16), count).float()).log_density
        assert torch.equal(parts, apart)


def test_a_flow_that_explodes_gives_a_reason_not_a_rank(tmp_path: Path) -> None:
    """-1e12 nats were seen; the levels' calibrated ranges catch that. Infinities need none: `test_flows_engine`."""
    from safetensors.torch import load_file, save_file

    ranges = {f"{flow}.level{level}": (-1e6, 1e6) for flow in ("normal", "mixture") for level in (1, 2)}
    bundle = tiny_bundle(tmp_path / "tiny", calibration=tiny_calibration(ranges=ranges))
    weights = load_file(bundle.folder / "mixture.safetensors")
    weights["levels.0.steps.0.actnorm.logs"] += 8.0
    save_file(weights, bundle.folder / "mixture.safetensors")
    resum(bundle.folder)
    score = Engine(Bundle.open(bundle.folder), "cpu").score(ModelInput(modality="CXR", pixels=grey((8, 8), 256)))
    assert -math.inf < score.log_prob_mixture < -1e12
    assert score.not_scored == UNLIKE


def test_latents_out_of_the_calibrated_range_are_not_scored(tmp_path: Path) -> None:
    strict = tiny_calibration(ranges={"latent.mixture.level2": (0.0, 1e-3)})
    bundle = tiny_bundle(tmp_path / "strict", calibration=strict)
    score = Engine(bundle, "cpu").score(ModelInput(modality="CXR", pixels=grey((8, 8), 256)))
    assert score.not_scored == UNLIKE
    assert np.isfinite(score.log_posterior)
