"""The laboratory's commands on real radiographs: train, evaluate, sample."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import typer
from click.testing import Result
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from tests.support.cli import run
from tests.support.peers import shared
from tests.support.rsna import make_rsna
from triage.errors import ConfigurationError
from workers.lab.cli import register

LABELS = {0: "normal", 1: "lung opacity", 2: "other"}
FEW = ("--draws", "200")


@pytest.fixture(scope="module")
def test_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 radiographs as PNGs in folders, one of them broken, and a table that names one image too many."""
    folder = tmp_path_factory.mktemp("set")
    with np.load(shared("data", "cxr_adult.npz"), allow_pickle=False) as arrays:
        columns = {name: arrays[name] for name in ("x", "y_rsna", "source", "patient", "age", "sex", "view")}
    rows = []
    for place in np.flatnonzero((columns["source"] == "talo") & (columns["y_rsna"] >= 0))[:60]:
        path = folder / "images" / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(columns["x"][place]).save(path)
        facts = [str(columns[name][place]) for name in ("patient", "age", "sex", "view")]
        rows.append([f"images/{place}.png", LABELS[int(columns["y_rsna"][place])], *facts])
    (folder / "images" / "broken.png").write_bytes(b"not a picture")
    (folder / "images" / "unlabelled.png").write_bytes(b"not looked at")
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["file", "label", "patient", "age", "sex", "view"], *rows, ["images/broken.png", "other", "x", "", "", ""],
             ["images/none.png", "normal", "y", "", "", ""]]
        )  # fmt: skip
    return folder


def test_evaluate_writes_numbers_figures_and_one_page(tmp_path: Path, test_set: Path) -> None:
    report = tmp_path / "report"
    answer = run(
        "evaluate", "cxr-starter", "--test", str(test_set), "--labels", str(test_set / "labels.csv"),
        "--report", str(report), "--json", *FEW, cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "1 rows of the table name no image" in answer.stderr
    metrics = json.loads(answer.stdout)
    assert metrics == json.loads((report / "metrics.json").read_text())
    assert metrics["labels"] == metrics["combined"]["labels"]
    assert set(metrics["labels"]) == {"lung opacity", "other", "all"}
    assert metrics["bootstrap"]["resampled"] == "patients"
    assert metrics["test"]["rows_without_image"] == ["images/none.png (no such image)"]
    assert metrics["test"]["images_without_row"] == ["images/unlabelled.png"]
    assert any("cannot be read" in reason for reason in metrics["not_scored"]["reasons"])

    rows = list(csv.DictReader((report / "scores.csv").open()))
    scored = [row for row in rows if not row["not_scored"]]
    truth = [row["label"] != "normal" for row in scored]
    for name in ("log_prob_normal", "plain_ratio", "flows", "combined"):
        entry = metrics[name]["labels"]["all"]
        assert entry["auc"] == pytest.approx(roc_auc_score(truth, [float(row[name]) for row in scored]))
        assert entry["ci95"][0] <= entry["auc"] <= entry["ci95"][1]
        assert entry["n_normal"] + entry["n_abnormal"] == len(scored)
        assert {f"roc_{name}.png", f"histogram_{name}.png"} <= {path.name for path in report.iterdir()}
    assert {"sex", "age", "view"} <= metrics["combined"]["subgroups"].keys()
    for path in report.glob("*.png"):
        assert Image.open(path).size[0] > 300, path.name

    bound = metrics["ratio_bound"]
    ratios = [float(row["plain_ratio"]) for row in scored]
    assert bound["below"] == sum(ratio < bound["bound_nats"] for ratio in ratios)
    assert (report / "fictional.png").is_file()

    page = (report / "report.html").read_text()
    assert "Research use only" in page
    assert f"{bound['below']} of\n{len(scored)} images are below" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert page.count("data:image/png;base64,") == len(list(report.glob("*.png")))


def laboratory(*arguments: str) -> Result:
    """Run a command in this process, where torch is loaded already."""
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, [*arguments])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,label\nx.png,normal\n", "no row of the table"),
        ("name\n", "no column file and no column label"),
        ("file,label\n", "no rows"),
        ("file,label\nbroken,normal\n", "another label"),
    ],
)
def test_evaluate_says_what_is_wrong(tmp_path: Path, test_set: Path, text: str, complaint: str) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(text)
    answer = laboratory(
        "evaluate", "cxr-starter", "--test", str(test_set), "--labels", str(table), "--report", str(tmp_path / "r")
    )
    assert isinstance(answer.exception, ConfigurationError)
    assert complaint in answer.exception.message
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("named", ["Ours, CC0", "Ours; CC0; ", "Ours\x7f; CC0; us", "Ours; CC0\nOther; us"])
def test_train_says_how_data_are_named(tmp_path: Path, named: str) -> None:
    out = str(tmp_path / "b")
    answer = laboratory("train", "--rsna", str(tmp_path), "--preset", "starter-cxr", "--out", out, "--data", named)
    assert isinstance(answer.exception, ConfigurationError)
    assert "NAME; LICENCE; CREDIT" in str(answer.exception.remedy)


