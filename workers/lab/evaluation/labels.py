"""The table of labels, and which image each of its rows means."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from triage.errors import ConfigurationError
from workers.lab.evaluation.cases import Case
from workers.lab.table import read_table

NORMAL_LABEL = "normal"
FACTS = ("age", "sex", "view", "source", "device")


@dataclass(frozen=True)
class Row:
    """A row of the table: a file's name, its label, and what else is known (``patient`` and `FACTS`)."""

    file: str
    label: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Labelled:
    """An image with everything that the table says about it; more than one label if it has more than one row.

    Where nothing says whose it is, it counts as a patient of its own, called as the image is.
    """

    case: Case
    labels: frozenset[str]
    patient: str
    facts: Mapping[str, str]
    patient_known: bool

    @property
    def normal(self) -> bool:
        """Whether it is a negative."""
        return NORMAL_LABEL in self.labels


@dataclass(frozen=True)
class Matched:
    """What became of the table's rows and of the images.

    Attributes
    ----------
    images : list of Labelled
        Those that are evaluated.
    rows : list of str
        Files of the table that are no image, or more than one.
    cases : list of str
        Images without a row.
    """

    images: list[Labelled]
    rows: list[str] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)


def read_labels(path: Path) -> list[Row]:
    """Read a table with the columns ``file`` and ``label`` and optionally ``patient``, ``age``, ``sex``, ….

    Raises
    ------
    ConfigurationError
        If it can't be read, lacks a column, or has no row.
    """
    remedy = "its first line names the columns: file,label and optionally patient,age,sex,view,source,device"
    rows: list[Row] = []
    spelled = {NORMAL_LABEL: NORMAL_LABEL}
    for line in read_table(path, ("file", "label"), remedy=remedy):
        file, said = line.cells["file"], line.cells["label"]
        if not file and not said:
            continue
        if not file or not said:
            raise ConfigurationError(f"{path.name}, line {line.number}: a row needs both a file and a label")
        # Spellings of one label are one target: the first one counts.
        label = spelled.setdefault(said.casefold(), said)
        facts = {name: line.cells[name] for name in ("patient", *FACTS) if line.cells.get(name)}
        rows.append(Row(file, label, facts))
    if not rows:
        raise ConfigurationError(f"{path.name} has no rows")
    reserved = {row.label for row in rows if row.label.casefold() == "all"}
    if reserved:
        raise ConfigurationError(f'{path.name}: no label may be called "all": that is every abnormal image')
    return rows


Place = tuple[Path, Sequence[Case]]
"""A folder (or npz file) and the images that were found in it."""


def match(rows: Sequence[Row], places: Sequence[Place]) -> Matched:
    """Find every row's image.

    A row's file may be a path below the folder of the images, an absolute path, a base name, any of these without its
    extension, a folder that holds one study, or a DICOM UID.

    Raises
    ------
    ConfigurationError
        If no row finds an image, or an image is called both normal and something else.
    """
    every = {id(case): case for _, cases in places for case in cases}
    paths = [_path(row.file) for row in rows]
    base_names = Counter(path.name for path in paths)
    folders = frozenset(path.parent.name for path in paths) - {""}
    finders = [_Finder(folder, cases, base_names, folders) for folder, cases in places]
    found: dict[int, list[Row]] = {}
    lost: list[str] = []
    for row in rows:
        hits = {id(case) for finder in finders for case in finder.exactly(row)}
        hits = hits or {id(case) for finder in finders for case in finder.by_base_name(row)}
        if len(hits) == 1:
            found.setdefault(hits.pop(), []).append(row)
        else:
            lost.append(f"{row.file} ({'no such image' if not hits else f'{len(hits)} images have this name'})")
    if not found:
        searched = ", ".join(str(folder) for folder, _ in places)
        example = ", ".join(case.key for case in [*every.values()][:2])
        raise ConfigurationError(
            f"no row of the table names an image in {searched}: it says {rows[0].file}, the folder holds {example}",
            remedy="write paths below the folder of the images, or base names, into the column file",
        )
    images = [_labelled(case, found[number]) for number, case in every.items() if number in found]
    others = [case.key for number, case in every.items() if number not in found]
    return Matched(images, lost, others)


