"""Model bundles as the node sees them: a folder whose every byte is accounted for, and no torch.

A bundle holds ``bundle.toml`` (what it is), ``normal.safetensors`` and ``mixture.safetensors`` (the two flows),
``calibration.json`` (what its numbers mean), ``golden.safetensors`` (an input with its known score), ``card.md``
(what it must not be used for) and ``SHA256SUMS``; ``classifier.safetensors`` and ``local.safetensors`` if the manifest
has tables ``[classifier]`` and ``[local]``; and perhaps ``maps.safetensors`` (what relevance maps are standardised by).
Its digest is over all of them.
"""

import hashlib
import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from triage.calibration import Calibration
from triage.config.schema import Models
from triage.durable import sync
from triage.errors import BundleError, ConfigurationError
from triage.manifest import Architecture, InputTransform, Manifest, Name, Preprocessing

MODALITIES = ("CXR", "BCT")
SUMS = "SHA256SUMS"
MAKING = ".making"
MANIFEST = "bundle.toml"
NORMAL = "normal.safetensors"
MIXTURE = "mixture.safetensors"
CALIBRATION = "calibration.json"
GOLDEN = "golden.safetensors"
CARD = "card.md"
CLASSIFIER = "classifier.safetensors"
LOCAL = "local.safetensors"
MAPS = "maps.safetensors"
REQUIRED = frozenset({MANIFEST, NORMAL, MIXTURE, CALIBRATION, GOLDEN, CARD})
FILES = REQUIRED | {CLASSIFIER, LOCAL, MAPS}
CLASSIFIER_MAX_BYTES = 64 * 2**20

_SUM_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")
_REMEDY = "get the bundle again from where it was made, or make it again with triage-node train"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose files are those that its maker listed.

    Attributes
    ----------
    name, version, modality : str
        What it calls itself; modality is ``"CXR"`` or ``"BCT"``.
    digest : str
        SHA-256 (hex) over the sorted lines of SHA256SUMS, thus over every file.
    folder : Path
        Where it lies.
    manifest : Manifest
        ``bundle.toml``.
    calibration : Calibration
        ``calibration.json``.
    card : str
        ``card.md``.
    """

    name: str
    version: str
    modality: Literal["CXR", "BCT"]
    digest: str
    folder: Path
    manifest: Manifest
    calibration: Calibration
    card: str

    @property
    def preprocessing(self) -> Preprocessing:
        """The grid onto which a study is brought."""
        return self.manifest.preprocessing

    @property
    def architecture(self) -> Architecture:
        """The shape of both flows."""
        return self.manifest.architecture

    @property
    def transform(self) -> InputTransform:
        """What is done to the grid's grey values before the flows see them."""
        return self.manifest.transform

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Verify and read the bundle in ``folder``.

        Raises
        ------
        BundleError
            If a file is missing, altered or not listed, or says something that this version doesn't understand.
        """
        sums = _read_sums(folder)
        contents = _verify(folder, sums)
        try:
            manifest = Manifest.model_validate(tomllib.loads(contents[MANIFEST].decode()))
            calibration = Calibration.model_validate_json(contents[CALIBRATION])
            card = contents[CARD].decode()
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError, RecursionError) as exc:
            raise BundleError(f"bundle {folder.name}: {_first_problem(exc)}", remedy=_REMEDY) from exc
        if len(calibration.weights) != manifest.architecture.levels:
            raise BundleError(
                f"bundle {folder.name}: the calibration weighs {len(calibration.weights)} levels, "
                f"the flows have {manifest.architecture.levels}",
                remedy=_REMEDY,
            )
        for section, file in ((manifest.classifier, CLASSIFIER), (manifest.local, LOCAL)):
            if (section is not None) != (file in sums):
                raise BundleError(
                    f"bundle {folder.name}: {MANIFEST} and {file} disagree on whether there is a classifier",
                    remedy=_REMEDY,
                )
        return cls(
            name=manifest.name,
            version=manifest.version,
            modality=manifest.modality,
            digest=_digest(sums),
            folder=folder,
            manifest=manifest,
            calibration=calibration,
            card=card,
        )


def _first_problem(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        error = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in error["loc"])
        return f"{place}: {error['msg']}" if place else error["msg"]
    return str(exc)


def _read_sums(folder: Path) -> dict[str, str]:
    """Return file name to SHA-256; plain names only, so that no line can point out of the folder."""
    path = folder / SUMS
    if path.is_symlink() or not path.is_file():
        raise BundleError(f"{folder} is not a bundle: it has no {SUMS}", remedy=_REMEDY)
    sums: dict[str, str] = {}
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        match = _SUM_LINE.fullmatch(line)
        if match is None or match[2] in sums or match[2] == SUMS:
            raise BundleError(
                f"bundle {folder.name}: {SUMS} has a line that is not a sum of its own files", remedy=_REMEDY
            )
        sums[match[2]] = match[1]
    return sums


def _verify(folder: Path, sums: Mapping[str, str]) -> dict[str, bytes]:
    """Return the small files' bytes as they were when their sums were checked."""
    present = {entry.name for entry in folder.iterdir()} - {SUMS}
    for what, names in (
        ("lacks", (REQUIRED | (sums.keys() & FILES)) - present),
        (f"does not list in {SUMS}", ((REQUIRED | present) & FILES) - sums.keys()),
        ("holds an unexpected", present - FILES),
        ("lists an unexpected", sums.keys() - FILES),
    ):
        if names:
            raise BundleError(f"bundle {folder.name} {what} {', '.join(sorted(names))}", remedy=_REMEDY)
    contents: dict[str, bytes] = {}
    for name, expected in sums.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"bundle {folder.name}: {name} is not a plain file", remedy=_REMEDY)
        if name in (CLASSIFIER, LOCAL) and path.stat().st_size > CLASSIFIER_MAX_BYTES:
            raise BundleError(f"bundle {folder.name}: {name} is larger than any classifier", remedy=_REMEDY)
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != expected:
            raise BundleError(
                f"bundle {folder.name} was altered: {name} is not the file that was listed", remedy=_REMEDY
            )
        if not name.endswith(".safetensors"):
            contents[name] = data
    return contents