def test_sample_draws_the_same_again(tmp_path: Path) -> None:
    answer = run("sample", "cxr-starter", "-n", "3", "--seed", "4", "--out", "a", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    pictures = sorted((tmp_path / "a").glob("fictional-*.png"))
    assert len(pictures) == 3
    assert (tmp_path / "a" / "gallery.png").is_file()
    assert len({path.read_bytes() for path in pictures}) == 3
    assert laboratory("sample", "cxr-starter", "-n", "2", "--seed", "4", "--out", str(tmp_path / "b")).exit_code == 0
    for path in sorted((tmp_path / "b").glob("fictional-*.png")):
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    other = ("sample", "cxr-starter", "-n", "1", "--seed", "4", "--flow", "mixture", "--out", str(tmp_path / "c"))
    assert laboratory(*other).exit_code == 0
    assert (tmp_path / "c" / pictures[0].name).read_bytes() != pictures[0].read_bytes()


def test_a_place_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    answer = run("sample", "cxr-starter", "-n", "1", "--out", "/proc/nowhere", cwd=tmp_path)
    assert answer.returncode == 1
    assert "/proc/nowhere" in answer.stderr
    assert "name another place" in answer.stderr


def test_fictional_heads_are_volumes(tmp_path: Path) -> None:
    answer = laboratory("sample", "bct-starter", "-n", "2", "--temperature", "0.7", "--out", str(tmp_path / "a"))
    assert answer.exit_code == 0
    heads = sorted((tmp_path / "a").glob("*.nii.gz"))
    assert len(heads) == 2
    image = sitk.ReadImage(str(heads[0]))
    assert image.GetDimension() == 3
    assert min(image.GetSpacing()) > 1
    assert -20 <= sitk.GetArrayFromImage(image).min() < sitk.GetArrayFromImage(image).max() < 120
    assert len(list((tmp_path / "a").glob("fictional-*.png"))) == 2


@pytest.mark.timeout(900)
def test_the_rsna_challenge_from_training_to_report(tmp_path: Path) -> None:
    make_rsna(tmp_path / "rsna", {0: 60, 1: 20, 2: 20})
    trained = run(
        "train", "--rsna", "rsna", "--preset", "starter-cxr", "--out", "b", "--threads", "1",
        "--data", "Made up; CC0; the testers", "--set", "flow.optimiser=adamax", "--set", "flow.epochs=2",
        "--set", "transform.views=1", "--set", "local.steps=8", "--set", "local.rehearsal=8", cwd=tmp_path,
        timeout=600,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "RSNA sets (fewer images than the paper's table 1" in trained.stderr
    assert "acquisition probe" in trained.stderr
    card = (tmp_path / "b" / "card.md").read_text()
    assert "- Made up. Licence: CC0. Credit: the testers" in card
    options = 'transform.views=1, flow.epochs=2, flow.optimiser="adamax", local.steps=8, local.rehearsal=8'
    assert f"starter-cxr with {options}" in card
    assert "RSNA Pneumonia Detection Challenge 2018. Licence: research" in card
    assert {path.name for path in (tmp_path / "b.record").iterdir()} == {"curves.csv", "curves.png", "training.json"}
    bundle, rsna, folder = (str(tmp_path / name) for name in ("b", "rsna", "r"))
    report = laboratory("evaluate", bundle, "--rsna", rsna, "--report", folder, "--json", *FEW)
    assert report.exit_code == 0, report.exception
    metrics = json.loads(report.stdout)
    assert {"lung opacity", "no lung opacity / not normal", "all"} == metrics["labels"].keys()
    assert metrics["test"]["images_labelled"] == 36
    assert {"sex", "age"} <= metrics["combined"]["subgroups"].keys()
