"""The paper's table 1 from the challenge's folder: counts, overlap, nothing shared with the test set."""

from pathlib import Path

import pytest

from tests.support.rsna import make_rsna
from triage.errors import ConfigurationError
from triage.manifest import Preprocessing
from workers.lab.folders import hashed
from workers.lab.rsna import OPACITY, OTHER, RsnaImage, divide, labelled_test_rows, read_rsna, training_sets

GRID = Preprocessing(size=(64, 64), grey_levels=256)


def listed(normal: int, others: int) -> list[RsnaImage]:
    labels = ["normal"] * normal + [OPACITY, OTHER] * (others // 2)
    return [RsnaImage(f"p{n:05d}", label, Path(f"p{n:05d}.dcm")) for n, label in enumerate(labels)]


def test_with_as_many_images_the_sets_are_table_1() -> None:
    sets = divide(listed(9190, 20494))
    assert sets.complete
    assert "table 1 of the paper" in str(sets)
    normals = [{image for image in part if image.label == "normal"} for part in (sets.normal, sets.mixture, sets.test)]
    assert [len(part) for part in normals] == [7808, 6553, 1358]
    assert len(sets.normal) == 7808
    assert len(sets.mixture) - 6553 == 6631
    assert len(sets.test) - 1358 == 13863
    assert len(normals[0] & normals[1]) == 6529
    assert not set(sets.test) & {*sets.normal, *sets.mixture}


def test_with_the_published_training_part_proportions_are_kept_and_said() -> None:
    sets = divide(listed(8851, 17832))
    assert not sets.complete
    assert "fewer images" in str(sets)
    shared = len(set(sets.normal) & set(sets.mixture))
    assert len(sets.normal) == pytest.approx(7808 * 8851 / 9190, abs=2)
    assert shared == pytest.approx(6529 * 8851 / 9190, abs=2)
    assert len(sets.mixture) == pytest.approx(6553 * 8851 / 9190 + 6631 * 17832 / 20494, abs=3)
    assert not set(sets.test) & {*sets.normal, *sets.mixture}
    assert len({*sets.normal, *sets.mixture, *sets.test}) == 8851 + 17832
    assert divide(list(reversed(listed(8851, 17832)))) == sets


def test_a_folder_in_the_challenge_s_layout(tmp_path: Path) -> None:
    make_rsna(tmp_path, {0: 20, 1: 6, 2: 6})
    images = read_rsna(tmp_path)
    assert len(images) == 32
    assert {image.label for image in images} == {"normal", OPACITY, OTHER}
    sets = divide(images)
    normal, mixture = (loaded.images for loaded in training_sets(sets, GRID))
    assert len(normal) <= len(sets.normal)
    assert len(normal) > 10
    assert set(normal.keys) & set(mixture.keys)
    assert normal.patients == tuple(map(hashed, normal.keys))
    rows = labelled_test_rows(sets)
    assert {row.file.removesuffix(".dcm") for row in rows} == {image.patient_id for image in sets.test}


def test_files_that_are_missing_are_left_out(tmp_path: Path) -> None:
    """When they come later, no image of the test set will have been trained on."""
    make_rsna(tmp_path, {0: 20, 1: 8}, pixels=False)
    whole = divide(read_rsna(tmp_path))
    missing = whole.normal[0]
    missing.path.unlink()
    part = divide(read_rsna(tmp_path)).there()
    assert part.test == whole.test
    assert part.normal == tuple(image for image in whole.normal if image != missing)
    assert part.mixture == tuple(image for image in whole.mixture if image != missing)


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("stage_2_detailed_class_info.csv", "patientId,class\na,Sick\n", "class Sick"),
        ("stage_2_detailed_class_info.csv", "patientId,class\na,Normal\na,Lung Opacity\n", "two classes"),
        ("stage_2_detailed_class_info.csv", "id,class\na,Normal\n", "no column patientId: its first line is id,class"),
        ("stage_2_detailed_class_info.csv", "patientId,class\na,Normal\nb\n", "line 3"),
        ("stage_2_detailed_class_info.csv", "patientId,class\na,Normal\n", "none of the 1 images"),
        ("stage_2_train_labels.csv", "patientId,Target\n00000001-0000-4000-8000-000000000000,1\n", "boxes an opacity"),
    ],
)
def test_tables_that_contradict(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    make_rsna(tmp_path, {0: 5, 1: 2}, pixels=False)
    (tmp_path / file).write_text(text)
    with pytest.raises(ConfigurationError, match=complaint):
        read_rsna(tmp_path)


def test_another_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="stage_2"):
        read_rsna(tmp_path)
