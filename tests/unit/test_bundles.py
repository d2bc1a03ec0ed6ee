"""A bundle is opened only if every byte is the one that its maker listed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.flows import resum, tiny_bundle, tiny_calibration, tiny_manifest
from triage.bundles import Bundle, find_bundle, list_bundles, made_beside, models_folder, new_bundle_folder
from triage.config.schema import Models
from triage.errors import BundleError, ConfigurationError
from workers.lab.starter import RECIPES


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture
def folder(made: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.folder, tmp_path / "tiny"))


def append(folder: Path, line: str) -> None:
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write(line)


def test_what_was_written_is_read(made: Bundle, folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.manifest == tiny_manifest()
    assert bundle.calibration == tiny_calibration()
    assert bundle.card == "# A card\n"
    assert bundle.digest == made.digest
    assert bundle.preprocessing.size == (8, 8)


def test_a_head_ct_bundle_too(tmp_path: Path) -> None:
    assert tiny_bundle(tmp_path / "ct", "BCT").preprocessing.spacing_mm == (5.0, 4.0, 4.0)


def test_the_digest_does_not_depend_on_the_order_of_lines_but_on_every_file(made: Bundle, folder: Path) -> None:
    sums = folder / "SHA256SUMS"
    sums.write_text("".join(reversed(sums.read_text().splitlines(keepends=True))))
    assert Bundle.open(folder).digest == made.digest
    (folder / "card.md").write_text("# Another card\n")
    resum(folder)
    assert Bundle.open(folder).digest != made.digest


ALTERATIONS: dict[str, Callable[[Path], object]] = {
    "altered": lambda f: (f / "normal.safetensors").write_bytes(b"x" + (f / "normal.safetensors").read_bytes()[1:]),
    "altered card": lambda f: (f / "card.md").write_text("Good for everything."),
    "missing": lambda f: (f / "card.md").unlink(),
    "extra": lambda f: (f / "extra.bin").write_bytes(b""),
    "extra and listed": lambda f: ((f / "extra.bin").write_bytes(b""), resum(f)),
    "sub-folder": lambda f: (f / "more").mkdir(),
    "missing and unlisted": lambda f: ((f / "golden.safetensors").unlink(), resum(f)),
    "no sums": lambda f: (f / "SHA256SUMS").unlink(),
    "path upwards": lambda f: append(f, f"{'0' * 64}  ../evil\n"),
    "absolute path": lambda f: append(f, f"{'0' * 64}  /etc/passwd\n"),
    "hidden name": lambda f: append(f, f"{'0' * 64}  .hidden\n"),
    "listed twice": lambda f: append(f, f"{'0' * 64}  card.md\n"),
    "no sum": lambda f: append(f, "card.md\n"),
    "symbolic link": lambda f: (
        (f / "card.md").rename(f.parent / "card.md"),
        (f / "card.md").symlink_to(f.parent / "card.md"),
    ),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_a_bundle_that_is_not_as_listed_is_refused(folder: Path, alteration: str) -> None:
    ALTERATIONS[alteration](folder)
    with pytest.raises(BundleError):
        Bundle.open(folder)


MANIFESTS = {
    "unknown format": ("format = 1", "format = 2"),
    "unknown key": ("format = 1", "format = 1\nspeed = 9"),
    "unknown modality": ('modality = "CXR"', 'modality = "MR"'),
    "wrong axes": ('modality = "CXR"', 'modality = "BCT"'),
    "grid that doesn't fit": ("pool = [2, 2]", "pool = [4, 4]"),
    "grid that can't be squeezed": ("widths = [4, 4]", "widths = [4, 4, 4]"),
    "unknown flow": ('kind = "glow"', 'kind = "other"'),
    "a path for a name": ('name = "tiny"', 'name = "../tiny"'),
    "no TOML": ("format = 1", "format ="),
}


@pytest.mark.parametrize("change", MANIFESTS)
def test_a_manifest_that_is_not_understood_is_refused(folder: Path, change: str) -> None:
    old, new = MANIFESTS[change]
    path = folder / "bundle.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    resum(folder)
    with pytest.raises(BundleError):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("modality", "old", "new"),
    [
        ("BCT", "hu_offset = 14", "hu_offset = 60"),
        ("BCT", "grey_levels = 128", "grey_levels = 64"),
        ("CXR", "grey_levels = 256", "grey_levels = 128"),
    ],
)
def test_a_bundle_of_grey_values_that_no_study_is_brought_to_is_refused(
    tmp_path: Path, modality: str, old: str, new: str
) -> None:
    """Its images would be scored on another scale than it learned, without a word."""
    path = tiny_bundle(tmp_path / "b", modality).folder / "bundle.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    resum(path.parent)
    with pytest.raises(BundleError, match="grey_levels and hu_offset must be") as refused:
        Bundle.open(path.parent)
    assert refused.value.remedy


def test_a_calibration_of_other_flows_is_refused(folder: Path) -> None:
    (folder / "calibration.json").write_text(tiny_calibration(weights=(1.0,)).model_dump_json())
    resum(folder)
    with pytest.raises(BundleError, match="weighs 1 levels"):
        Bundle.open(folder)


def test_nobody_meets_half_a_bundle(tmp_path: Path) -> None:
    out, half = tmp_path / "b", tmp_path / "b.making"
    half.mkdir()
    (half / ".left by one that was killed").touch()

    def broken() -> None:
        with made_beside(out) as folder:
            assert not list(folder.iterdir())
            (folder / "card.md").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert not list(tmp_path.iterdir())
    with made_beside(out) as folder:
        (folder / "SHA256SUMS").touch()
        assert not list_bundles(tmp_path)
        (folder / "SHA256SUMS").rename(folder / "card.md")
    assert [path.name for path in out.iterdir()] == ["card.md"]
    with pytest.raises(ConfigurationError, match="something else"):
        new_bundle_folder(out)


def test_bundles_are_found_by_modality(folder: Path) -> None:
    models = Models(dir=str(folder.parent), cxr="tiny", bct="")
    found = find_bundle(models, "CXR")
    assert found is not None
    assert found.name == "tiny"
    assert find_bundle(models, "BCT") is None
    assert list_bundles(models_folder(models)) == [folder]


@pytest.mark.parametrize(
    ("models", "modality"),
    [({"cxr": "nothing"}, "CXR"), ({"cxr": "../tiny"}, "CXR"), ({"bct": "tiny"}, "BCT"), ({"dir": "/no/where"}, "CXR")],
)
def test_a_bundle_that_is_not_there_or_not_for_that_is_refused(
    folder: Path, models: dict[str, str], modality: str
) -> None:
    with pytest.raises(BundleError):
        find_bundle(Models(**{"dir": str(folder.parent), "cxr": "tiny"} | models), modality)


@pytest.mark.parametrize(("modality", "limit_mb"), [("CXR", 12), ("BCT", 12)])
def test_the_starter_bundles_are_whole_small_and_honest(modality: str, limit_mb: int) -> None:
    bundle = find_bundle(Models(), modality)
    assert bundle is not None
    assert sum(p.stat().st_size for p in bundle.folder.iterdir()) < limit_mb * 1e6
    assert "must not be used for" in bundle.card
    assert "95 % bootstrap interval" in bundle.card
    assert RECIPES[modality.lower()].measured in bundle.card
    assert all(source.licence and source.credit in bundle.card for source in bundle.manifest.training.data)
