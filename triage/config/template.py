"""Writes a commented configuration and shows the effective one; both are made from the schema alone."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from triage.config.load import Loaded
from triage.config.schema import Configuration, Destination, Peer

_HEAD = """\
# Configuration of triage-node. Every key can also be set by the environment: TRIAGE_LISTEN__PORT=11113.
# Keys that are commented out have the default shown.
"""

_EXAMPLES: dict[str, BaseModel] = {
    "destination": Destination(name="pacs", host="127.0.0.1", port=4242, ae_title="ORTHANC"),
    "peer": Peer(ae_title="MODALITY1", address="10.0.0.0/24"),
}


@dataclass(frozen=True)
class Row:
    """One line of `config show`."""

    key: str
    value: str
    source: str


def toml_value(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, int | float):
        return repr(int(value)) if value == int(value) else repr(value)
    return json.dumps(str(value), ensure_ascii=False)


def template() -> str:
    """Return the commented configuration that `config init` writes."""
    defaults = Configuration()
    lines = [_HEAD, f"# {_line('data_dir', defaults.data_dir)}  # {_help(Configuration, 'data_dir')}"]
    for name, value in defaults:
        if isinstance(value, BaseModel):
            lines += ["", f"[{name}]", *_section_lines(value)]
            if name == "listen":
                lines += ["", "# [[listen.peer]]", *_section_lines(_EXAMPLES["peer"])]
        elif name in _EXAMPLES:
            lines += ["", f"# [[{name}]]", *_section_lines(_EXAMPLES[name])]
    return "\n".join(lines) + "\n"


def rows(loaded: Loaded) -> list[Row]:
    """Return every effective key with the source of its value; passwords inside URLs are masked."""
    found: list[Row] = []
    for name, value in loaded.configuration:
        if isinstance(value, BaseModel):
            found += [_row(loaded, f"{name}.{key}", inner) for key, inner in value]
        else:
            found.append(_row(loaded, name, value))
    return found


def _row(loaded: Loaded, key: str, value: Any) -> Row:
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        value = tuple(item.model_dump(mode="json") for item in value)
    setters = {src for k, src in loaded.sources.items() if k == key or k.startswith(f"{key}.")}
    return Row(key, _masked(toml_value(value)), " + ".join(sorted(setters)) or "default")


def _masked(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    credentials, at, host = rest.rpartition("@")
    if not separator or not at:
        return text
    user = credentials.partition(":")[0]
    return f"{scheme}://{user}:***@{host}"


def _help(model: type[BaseModel], key: str) -> str:
    return model.model_fields[key].description or ""


def _line(key: str, value: Any) -> str:
    return f"{key} = {toml_value(value)}"


def _section_lines(section: BaseModel) -> list[str]:
    lines = []
    for key, value in section:
        if isinstance(value, tuple) and key in _EXAMPLES:
            continue
        comment = _help(type(section), key)
        lines.append(f"# {_line(key, value)}" + (f"  # {comment}" if comment else ""))
    return lines
