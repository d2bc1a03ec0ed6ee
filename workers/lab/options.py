"""A preset with some options of its flows, or of how long it trains, changed, as `triage-node train --set` says."""

import json
import tomllib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from triage.errors import ConfigurationError
from workers.lab.presets import Preset

#: What can be changed without anything else that has to follow: grids, levels and estimators belong together.
OPTIONS = {
    "architecture": ("depth", "prior", "scale", "convolution", "edge"),
    "transform": ("views",),
    "flow": (
        "epochs", "batch", "micro_batch", "learning_rate", "optimiser", "warmup_steps", "clip_norm", "average",
        "patience", "shift", "checkpointing",
    ),
    "local": ("steps", "rehearsal"),
}  # fmt: skip
KEYS = tuple(f"{part}.{name}" for part, names in OPTIONS.items() for name in names)


def changed(preset: Preset, settings: Sequence[str]) -> Preset:
    """Return a preset with options changed; its name tells them.

    Parameters
    ----------
    preset : Preset
        Where they start from.
    settings : sequence of str
        ``KEY=VALUE`` each: one of `KEYS`, and a value as TOML has it; text needs no quotes.

    Raises
    ------
    ConfigurationError
        If a key isn't one of them, or a value is not what the key takes.
    """
    values = preset.model_dump()
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise ConfigurationError(f"--set {setting} has no value", remedy="give --set KEY=VALUE")
        if key not in KEYS:
            raise ConfigurationError(f"--set {setting}: there is no option {key}", remedy=f"options: {', '.join(KEYS)}")
        part, name = key.split(".")
        if values[part] is None:
            raise ConfigurationError(f"--set {setting}: preset {preset.name} has no {part} classifier")
        values[part][name] = _value(text)
    try:
        made = Preset.model_validate(values)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"--set {where}: {first['msg']}") from exc
    if made.flow.epochs == 0:
        raise ConfigurationError("--set flow.epochs=0 trains nothing", remedy="give at least 1")
    now, before = made.model_dump(mode="json"), preset.model_dump(mode="json")
    told = [
        f"{part}.{name}={json.dumps(now[part][name])}"
        for part, names in OPTIONS.items()
        for name in names
        if now[part] and now[part][name] != before[part][name]
    ]
    if not told:
        return preset
    return made.model_copy(update={"name": f"{preset.name} with {', '.join(told)}"})


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # what TOML takes for a broken value may be plain text
        return text