class _Finder:
    """Which images of one folder a row may mean, among rows of these base names and folders."""

    def __init__(self, folder: Path, cases: Sequence[Case], base_names: Counter[str], folders: frozenset[str]) -> None:
        self.here, self.cases, self.index = folder.resolve(), cases, _index(cases)
        self.base_names, self.folders = base_names, folders

    def exactly(self, row: Row) -> list[Case]:
        """Return the images that have one of the row's spellings for a name."""
        return self._first_of(self._spellings(row.file))

    def by_base_name(self, row: Row) -> list[Case]:
        """Return the images of a row's base name, if no other row has it and the row's folder may be theirs."""
        base = _path(row.file).name
        if self.base_names[base] > 1:
            return []
        return [case for case in self._first_of((base, _stem(base))) if self._may_lie_there(row.file, case)]

    def _first_of(self, names: Iterable[str]) -> list[Case]:
        hits = next((self.index[name] for name in names if name in self.index), frozenset[int]())
        return [self.cases[number] for number in hits]

    def _may_lie_there(self, file: str, case: Case) -> bool:
        """Return whether a row's folder allows a case of the same base name: normal/7.png is not abnormal/7.png.

        Images that lie in no sub-folder may have been moved there, unless the table names their folder in other rows.
        """
        *folders, base = _path(file).parts
        parents = {PurePosixPath(name).parent.name for name in (case.key, *case.names)
                   if _stem(PurePosixPath(name).name) == _stem(base)}  # fmt: skip
        if not folders or not parents or folders[-1] in parents:
            return True
        return "" in parents and (folders[-1] == self.here.name or self.here.name not in self.folders)

    def _spellings(self, file: str) -> Iterator[str]:
        """Yield what ``file`` may mean below the folder, with and without its extension, the most literal first."""
        parts = tuple(part for part in _path(file).parts if part not in (".", "/"))
        here = self.here.parts[1:]
        for skipped in range(len(parts)):
            if not skipped or here[-skipped:] == parts[:skipped]:
                name = "/".join(parts[skipped:])
                yield name
                yield _stem(name)


def _labelled(case: Case, rows: Sequence[Row]) -> Labelled:
    labels = frozenset(row.label for row in rows)
    if NORMAL_LABEL in labels and len(labels) > 1:
        raise ConfigurationError(f"the table calls {case.key} both normal and {', '.join(labels - {NORMAL_LABEL})}")
    facts: dict[str, str] = dict(case.facts)
    for row in rows:
        facts.update(row.facts)
    patient = facts.pop("patient", case.patient)
    return Labelled(case, labels, patient or case.key, facts, patient_known=bool(patient))


def _index(cases: Sequence[Case]) -> dict[str, frozenset[int]]:
    """Return every name of every image; a path's tails are names, too."""
    index: dict[str, set[int]] = {}
    for number, case in enumerate(cases):
        for name in (case.key, *case.names):
            parts = PurePosixPath(name).parts
            tails = ["/".join(parts[start:]) for start in range(len(parts))]
            parents = ["/".join(parts[start:end]) for end in range(1, len(parts)) for start in range(end)]
            for spelling in {*tails, *map(_stem, tails), *parents}:
                index.setdefault(spelling, set()).add(number)
    return {name: frozenset(numbers) for name, numbers in index.items()}


def _path(file: str) -> PurePosixPath:
    """Return a row's file as a path, also one that was written on Windows."""
    return PurePosixPath(file.replace("\\", "/"))


def _stem(name: str) -> str:
    lower = name.lower()
    for ending in (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".dcm", ".dicom"):
        if lower.endswith(ending):
            return name[: -len(ending)]
    return name
