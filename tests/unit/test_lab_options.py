"""A preset's options, changed on the command line."""

import pytest

from triage.errors import ConfigurationError
from workers.lab.options import changed
from workers.lab.presets import find_preset

PRESET = find_preset("starter-cxr")


def test_options_are_changed_and_told() -> None:
    settings = ("flow.epochs=2", "flow.optimiser=adamax", "architecture.prior=learned", "transform.pool=[2, 2]")
    found = changed(PRESET, settings)
    assert (found.flow.epochs, found.flow.optimiser, found.architecture.prior) == (2, "adamax", "learned")
    assert found.transform.pool == (2, 2)
    assert found.base == PRESET.base
    assert found.name == f"starter-cxr with {', '.join(settings)}"
    assert changed(PRESET, ()) is PRESET


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("flow.epochs", "no value"),
        ("flow.epoch=2", "has no flow.epoch"),
        ("flows.epochs=2", "has no flows.epochs"),
        ("flow.epochs.more=2", "has no flow.epochs.more"),
        ("flow.epochs=-2", "flow.epochs"),
        ("flow.optimiser=sgd", "flow.optimiser"),
    ],
)
def test_what_no_option_is_is_told(setting: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        changed(PRESET, [setting])
    assert said in error.value.message
