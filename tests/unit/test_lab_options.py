"""A preset's options, changed on the command line."""

import pytest

from triage.errors import ConfigurationError
from workers.lab.options import changed
from workers.lab.presets import find_preset

PRESET = find_preset("starter-cxr")


def test_options_are_changed_and_told() -> None:
    found = changed(PRESET, ["flow.optimiser = adamax", "flow.epochs=2", "architecture.prior='learned'"])
    assert (found.flow.epochs, found.flow.optimiser, found.architecture.prior) == (2, "adamax", "learned")
    assert found.base == PRESET.base
    quick = changed(PRESET, ["local.steps=20", "local.rehearsal=0"]).local
    assert quick is not None
    assert (quick.steps, quick.rehearsal) == (20, 0)
    assert found.name == 'starter-cxr with architecture.prior="learned", flow.epochs=2, flow.optimiser="adamax"'


def test_the_same_options_are_the_same_preset_however_they_are_written() -> None:
    assert changed(PRESET, ()) == changed(PRESET, ["flow.epochs=16"]) == PRESET
    one, other = (["flow.epochs=2", "flow.shift=0"], ["flow.shift = 0", "flow.epochs=9", "flow.epochs=2"])
    assert changed(PRESET, one) == changed(PRESET, other)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("flow.epochs", "no value"),
        ("flow.epoch=2", "no option flow.epoch"),
        ("modality=BCT", "no option modality"),
        ("flow.epochs=-2", "flow.epochs"),
        ("flow.epochs=0", "trains nothing"),
        ("flow.epochs=" + "9" * 5000, "flow.epochs"),
        ("flow.epochs=" + "[" * 2000, "flow.epochs"),
        ("flow.optimiser=sgd", "flow.optimiser"),
        ("flow.learning_rate=nan", "flow.learning_rate"),
    ],
)
def test_what_no_option_is_is_told(setting: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        changed(PRESET, [setting])
    assert said in error.value.message


def test_a_preset_without_a_local_classifier_has_no_steps_of_one() -> None:
    with pytest.raises(ConfigurationError, match="no local classifier"):
        changed(find_preset("paper-cxr"), ["local.steps=20"])
    assert changed(find_preset("paper-cxr"), ["flow.epochs=3"]).flow.epochs == 3
