"""A table as people make it: a text file whose first line names the columns."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from triage.errors import ConfigurationError


@dataclass(frozen=True)
class Line:
    """A row: the number of the file's line on which it ends, and its cells by column, stripped; "" where there is none.

    Columns are in lower case.
    """

    number: int
    cells: Mapping[str, str]


def read_table(path: Path, columns: Sequence[str], *, remedy: str) -> list[Line]:
    """Read a table that has at least ``columns``, in any case.

    Its cells are parted by commas, semicolons or tabs, or by what a first line ``sep=…`` says, as Excel writes it.

    Raises
    ------
    ConfigurationError
        If it can't be read, or lacks a column (then with ``remedy``), or has one twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"the table {path} cannot be read", remedy="give a UTF-8 CSV file") from exc
    said = re.match(r"sep=(.)\r?\n", text)
    text = text[said.end() :] if said else text.lstrip("\r\n")
    head = re.split(r"[\r\n]", text, maxsplit=1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=said[1] if said else max(",;\t", key=head.count))
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        _check(path.name, names, columns, f"its first line is {head[:80]}", remedy)
        return [
            Line(reader.line_num, dict.fromkeys(names, "") | dict(zip(names, map(str.strip, cells), strict=False)))
            for cells in reader
            if cells
        ]
    except csv.Error as exc:
        raise ConfigurationError(
            f"{path.name} cannot be read from line {reader.line_num} on: {exc}",
            remedy="look for a quote that isn't closed",
        ) from exc


def _check(table: str, names: Sequence[str], columns: Sequence[str], found: str, remedy: str) -> None:
    doubled = sorted({name for name in names if name and names.count(name) > 1})
    if doubled:
        raise ConfigurationError(f"{table} has several columns {', '.join(doubled)}", remedy="keep one of them")
    missing = [name for name in columns if name.lower() not in names]
    if missing:
        raise ConfigurationError(f"{table} has no column {' and no column '.join(missing)}: {found}", remedy=remedy)