def _digest(sums: Mapping[str, str]) -> str:
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    return hashlib.sha256(lines.encode("ascii")).hexdigest()


def new_bundle_folder(folder: Path) -> None:
    """Check that a bundle can be written to ``folder``: asked before hours are spent on making it.

    Raises
    ------
    ConfigurationError
        If its name can't be a bundle's, or something is there already.
    """
    name = folder.resolve().name
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as exc:
        raise ConfigurationError(
            f"a bundle cannot be called {name!r}",
            remedy="choose an --out whose last part is of A-Z, a-z, 0-9, dots, dashes and underscores, 64 at most",
        ) from exc
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file", remedy="choose another --out")
    if folder.is_dir() and any(folder.iterdir()):
        if (folder / SUMS).exists():
            raise ConfigurationError(f"{folder} already holds a bundle", remedy="choose another --out")
        raise ConfigurationError(f"{folder} already holds something else", remedy="choose another --out, or empty it")
    # It is made beside, and renamed: see `made_beside`.
    there = next(parent for parent in folder.resolve().parents if parent.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)) or os.path.ismount(folder):
        raise ConfigurationError(f"{folder} cannot be made", remedy="choose another --out")


@contextmanager
def made_beside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``folder`` when all is written: nobody ever meets half a bundle there."""
    folder = folder.resolve()
    making = folder.with_name(folder.name + MAKING)
    shutil.rmtree(making, ignore_errors=True)  # what was left by one that was killed
    making.mkdir(parents=True)
    try:
        yield making
        for path in (*making.iterdir(), making):
            sync(path)
        making.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def write_bundle(folder: Path, manifest: Manifest, calibration: Calibration, card: str) -> Bundle:
    """Write the text files and SHA256SUMS beside the safetensors files that are there, and open the result.

    Raises
    ------
    BundleError
        If the folder then isn't a valid bundle, e.g. because the weights are missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(_toml(manifest.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    (folder / CALIBRATION).write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")
    present = sorted(FILES & {entry.name for entry in folder.iterdir()})
    lines = (f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in present)
    (folder / SUMS).write_text("".join(lines), encoding="ascii")
    return Bundle.open(folder)


def _toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """Return TOML for strings, numbers, flat lists, tables and lists of tables: JSON's scalars are TOML's."""
    lines: list[str] = []
    for key, value in table.items():
        if not isinstance(value, Mapping) and not _is_table_array(value):
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            lines.append(f"\n[{name}]\n{_toml(value, name + '.')}".rstrip())
        elif _is_table_array(value):
            lines.extend(f"\n[[{name}]]\n{_toml(row, name + '.')}".rstrip() for row in value)
    return "\n".join(lines) + "\n"


def _is_table_array(value: object) -> bool:
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], Mapping)


def models_folder(models: Models) -> Path:
    """Return the folder of bundles: ``models.dir``, or the starter bundles shipped with the program.

    Raises
    ------
    BundleError
        If there is no such folder.
    """
    if models.dir:
        folder = Path(models.dir)
    else:
        # Found, not imported: the node's side must not depend on the workers' code.
        spec = find_spec("workers")
        if spec is None or not spec.submodule_search_locations:
            raise BundleError("no starter bundles are installed", remedy="set models.dir to a folder of bundles")
        folder = Path(spec.submodule_search_locations[0]) / "models"
    if not folder.is_dir():
        raise BundleError(f"there is no folder of bundles at {folder}", remedy="set models.dir to a folder of bundles")
    return folder


def find_bundle(models: Models, modality: str) -> Bundle | None:
    """Return the bundle that scores ``modality`` (``"CXR"`` or ``"BCT"``); None if the site scores none.

    Raises
    ------
    BundleError
        If the bundle is missing, altered or made for another modality.
    """
    name = {"CXR": models.cxr, "BCT": models.bct}.get(modality, "")
    if not name:
        return None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise BundleError(f"{name!r} is not a bundle's name", remedy="name a folder inside models.dir")
    folder = models_folder(models) / name
    if not folder.is_dir():
        raise BundleError(f"there is no bundle {name}", remedy="run: triage-node models list")
    bundle = Bundle.open(folder)
    if bundle.modality != modality:
        raise BundleError(
            f"bundle {name} scores {bundle.modality}, not {modality}",
            remedy=f"set models.{modality.lower()} to another bundle",
        )
    return bundle


def active_bundles(models: Models) -> dict[str, Bundle]:
    """Return the bundles that score, by modality; see `find_bundle`.

    Raises
    ------
    BundleError
        If one is missing, altered or made for another modality.
    """
    found = ((modality, find_bundle(models, modality)) for modality in MODALITIES)
    return {modality: bundle for modality, bundle in found if bundle is not None}


def list_bundles(folder: Path) -> list[Path]:
    """Return the folders in ``folder`` that claim to be bundles, in order of name; `Bundle.open` tells if they are."""
    return sorted(path.parent for path in folder.glob(f"*/{SUMS}") if path.parent.suffix != MAKING)
