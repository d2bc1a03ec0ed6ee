"""Flows on disk: what they share is stored once, and put together again."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.flows import grey, perturbed, resum, tiny_bundle, tiny_calibration, tiny_manifest
from triage.bundles import GOLDEN, MIXTURE, NORMAL, Bundle, write_bundle
from triage.errors import BundleError
from triage.messages import ModelInput
from workers.flows.engine import Engine
from workers.flows.glow import Glow
from workers.flows.golden_input import GoldenInput
from workers.flows.posterior import Posterior
from workers.flows.precision import check_precision
from workers.flows.weights import load_flows, save_flows
from workers.lab.golden import make_golden

CPU = torch.device("cpu")


def shared_bundle(folder: Path, prior: str = "learned") -> tuple[Bundle, Glow, Glow]:
    """Write a bundle whose flows share their finest level."""
    folder.mkdir()
    manifest = tiny_manifest(name=folder.name)
    architecture = manifest.architecture.model_copy(update={"shared_levels": 1, "prior": prior})
    manifest = manifest.model_copy(update={"architecture": architecture})
    normal, mixture = (perturbed(Glow(architecture, seed=seed), seed=seed) for seed in (1, 2))
    state = {k: v for k, v in normal.state_dict().items() if k.startswith(("levels.0.", "priors.0."))}
    mixture.load_state_dict(state, strict=False)
    save_flows(normal, mixture, folder)
    save_file(make_golden(Posterior(normal, mixture), manifest), folder / GOLDEN)
    return write_bundle(folder, manifest, tiny_calibration(), "# A card\n"), normal, mixture


@pytest.mark.parametrize("prior", ["fixed", "learned"])
def test_shared_levels_are_stored_once_and_come_back(tmp_path: Path, prior: str) -> None:
    bundle, *flows = shared_bundle(tmp_path / "shared", prior)
    stored = load_file(bundle.folder / MIXTURE).keys()
    assert not any(name.startswith(("levels.0.", "priors.0.")) for name in stored)
    assert any(name.startswith("levels.1.") for name in stored)
    loaded = load_flows(bundle, CPU)
    for flow, found in zip(flows, loaded, strict=True):
        expected = flow.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
    assert loaded[0].levels[0] is loaded[1].levels[0]


def test_a_shared_level_adds_exactly_nothing_to_the_score(tmp_path: Path) -> None:
    bundle, *_ = shared_bundle(tmp_path / "shared")
    score = Engine(bundle, "cpu").score(ModelInput(modality="CXR", pixels=grey((8, 8), 256)))
    assert score.levels_normal[0] == score.levels_mixture[0]
    assert score.levels_normal[1] != score.levels_mixture[1]


def test_flows_that_differ_where_they_should_share_are_not_written(tmp_path: Path) -> None:
    architecture = tiny_manifest().architecture.model_copy(update={"shared_levels": 1})
    with pytest.raises(BundleError, match="differ in levels"):
        save_flows(Glow(architecture, seed=1), Glow(architecture, seed=2), tmp_path)


def test_a_mixture_file_that_repeats_a_shared_level_is_refused(tmp_path: Path) -> None:
    bundle, _, mixture = shared_bundle(tmp_path / "shared")
    save_file(mixture.state_dict(), bundle.folder / MIXTURE)
    resum(bundle.folder)
    with pytest.raises(BundleError, match="doesn't hold"):
        load_flows(Bundle.open(bundle.folder), CPU)


def test_bundles_without_shared_levels_load_as_before(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    for file, flow in zip((NORMAL, MIXTURE), load_flows(bundle, CPU), strict=True):
        stored = load_file(bundle.folder / file)
        assert all(torch.equal(stored[name], tensor) for name, tensor in flow.state_dict().items())


@pytest.mark.parametrize("blocks", [(3, 3), (16, 16), (4,), (4, 4, 1), (0, 4)])
def test_a_golden_input_that_is_not_of_the_bundle_s_grid_is_refused(tmp_path: Path, blocks: tuple[int, ...]) -> None:
    """Blocks of 3 x 3 on a grid of 8 x 8 made an image of 6 x 6."""
    bundle = tiny_bundle(tmp_path / "tiny")
    golden = load_file(bundle.folder / GOLDEN) | {"pixels": torch.zeros(blocks, dtype=torch.uint8)}
    save_file(golden, bundle.folder / GOLDEN)
    with pytest.raises(BundleError, match="holds no image with its score"):
        GoldenInput.load(bundle)


def test_a_preview_is_marked_and_refused_where_it_moves_the_ratio(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny")
    check = check_precision(bundle, CPU, "bfloat16")
    assert check.passed
    assert Engine(bundle, "cpu", precision="bfloat16").compute == "cpu bfloat16 couplings, preview"
    weights = load_file(bundle.folder / NORMAL)
    for level in (0, 1):
        weights[f"levels.{level}.steps.0.coupling.net.logs"] += 1.5  # coarse nets whose rounding reaches the score
    save_file(weights, bundle.folder / NORMAL)
    resum(bundle.folder)
    altered = Bundle.open(bundle.folder)
    assert not check_precision(altered, CPU, "bfloat16").passed
    assert check_precision(altered, CPU, "float32").passed
    with pytest.raises(BundleError, match="bfloat16 is a preview"):
        Engine(altered, "cpu", precision="bfloat16")
