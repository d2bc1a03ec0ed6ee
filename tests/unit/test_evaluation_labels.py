"""Which image a row of the table means, and what is said when it means none."""

import os
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
from PIL import Image

from triage.errors import ConfigurationError, NotScoredError
from triage.manifest import Preprocessing
from workers.lab.evaluation.cases import find_cases
from workers.lab.evaluation.labels import Matched, match, read_labels

GRID = Preprocessing(size=(64, 64), grey_levels=256)
FILES = ("a/one.png", "a/two.png", "b/one.png", "b/three.PNG", "four.jpeg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "test"
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(40, 216, (8, 8)).astype(np.uint8)
        Image.fromarray(np.kron(coarse, np.ones((16, 16), np.uint8))).save(path)
    (folder / "notes.txt").write_text("no image")
    return folder


def table(folder: Path, text: str) -> Matched:
    path = folder.parent / "labels.csv"
    path.write_text(text)
    return match(read_labels(path), [(folder, find_cases([str(folder)], GRID, "CXR"))])


def test_rows_name_images_in_every_sensible_way(folder: Path) -> None:
    found = table(
        folder,
        f"file,label\na/one.png,normal\n{folder / 'a/two.png'},Normal\n"
        "test/b/one.png,flu\nthree,flu\nscans/four.png,pox\n",
    )
    assert {image.case.key: sorted(image.labels) for image in found.images} == {
        "a/one.png": ["normal"], "a/two.png": ["normal"], "b/one.png": ["flu"], "b/three.PNG": ["flu"],
        "four.jpeg": ["pox"],
    }  # fmt: skip
    assert not found.rows
    assert not found.cases


def test_what_is_missing_or_ambiguous_is_said(folder: Path) -> None:
    found = table(folder, "\ufefffile;label\none.png;normal\nnine.png;flu\ntwo.png;flu\n")
    assert found.rows == ["one.png (2 images have this name)", "nine.png (no such image)"]
    assert [image.case.key for image in found.images] == ["a/two.png"]
    assert len(found.cases) == 4


def test_a_name_in_another_folder_is_not_taken_for_the_image(folder: Path) -> None:
    """Both rows end alike, so neither may stand for the one image of that name."""
    found = table(folder, "file,label\nx/two.png,normal\ny/two.png,flu\nfour,flu\n")
    assert len(found.rows) == 2


def test_a_row_of_another_folder_labels_nothing(folder: Path) -> None:
    found = table(folder, "file,label\nb/two.png,normal\nold/a/one.png,flu\nold/four.jpeg,flu\n")
    assert found.rows == ["b/two.png (no such image)"]
    assert [image.case.key for image in found.images] == ["a/one.png", "four.jpeg"]


def test_nothing_matches(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="no row of the table names an image"):
        table(folder, "file,label\nx.png,normal\n")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name,label\na,b\n", "no column file"),
        ("file,label\n", "no rows"),
        ("file,label\nfour,\n", "line 2"),
        ("file,label\nfour,All\n", "all"),
        ("file,label,Label\nfour,flu,normal\n", "several columns label"),
        ("a comment\nfile,label\nfour,flu\n", "its first line is a comment"),
        ("file,label\nfour,normal\nfour,flu\n", "both normal and flu"),
        ('file,label\nfour,normal\n"three,flu\n' + "x,flu\n" * 30000, "from line"),
    ],
)
def test_tables_that_cannot_be_used(folder: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        table(folder, text)


def test_an_image_may_have_several_labels_and_facts(folder: Path) -> None:
    found = table(folder, "file,label,patient,sex\nfour,flu,p1,M\nfour,pox,p1,M\n")
    assert found.images[0].labels == {"flu", "pox"}
    assert (found.images[0].patient, found.images[0].facts) == ("p1", {"sex": "M"})
    assert found.images[0].patient_known
    assert not table(folder, "file,label\nfour,flu\n").images[0].patient_known


def test_a_patient_who_is_called_as_the_image_is_known(folder: Path) -> None:
    [image] = table(folder, "file,label,patient\nfour.jpeg,flu,four.jpeg\n").images
    assert (image.patient, image.patient_known) == (image.case.key, True)


def test_spellings_of_a_label_are_one_target(folder: Path) -> None:
    found = table(folder, "sep=|\r\nfile|label\r\nfour|Flu\r\nthree|FLU\r\n")
    assert [image.labels for image in found.images] == [{"Flu"}, {"Flu"}]


def test_rows_of_an_npz_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = np.kron(rng.integers(40, 216, (3, 8, 8)), np.ones((1, 16, 16))).astype(np.uint8)
    np.savez(tmp_path / "set.npz", x=images)
    cases = find_cases([str(tmp_path / "set.npz")], GRID, "CXR")
    path = tmp_path / "labels.csv"
    path.write_text("file,label\n0,normal\nset:2,flu\n")
    found = match(read_labels(path), [(tmp_path, cases)])
    assert [image.case.key for image in found.images] == ["set:0", "set:2"]
    assert found.images[1].case.read().shape == (64, 64)


def test_a_row_s_patient_is_known_also_by_the_row_s_own_number(tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(40, 216, (4, 8, 8))
    images = np.kron(coarse, np.ones((1, 16, 16))).astype(np.uint8)
    np.savez(tmp_path / "set.npz", x=images, patient=np.array(["0", "1", "", "1"]))
    (tmp_path / "labels.csv").write_text("file,label\n0,normal\n1,flu\n2,flu\n3,flu\n")
    cases = find_cases([str(tmp_path / "set.npz")], GRID, "CXR")
    found = match(read_labels(tmp_path / "labels.csv"), [(tmp_path, cases)]).images
    assert [image.patient_known for image in found] == [True, True, False, True]
    assert [image.patient for image in found] == ["set:0", "set:1", "set:2", "set:1"]


def test_a_broken_picture_is_refused_when_it_is_read(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    broken = next(case for case in find_cases([str(folder)], GRID, "CXR") if case.key == "broken.png")
    with pytest.raises(NotScoredError):
        broken.read()


def test_files_of_one_name_in_two_folders_are_two_images(folder: Path, tmp_path: Path) -> None:
    for name in ("ill", "well"):
        (tmp_path / name).mkdir()
        for number in (1, 2):
            copy(folder / "four.jpeg", tmp_path / name / f"{number}.jpg")
    path = tmp_path / "labels.csv"
    places = [(tmp_path / name, find_cases([str(tmp_path / name)], GRID, "CXR")) for name in ("ill", "well")]
    path.write_text(f"file,label\nill/1.jpg,flu\n{tmp_path}/ill/2.jpg,flu\nwell/1.jpg,normal\n2.jpg,normal\n")
    found = match(read_labels(path), places)
    assert [(image.case.files[0].parent.name, image.case.key, image.normal) for image in found.images] == [
        ("ill", "1.jpg", False), ("ill", "2.jpg", False), ("well", "1.jpg", True),
    ]  # fmt: skip
    assert found.rows == ["2.jpg (2 images have this name)"]


def test_of_a_table_of_several_folders_only_this_one_s_rows_count(tmp_path: Path, folder: Path) -> None:
    """The images of one part lie in no sub-folder: a row of the other part must not label them."""
    (tmp_path / "part").mkdir()
    for number in range(3):
        copy(folder / "four.jpeg", tmp_path / f"part/{number}.jpg")
    text = "file,label\npart/0.jpg,flu\npart/1.jpg,normal\nother/2.jpg,normal\n"
    found = table(tmp_path / "part", text)
    assert found.rows == ["other/2.jpg (no such image)"]
    moved = table(tmp_path / "part", text.replace("part/", "other/"))
    assert len(moved.images) == 3


def test_names_that_are_no_utf_8_do_no_harm(folder: Path) -> None:
    copy(folder / "four.jpeg", os.fsdecode(os.fsencode(folder) + b"/M\xfcller.jpeg"))
    found = table(folder, "file,label\nfour,flu\n")
    assert any(key == r"M\xfcller.jpeg" for key in found.cases)
    "".join(found.cases).encode()
