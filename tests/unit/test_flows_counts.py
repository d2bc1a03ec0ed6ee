"""The closed formulas of `models show` against the modules, torch's own counting, and the design's figures."""

import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from triage.bundles import GOLDEN, MAPS, Bundle, models_folder, write_bundle
from triage.config.schema import Models
from triage.manifest import Architecture
from workers.flows.bijections import EdgeConvolution, LUConvolution
from workers.flows.counts import count_levels, pair_operations
from workers.flows.glow import Glow
from workers.lab.models_cli import models_app
from workers.lab.presets import find_preset

ARCHITECTURES = [
    Architecture(size=(16, 24), grey_levels=16, depth=3, widths=(6, 5, 7)),
    Architecture(size=(8, 8, 16), grey_levels=16, depth=2, widths=(5, 4)),
    Architecture(size=(16, 16), grey_levels=16, depth=2, widths=(6, 5), convolution="plain", edge=False),
    Architecture(size=(16, 16), grey_levels=16, depth=2, widths=(6, 5), prior="learned", scale="openai"),
    Architecture(size=(8, 8, 8), grey_levels=16, depth=1, widths=(3, 4, 5), prior="learned", edge=False),
]


def free_parameters(flow: Glow) -> int:
    """Count trained numbers; of an LU decomposition's matrices only the triangles are used."""
    total = sum(parameter.numel() for parameter in flow.parameters())
    for module in flow.modules():
        if isinstance(module, LUConvolution):
            c = len(module.log_s)
            total -= 2 * (c * c - c * (c - 1) // 2)
    return total


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_parameters_are_those_of_the_modules(architecture: Architecture) -> None:
    flow, counts = Glow(architecture), count_levels(architecture)
    assert sum(count.parameters for count in counts) == free_parameters(flow)
    assert sum(count.stored for count in counts) == sum(tensor.numel() for tensor in flow.state_dict().values())


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_operations_are_those_that_torch_counts(architecture: Architecture, images: int) -> None:
    flow = Glow(architecture)
    per_hook = {"image": 0, "edge": 0}

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, EdgeConvolution) and module.edge:
            sites, taps = output[0, 0].numel(), module.weight[0, 0].numel()
            per_hook["edge"] += 2 * sites * taps * module.weight.shape[0]

    handles = [module.register_forward_hook(count) for module in flow.modules()]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        flow.encode(torch.zeros(images, 1, *architecture.size))
    for handle in handles:
        handle.remove()
    counts = count_levels(architecture)
    # Products that make W of its LU decomposition are counted by torch, but are no work an image.
    found = counter.get_flop_counts()["Global"]
    convolutions = sum(flops for kind, flops in found.items() if "convolution" in str(kind))
    assert per_hook["edge"] == sum(level.edge_operations for level in counts)
    assert convolutions == images * sum(level.operations for level in counts) + per_hook["edge"]


@pytest.mark.parametrize(
    ("preset", "million_parameters", "gflop"), [("paper-cxr", 176, 1697), ("paper-bct", 496, 2565)]
)
def test_the_paper_s_configurations_are_as_large_as_the_design_says(
    preset: str, million_parameters: int, gflop: int
) -> None:
    counts = count_levels(find_preset(preset).architecture)
    assert round(sum(count.parameters for count in counts) / 1e6) == million_parameters
    assert round(sum(count.operations for count in counts) / 1e9) == gflop


def test_shared_levels_are_computed_once() -> None:
    architecture = ARCHITECTURES[0]
    first, *others = (count.operations for count in count_levels(architecture))
    assert pair_operations(architecture) == 2 * (first + sum(others))
    assert pair_operations(architecture.model_copy(update={"shared_levels": 1})) == first + 2 * sum(others)


def test_models_show_prints_all_there_is_to_know_of_a_bundle() -> None:
    shown = json.loads(CliRunner().invoke(models_app, ["show", "cxr-starter", "--json"]).stdout)
    bundle = Bundle.open(Path(shown["folder"]))
    assert (shown["digest"], shown["card"], shown["active"]) == (bundle.digest, bundle.card, True)
    assert Architecture.model_validate(shown["architecture"]) == bundle.architecture
    assert {"log_prob_normal", "plain_ratio", "flows", "combined"} <= set(shown["estimators"])
    assert shown["counts"]["parameters"] == free_parameters(Glow(bundle.architecture))
    text = CliRunner().invoke(models_app, ["show", "cxr-starter"]).stdout
    assert f"{shown['counts']['parameters']:,}" in text
    assert "What it must not be used for" in text


def test_models_show_knows_presets_and_says_what_there_is_not() -> None:
    shown = json.loads(CliRunner().invoke(models_app, ["show", "paper-bct", "--json"]).stdout)
    assert shown["counts"]["operations"] == sum(level["operations"] for level in shown["counts"]["levels"])
    missing = CliRunner().invoke(models_app, ["show", "nothing"])
    assert missing.exit_code != 0
    assert "there is no bundle nothing" in str(missing.exception)


def test_models_verify_measures_the_ratio_s_error() -> None:
    """That one which is too coarse is refused: `test_flows_weights`."""
    good = CliRunner().invoke(models_app, ["verify", "cxr-starter", "--json"])
    assert good.exit_code == 0
    assert all(row["ratio_error_nats"] < 0.01 and row["device"] == "cpu" for row in json.loads(good.stdout))


def test_models_verify_tells_of_an_odd_bundle_and_goes_on(tmp_path: Path) -> None:
    """Its sums are right; what they are of can't be used."""
    shipped = models_folder(Models())
    for name in ("a-odd-maps", "b-odd-template", "c-odd-golden"):
        copytree(shipped / "cxr-starter", tmp_path / name)
    (tmp_path / "a-odd-maps" / MAPS).write_bytes(b"\xff" * 100)
    (tmp_path / "c-odd-golden" / GOLDEN).write_bytes(b"{}")
    for folder in sorted(tmp_path.iterdir()):
        bundle = Bundle.open(shipped / "cxr-starter")
        template = bundle.calibration.template[:5] if "template" in folder.name else bundle.calibration.template
        write_bundle(folder, bundle.manifest, bundle.calibration.model_copy(update={"template": template}), bundle.card)
    found = CliRunner().invoke(models_app, ["verify", *map(str, sorted(tmp_path.iterdir())), "--json"])
    assert found.exit_code == 1
    maps, template, golden = json.loads(found.stdout)
    assert "maps.safetensors cannot be used" in maps["problem"]
    assert "template" in template["problem"]
    assert "golden.safetensors cannot be read" in golden["problem"]
