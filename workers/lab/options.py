"""A preset with some of its options changed, as `triage-node train --set` says."""

import tomllib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from triage.errors import ConfigurationError
from workers.lab.presets import Preset


def changed(preset: Preset, settings: Sequence[str]) -> Preset:
    """Return a preset with options changed; its name tells them.

    Parameters
    ----------
    preset : Preset
        Where they start from.
    settings : sequence of str
        ``KEY=VALUE`` each: a key as `triage-node models show PRESET --json` lists it, its parts joined by dots
        (``flow.epochs``), and a value as TOML has it; text needs no quotes.

    Raises
    ------
    ConfigurationError
        If a key isn't one of the preset's, or a value is not what the key takes.
    """
    if not settings:
        return preset
    values: dict[str, Any] = preset.model_dump()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigurationError(f"--set {setting} has no value", remedy="give --set KEY=VALUE")
        *path, last = key.strip().split(".")
        place: Any = values
        for part in path:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            remedy = f"keys are listed by: triage-node models show {preset.name} --json"
            raise ConfigurationError(f"--set {setting}: preset {preset.name} has no {key.strip()}", remedy=remedy)
        place[last] = _value(text.strip())
    values["name"] = f"{preset.name} with {', '.join(settings)}"
    try:
        return Preset.model_validate(values)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"--set: {where}: {first['msg']}") from exc


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
