"""`triage-node models list`: every bundle, which of them score, and what is wrong with the others."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from tests.support.cli import run
from tests.support.flows import tiny_bundle
from triage.bundles import Bundle


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good bundles, one altered, one that lacks a file; one that is being made, and a folder that is none."""
    folder = tmp_path_factory.mktemp("models")
    tiny_bundle(folder / "chest")
    tiny_bundle(folder / "head", "BCT")
    for name in ("altered", "short", "half.making", "none"):
        copytree(folder / "chest", folder / name)
    (folder / "altered" / "card.md").write_text("# Good for everything\n")
    (folder / "short" / "normal.safetensors").unlink()
    (folder / "none" / "SHA256SUMS").unlink()
    return folder


def listed(models: Path, *options: str) -> str:
    environment = {"TRIAGE_MODELS__DIR": str(models), "TRIAGE_MODELS__CXR": "chest", "TRIAGE_MODELS__BCT": "other"}
    answer = run("models", "list", *options, cwd=models, **environment)
    assert (answer.returncode, answer.stderr) == (0, "")
    return answer.stdout


def test_good_and_damaged_bundles_are_listed_beside_each_other(models: Path) -> None:
    rows: list[dict[str, Any]] = json.loads(listed(models, "--json"))
    chest, head = (Bundle.open(models / name) for name in ("chest", "head"))
    assert [row.pop("problem") for row in rows] == [
        "bundle altered was altered: card.md is not the file that was listed", "", "",
        "bundle short lacks normal.safetensors",
    ]  # fmt: skip
    unknown = {"version": "", "modality": "", "digest": "", "active": False, "images": 0}
    assert rows == [
        {"name": "altered"} | unknown,
        {"name": "chest", "version": "0.1", "modality": "CXR", "digest": chest.digest, "active": True, "images": 3},
        {"name": "head", "version": "0.1", "modality": "BCT", "digest": head.digest, "active": False, "images": 3},
        {"name": "short"} | unknown,
    ]


def test_the_table_says_the_same(models: Path) -> None:
    lines = listed(models).splitlines()
    cells = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in lines if line.startswith("│")]
    assert cells == [
        ["altered", *[""] * 5, "bundle altered was altered: card.md is not the file that was listed"],
        ["chest", "0.1", "CXR", "active", "3", Bundle.open(models / "chest").digest[:16], "ok"],
        ["head", "0.1", "BCT", "", "3", Bundle.open(models / "head").digest[:16], "ok"],
        ["short", *[""] * 5, "bundle short lacks normal.safetensors"],
    ]


def test_the_bundles_that_come_with_the_program_score(tmp_path: Path) -> None:
    rows = json.loads(run("models", "list", "--json", cwd=tmp_path).stdout)
    assert [(row["name"], row["active"], row["problem"]) for row in rows] == [
        ("bct-starter", True, ""),
        ("cxr-starter", True, ""),
    ]
