"""Reads the configuration once: defaults, then one TOML file, then the environment; remembers who set what."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from triage.config.schema import Configuration
from triage.errors import ConfigurationError

ENV_PREFIX = "TRIAGE_"
ENV_NESTED = "__"
# Set by the operator or by us, but not keys of the configuration.
_NOT_KEYS = {"TRIAGE_CONFIG"}


@dataclass(frozen=True)
class Loaded:
    """A configuration and where its values came from.

    Attributes
    ----------
    configuration : Configuration
        The effective values.
    sources : dict of str to str
        Dotted key to ``"file"`` or ``"environment"``; keys that are absent have their default.
    file : pathlib.Path or None
        The TOML file that was read.
    """

    configuration: Configuration
    sources: dict[str, str]
    file: Path | None


class _Settings(Configuration, BaseSettings):
    """The same tree, as pydantic-settings' own source reads it from nested environment variables."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_NESTED, frozen=True)


def find_file(option: Path | None) -> Path | None:
    """Return the file to read: the option, else ``$TRIAGE_CONFIG``, else ``./triage.toml`` if there is one.

    Raises
    ------
    ConfigurationError
        If a file was asked for that is not there.
    """
    asked = option or (Path(os.environ["TRIAGE_CONFIG"]) if os.environ.get("TRIAGE_CONFIG") else None)
    if asked is None:
        here = Path("triage.toml")
        return here if here.is_file() else None
    if not asked.is_file():
        raise ConfigurationError(f"no configuration file {asked}", remedy="write one with: triage-node config init")
    return asked


def load(option: Path | None = None) -> Loaded:
    """Read, merge and validate the configuration.

    Raises
    ------
    ConfigurationError
        With one line for each thing that is wrong, and a suggestion for unknown keys.
    """
    file = find_file(option)
    from_file = _read_toml(file) if file else {}
    _refuse_unknown(Configuration, from_file, where=str(file))
    _refuse_unknown_variables()
    from_environment = _read_environment()
    _refuse_unknown(Configuration, from_environment, where="the environment")
    merged = _merge(from_file, from_environment)
    sources = dict.fromkeys(_leaves(from_file), "file") | dict.fromkeys(_leaves(from_environment), "environment")
    try:
        configuration = Configuration.model_validate(merged)
    except ValidationError as exc:
        raise ConfigurationError(_explain(exc), remedy="see: triage-node config init --print") from exc
    return Loaded(configuration, sources, file)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{file} is not TOML: {exc}", remedy="mend that line") from exc
    except OSError as exc:
        raise ConfigurationError(f"{file} cannot be read: {exc.strerror}") from exc
    # A path in a file is meant from the file's folder, wherever the command was started.
    if isinstance(tree.get("data_dir"), str):
        tree["data_dir"] = str((file.parent / tree["data_dir"]).resolve())
    return tree


def _read_environment() -> dict[str, Any]:
    try:
        return EnvSettingsSource(_Settings)()
    except SettingsError as exc:
        raise ConfigurationError(
            f"an environment variable cannot be read: {exc}", remedy="lists and tables are written as JSON"
        ) from exc


def _refuse_unknown_variables() -> None:
    known = {f"{ENV_PREFIX}{key.replace('.', ENV_NESTED)}".upper() for key in all_keys(Configuration)}
    for name in os.environ:
        upper = name.upper()
        if not upper.startswith(ENV_PREFIX) or upper in _NOT_KEYS or upper in known:
            continue
        # A table given by parts, such as TRIAGE_COMPLETE__QUIET_S__CT.
        if any(upper.startswith(key + ENV_NESTED) for key in known):
            continue
        close = difflib.get_close_matches(upper, known, n=1)
        remedy = f"did you mean {close[0]}?" if close else "see: triage-node config show"
        raise ConfigurationError(f"unknown environment variable {name}", remedy=remedy)


def all_keys(model: type[BaseModel], path: str = "") -> list[str]:
    """Return every key of the configuration, sections included, as dotted paths."""
    keys: list[str] = []
    for key in model.model_fields:
        keys.append(f"{path}{key}")
        section = _section(model, key)
        if section is not None:
            keys += all_keys(section, f"{path}{key}.")
    return keys


def _section(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    annotation = model.model_fields[key].annotation
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _refuse_unknown(model: type[BaseModel], tree: Mapping[str, Any], *, where: str, path: str = "") -> None:
    for key, value in tree.items():
        if key not in model.model_fields:
            close = difflib.get_close_matches(key, model.model_fields, n=1)
            remedy = f"did you mean {path}{close[0]}?" if close else f"known: {', '.join(model.model_fields)}"
            raise ConfigurationError(f"unknown key {path}{key} in {where}", remedy=remedy)
        section = _section(model, key)
        for item in value if isinstance(value, list) else [value]:
            if section is not None and isinstance(item, Mapping):
                _refuse_unknown(section, item, where=where, path=f"{path}{key}.")


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(value, Mapping) and isinstance(below, dict) else value
    return merged


def _leaves(tree: Mapping[str, Any], path: str = "") -> list[str]:
    found: list[str] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{path}{key}.")
        else:
            found.append(f"{path}{key}")
    return found


def _explain(exc: ValidationError) -> str:
    lines = []
    for error in exc.errors():
        key = ".".join(str(part) for part in error["loc"])
        lines.append(f"{key}: {error['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)
