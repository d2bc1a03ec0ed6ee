"""Presets are the paper's, where they say so."""

import pytest
from pydantic import ValidationError

from triage.errors import ConfigurationError
from triage.manifest import Manifest, Training
from workers.flows.glow import Glow
from workers.lab.presets import PRESETS, Preset, find_preset


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_a_valid_manifest(name: str) -> None:
    preset = PRESETS[name]
    training = Training(
        preset=name,
        seed=0,
        images_normal=1,
        images_mixture=1,
        bits_per_dim_normal=1,
        bits_per_dim_mixture=1,
        made_with="",
    )
    Manifest(
        name="any",
        version="1",
        modality=preset.modality,
        preprocessing=preset.preprocessing,
        transform=preset.transform,
        architecture=preset.architecture,
        training=training,
    )
    assert len(preset.weights) == preset.architecture.levels


@pytest.mark.parametrize("changes", [{"hu_offset": 60}, {"grey_levels": 64}])
def test_no_preset_trains_on_grey_values_that_no_study_is_brought_to(changes: dict[str, int]) -> None:
    values = PRESETS["starter-bct"].model_dump()
    values["preprocessing"] |= changes
    with pytest.raises(ValidationError, match="must be 128 and 14"):
        Preset.model_validate(values)


def test_the_paper_s_tables_2_and_4() -> None:
    cxr, bct, sample = (PRESETS[name] for name in ("paper-cxr", "paper-bct", "paper-bct-sample"))
    assert (cxr.architecture.size, cxr.architecture.levels, cxr.architecture.depth) == ((512, 512), 7, 32)
    assert (cxr.flow.batch, cxr.flow.learning_rate, cxr.flow.epochs) == (128, 1e-3, 200)
    assert (bct.architecture.size, bct.architecture.levels, bct.architecture.depth) == ((32, 128, 128), 4, 32)
    assert set(bct.architecture.widths) == {512}
    assert (bct.flow.batch, bct.flow.learning_rate, bct.flow.epochs) == (1, 1e-4, 30)
    assert (bct.architecture.grey_levels, sample.architecture.size) == (128, (32, 64, 64))
    assert all(p.base.epochs == 0 and set(p.weights) == {1.0} for p in (cxr, bct, sample))


@pytest.mark.parametrize("name", [n for n in PRESETS if n.startswith("starter")])
def test_starter_flows_are_small(name: str) -> None:
    flow = Glow(PRESETS[name].architecture)
    assert sum(p.numel() for p in flow.parameters()) * 4 * 2 < 11e6


def test_an_unknown_preset_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="starter-cxr"):
        find_preset("other")
