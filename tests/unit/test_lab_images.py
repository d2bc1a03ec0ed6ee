"""Where training images come from, and into which split they fall."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom import dcmread

from tests.support.peers import shared
from triage.errors import ConfigurationError, NotScoredError
from triage.manifest import Preprocessing
from workers.lab.acquisition import of_found
from workers.lab.folders import files_below, listed
from workers.lab.image_set import ImageSet, linked
from workers.lab.images import load, load_whole
from workers.lab.presets import find_preset
from workers.lab.run import Run, split

GRID = Preprocessing(size=(64, 64), grey_levels=256)
HEAD = Preprocessing(size=(8, 32, 32), spacing_mm=(10.0, 7.0, 7.0), grey_levels=128)


def chests(count: int, seed: int = 0) -> np.ndarray:
    """Return smooth images without borders, uint8 (N, 128, 128)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (count, 8, 8)).astype(np.float64)
    return np.kron(coarse, np.ones((1, 16, 16))).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Real radiographs, uint8 (N, 128, 128): the gate looks at files."""
    with np.load(shared("data", "cxr_adult.npz")) as arrays:
        found: np.ndarray = arrays["x"][arrays["y_rsna"] == 0][:8]
    return found


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "set.npz"
    patients = np.array(["a", "a", "b", "", "", "c"])
    np.savez(path, x=chests(6), y=np.array([0, 1, 0, 0, 1, 2]), patient=patients)
    return path


def test_rows_are_selected_by_the_other_arrays(npz: Path) -> None:
    assert load([f"{npz}"], GRID, "CXR").keys == tuple(f"set:{n}" for n in range(6))
    assert load([f"{npz}?y=0"], GRID, "CXR").keys == ("set:0", "set:2", "set:3")
    assert load([f"{npz}?y=0,2"], GRID, "CXR").keys == ("set:0", "set:2", "set:3", "set:5")
    assert load([f"{npz}?y!=0&patient!=a"], GRID, "CXR").keys == ("set:4", "set:5")


def test_an_image_named_twice_is_one_image_and_one_without_patient_is_its_own(npz: Path) -> None:
    images = load([f"{npz}?y=0", f"{npz}"], GRID, "CXR")
    assert len(images) == 6
    by_key = dict(zip(images.keys, images.patients, strict=True))
    assert by_key["set:0"] == by_key["set:1"] == "set:a"
    assert by_key["set:3"] == "set:3"


def test_a_sample_is_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "many.npz"
    np.savez(path, x=chests(60))
    half = load([f"{path}?sample=0.5"], GRID, "CXR")
    assert 15 < len(half) < 45
    assert load([f"{path}?sample=0.5"], GRID, "CXR").keys == half.keys


@pytest.mark.parametrize("source", ["{}?z=1", "{}?y=7", "{}?y", "/no/where", "{}x"])
def test_a_source_that_gives_nothing_is_an_error(npz: Path, source: str) -> None:
    with pytest.raises(ConfigurationError):
        load([source.format(npz)], GRID, "CXR")


def test_head_cts_need_window_and_spacing(tmp_path: Path) -> None:
    path = tmp_path / "ct.npz"
    head = np.zeros((1, 16, 64, 64), np.uint8)
    head[:, 2:14, 12:52, 12:52] = 120
    np.savez(path, x=head, n=np.array([20]))
    with pytest.raises(ConfigurationError, match="window and spacing"):
        load([f"{path}"], HEAD, "BCT")
    with pytest.raises(ConfigurationError, match="LOW"):
        load([f"{path}?hu=0..100&spacing=1,2"], HEAD, "BCT")
    images = load([f"{path}?hu=-20..100&spacing=0.4*n,3.5,3.5"], HEAD, "BCT")
    assert images.pixels.shape == (1, 8, 32, 32)
    assert images.pixels.max() == round(-20 + 120 / 255 * 120 + 14)
    middle = np.argwhere(images.pixels[0].max(0) > 20).mean(0)
    assert np.abs(middle - 15.5).max() < 1


def test_folders_of_pictures_with_a_folder_a_patient(tmp_path: Path, pictures: np.ndarray) -> None:
    for number, pixels in enumerate(pictures[:4]):
        place = tmp_path / ("one" if number < 2 else f"p{number}")
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "broken.png").write_bytes(b"not an image either")
    images = load([str(tmp_path)], GRID, "CXR")
    assert len(images) == 4
    assert len(set(images.patients)) == 3


def written(pixels: np.ndarray, *places: Path) -> None:
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)


def test_files_of_one_name_in_folders_of_one_name_are_two_images(tmp_path: Path, pictures: np.ndarray) -> None:
    for number, pixels in enumerate(pictures[:4]):
        written(pixels, tmp_path / f"site{number // 2}/images/{number % 2}.png")
    images = load([str(tmp_path / "site0/images"), str(tmp_path / "site1/images")], GRID, "CXR")
    assert len(images) == len(set(images.patients)) == 4


def test_a_copy_is_the_same_image_of_the_same_patient(tmp_path: Path, pictures: np.ndarray) -> None:
    for number, pixels in enumerate(pictures[:6]):
        written(pixels, tmp_path / f"normal/p{number // 2}/{number}.png")
    # Of the second patient one image lies in the mixture, too, and beside it one that only the mixture has.
    for number in (2, 7):
        written(pictures[number], tmp_path / f"mixture/case/{number}.png")
    normal, mixture = linked([load([str(tmp_path / name)], GRID, "CXR") for name in ("normal", "mixture")])
    assert len(set(normal.keys) & set(mixture.keys)) == 1
    assert len(set(normal.patients)) == 3
    assert set(mixture.patients) == {normal.patients[2]} == {normal.patients[3]}


def test_a_picture_that_was_saved_anew_is_the_same_image(tmp_path: Path, pictures: np.ndarray) -> None:
    """Other bytes, the same pixels: nobody may be trained on in one set and be calibrated on in the other."""
    for number, pixels in enumerate(pictures[:6]):
        written(pixels, tmp_path / f"normal/{number}.png")
        Image.fromarray(pixels).save(tmp_path / "anew.png", compress_level=1)
        (tmp_path / "mixture").mkdir(exist_ok=True)
        (tmp_path / "anew.png").rename(tmp_path / f"mixture/{number}.png")
    apart = [load([str(tmp_path / name)], GRID, "CXR") for name in ("normal", "mixture")]
    assert not set(apart[0].patients) & set(apart[1].patients)
    normal, mixture = linked(apart)
    assert not set(normal.keys) & set(mixture.keys)
    assert normal.looks == [mixture.looks[mixture.patients.index(patient)] for patient in normal.patients]
    assert len(set(normal.patients)) == 6


def test_a_sub_folder_is_the_same_patient_in_every_set(tmp_path: Path, pictures: np.ndarray) -> None:
    for number, place in enumerate(["normal/P1/a", "mixture/P1/b", "mixture/P2/c", "mixture/P3/d"]):
        written(pictures[number], tmp_path / f"{place}.png")
    written(pictures[3], tmp_path / "mixture/P2/again.png")
    normal, mixture = linked([load([str(tmp_path / name)], GRID, "CXR") for name in ("normal", "mixture")])
    assert len(mixture) == 3
    assert set(normal.patients) < set(mixture.patients)
    # Whoever has the same image in two sub-folders is one patient.
    assert len(set(mixture.patients)) == 2


def test_files_that_the_node_would_refuse_are_left_out(tmp_path: Path, pictures: np.ndarray) -> None:
    written(pictures[0], tmp_path / "a.png")
    written(pictures[1][::-1], tmp_path / "b.png")
    written(np.random.default_rng(0).integers(0, 256, (128, 128)).astype(np.uint8), tmp_path / "c.png")
    assert len(load([str(tmp_path)], GRID, "CXR")) == 1
    with np.load(shared("data", "bct_ctich.npz")) as arrays:
        hu = arrays["x"][0] / 255 * 120 - 20.0
    for name, slices in (("head", hu), ("upside-down", hu[::-1])):
        image = sitk.GetImageFromArray(slices)
        image.SetSpacing((1.56, 1.56, 5.0))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    grid = Preprocessing(size=(32, 128, 128), spacing_mm=(4.0, 1.72, 1.72), grey_levels=128)
    assert len(load([str(tmp_path)], grid, "BCT")) == 1


def test_a_photograph_lies_as_its_camera_says(tmp_path: Path, pictures: np.ndarray) -> None:
    written(pictures[0], tmp_path / "upright/a.png")
    lying, exif = Image.fromarray(np.rot90(pictures[0])), Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    (tmp_path / "lying").mkdir()
    lying.save(tmp_path / "lying/a.jpg", exif=exif, quality=95)
    upright, turned = (load([str(tmp_path / name)], GRID, "CXR").pixels[0] for name in ("upright", "lying"))
    assert np.abs(upright.astype(int) - turned).mean() < 3


def test_dicom_files_without_a_study_uid_are_several_images(tmp_path: Path) -> None:
    for file in sorted(shared("data", "dicom_cxr").glob("*.dcm"))[:3]:
        ds = dcmread(file)
        del ds.StudyInstanceUID
        ds.save_as(tmp_path / file.name)
    assert len(load([str(tmp_path)], GRID, "CXR")) == 3


def test_npz_files_of_one_name_are_refused(npz: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / npz.name
    other.parent.mkdir()
    np.savez(other, x=chests(2))
    with pytest.raises(ConfigurationError, match=r"two files are called set\.npz"):
        load([f"{npz}", f"{other}"], GRID, "CXR")


@pytest.mark.parametrize("sample", ["abc", ""])
def test_npz_files_that_cannot_be_used_are_said(npz: Path, tmp_path: Path, sample: str) -> None:
    with pytest.raises(ConfigurationError, match="share"):
        load([f"{npz}?sample={sample}"], GRID, "CXR")
    junk = tmp_path / "junk.npz"
    junk.write_bytes(b"PK not really")
    with pytest.raises(ConfigurationError, match="no npz file"):
        load([f"{junk}"], GRID, "CXR")
    with pytest.raises(ConfigurationError, match="2 dimensions, a BCT has 3"):
        load([f"{npz}?hu=-20..100&spacing=4,4,4"], HEAD, "BCT")


def images_of(patients: list[str], prefix: str = "") -> ImageSet:
    count = len(patients)
    return ImageSet(chests(count), tuple(f"{prefix}{n}" for n in range(count)), tuple(patients))


def test_a_patient_s_images_share_a_split_in_both_sets(tmp_path: Path) -> None:
    patients = [f"p{n // 2}" for n in range(200)]
    normal, mixture = images_of(patients, "n"), images_of(patients[::-1], "m")
    run = Run(
        preset=find_preset("starter-cxr"), normal=normal, mixture=mixture, out=tmp_path, excluded=frozenset({"p1"})
    )
    parts = [split(images, run) for images in (normal, mixture)]
    for name in ("train", "valid", "calibration"):
        here = {p for part in parts for p in getattr(part, name).patients}
        others = {
            p for part in parts for o in {"train", "valid", "calibration"} - {name} for p in getattr(part, o).patients
        }
        assert here
        assert not here & others
        assert "p1" not in here
    assert sum(len(getattr(parts[0], name)) for name in ("train", "valid", "calibration")) == 198


def test_own_calibration_images_are_kept_out_of_training(tmp_path: Path) -> None:
    patients = [f"p{n}" for n in range(60)]
    everything = images_of(patients)
    own = everything.select([p in ("p3", "p4") for p in patients])
    run = Run(preset=find_preset("starter-cxr"), normal=everything, mixture=everything, out=tmp_path, calibration=own)
    parts = split(everything, run)
    assert parts.calibration is own
    assert not {"p3", "p4"} & {*parts.train.patients, *parts.valid.patients}
    assert len(parts.train) + len(parts.valid) == 58


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    few = images_of(["a", "b"])
    run = Run(preset=find_preset("starter-cxr"), normal=few, mixture=few, out=tmp_path)
    with pytest.raises(ConfigurationError, match="too few"):
        split(few, run)


def test_links_to_folders_are_followed_and_none_is_read_twice(tmp_path: Path, pictures: np.ndarray) -> None:
    written(pictures[0], tmp_path / "set/here/a.png")
    written(pictures[1], tmp_path / "elsewhere/b.png")
    (tmp_path / "set/there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/first").symlink_to(tmp_path / "set/here")  # no other name for what has one
    (tmp_path / "set/round").symlink_to(tmp_path / "set")
    names = [path.relative_to(tmp_path / "set").as_posix() for path in files_below(tmp_path / "set")]
    assert names == ["here/a.png", "there/b.png"]
    assert len(load([str(tmp_path / "set")], GRID, "CXR")) == 2


def damaged_exif(path: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(path, exif=exif, dpi=(10, 10))
    path.write_bytes(path.read_bytes().replace(b"Exif\0\0MM", b"Exif\0\0\0M"))


def far_too_large(path: Path, pixels: np.ndarray) -> None:
    Image.new("1", (14000, 14000)).save(path)


def cannot_be_opened(path: Path, pixels: np.ndarray) -> None:
    path.symlink_to("/proc/self/mem")


@pytest.mark.parametrize(
    ("name", "spoil"), [("odd.jpg", damaged_exif), ("odd.png", far_too_large), ("odd.png", cannot_be_opened)]
)
def test_one_odd_file_is_left_out_and_ends_nothing(
    tmp_path: Path, pictures: np.ndarray, name: str, spoil: Callable[[Path, np.ndarray], None]
) -> None:
    written(pictures[0], tmp_path / "a.png")
    spoil(tmp_path / name, pictures[1])
    assert len(load([str(tmp_path)], GRID, "CXR")) == 1
    odd = {image.key: of_found(image) for image in listed(tmp_path)}
    assert len(odd) == 2
    unreadable = 0
    for raw in odd.values():
        try:
            raw.features()
        except NotScoredError:
            unreadable += 1
    assert unreadable == 1


def test_the_probe_looks_at_what_is_trained_on_alone(tmp_path: Path, pictures: np.ndarray) -> None:
    for number in range(3):
        written(pictures[number], tmp_path / f"p{number}/a.png")
    written(np.random.default_rng(0).integers(0, 256, (128, 128)).astype(np.uint8), tmp_path / "noise.png")
    loaded = load_whole([str(tmp_path)], GRID, "CXR", with_raw=True)
    assert len(loaded.images) == 3
    assert [raw.identity for raw in loaded.raw.values()] == list(loaded.raw) == list(loaded.images.keys)
