"""The acquisition probe: silent on matched sets, loud where the machine tells them apart."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.support.peers import shared
from workers.lab.acquisition import of_found, of_pixels, of_rows
from workers.lab.folders import listed
from workers.lab.probe import Acquisition, probe


def scenes(count: int, seed: int) -> np.ndarray:
    """Return smooth images with a little noise, uint8 (N, 64, 64)."""
    rng = np.random.default_rng(seed)
    smooth = np.stack([gaussian_filter(rng.normal(0, 1, (64, 64)), 6) for _ in range(count)])
    scaled = 128 + 60 * smooth / np.abs(smooth).max(axis=(1, 2), keepdims=True)
    return np.clip(scaled + rng.normal(0, 2, scaled.shape), 1, 254).astype(np.uint8)


def people(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def compare(mixture: np.ndarray, count: int = 120) -> Acquisition:
    normal = scenes(count, 0)
    return probe(of_rows(normal, people("n", count)), of_rows(mixture, people("m", len(mixture))))


def noisier(images: np.ndarray) -> np.ndarray:
    return np.clip(images + np.random.default_rng(9).normal(0, 3, images.shape), 0, 255).astype(np.uint8)


def bordered(images: np.ndarray) -> np.ndarray:
    framed = images.copy()
    framed[:, :4], framed[:, -4:] = 0, 0
    return framed


def posterised(images: np.ndarray) -> np.ndarray:
    return images // 4 * 4


def test_matched_sets_are_not_told_apart() -> None:
    found = compare(scenes(120, 1))
    # Cross-validation of pure chance comes out a little below one half, for what is held out is missing elsewhere.
    assert found.auc == pytest.approx(0.45, abs=0.15)
    assert not found.suspicious
    assert "the sets match" in str(found)


def test_above_the_limit_it_warns_even_where_chance_explains_it() -> None:
    found = Acquisition(0.61, (0.45, 0.75), {}, (), 20, 20, 0)
    assert found.suspicious
    assert "the machine, not the disease (that may be chance" in str(found)
    assert not Acquisition(0.6, (0.55, 0.65), {}, (), 20, 20, 0).suspicious


@pytest.mark.parametrize(
    ("change", "group", "feature"),
    [(noisier, "noise", "noise."), (bordered, "border", "border."), (posterised, "noise", "noise.grey_values")],
)
def test_sets_of_different_machines_are(change: Callable[[np.ndarray], np.ndarray], group: str, feature: str) -> None:
    found = compare(change(scenes(120, 1)))
    assert found.auc is not None
    assert found.auc > 0.9
    assert found.by_group[group] > 0.9
    assert found.suspicious
    assert found.tells[0].startswith(feature)
    assert "the machine, not the disease" in str(found)


def test_a_quality_of_jpeg_tells(tmp_path: Path) -> None:
    for name, quality, seed in (("normal", 95, 0), ("mixture", 60, 1)):
        (tmp_path / name).mkdir()
        for number, image in enumerate(scenes(30, seed)):
            Image.fromarray(image).save(tmp_path / name / f"{number}.jpg", quality=quality)
    found = probe(*([of_found(image) for image in listed(tmp_path / name)] for name in ("normal", "mixture")))
    assert found.auc is not None
    assert found.auc > 0.9
    assert any("jpeg_quantisation" in tell for tell in found.tells)


def test_shared_images_are_left_out() -> None:
    """The mixture holds half of the normals; with them the sets would look more alike than what differs does."""
    normal, other = scenes(60, 0), noisier(scenes(40, 1))
    mixture = np.concatenate([normal[:30], other])
    found = probe(of_rows(normal, people("n", 60)), of_rows(mixture, people("m", 70)))
    assert (found.images_normal, found.images_mixture, found.shared) == (30, 40, 30)
    assert found.auc is not None
    assert found.auc > 0.9


def test_a_mixture_with_all_normals_is_compared_by_what_it_adds() -> None:
    normal = scenes(40, 0)
    mixture = np.concatenate([normal, noisier(scenes(40, 1))])
    found = probe(of_rows(normal, people("n", 40)), of_rows(mixture, people("m", 80)))
    assert (found.images_normal, found.images_mixture, found.shared) == (40, 40, 40)
    assert found.note
    assert found.suspicious


def test_too_few_images() -> None:
    found = compare(scenes(5, 1))
    assert found.auc is None
    assert not found.suspicious
    assert "not possible" in str(found)


@pytest.mark.parametrize("patients", [24, 12])
def test_images_of_one_patient_share_a_fold(patients: int) -> None:
    """Each patient's images carry a mark of their own: by image it would be learned by heart."""
    rng = np.random.default_rng(3)
    images = scenes(120, 4).astype(float)
    owners = np.repeat(np.arange(patients), 120 // patients)
    images += rng.normal(0, 12, (patients, 64, 64))[owners] * (owners % 5 == 0)[:, None, None]
    images = np.clip(images, 0, 255).astype(np.uint8)
    names = [f"p{owner}" for owner in owners]
    first = owners < patients // 2
    found = probe(
        of_rows(images[first], [n for n, f in zip(names, first, strict=True) if f]),
        of_rows(images[~first], [n for n, f in zip(names, first, strict=True) if not f]),
    )
    assert found.auc is not None
    assert found.auc < 0.75
    assert "too few patients" not in str(found)


def test_too_few_patients_to_go_by_is_told() -> None:
    found = probe(of_rows(scenes(30, 0), ["one"] * 30), of_rows(scenes(30, 1), ["other"] * 30))
    assert found.auc is not None
    assert "too few patients" in str(found)


def test_flat_images_have_features_too() -> None:
    found = of_pixels(np.full((32, 32), 7.0), whole=True)
    assert all(np.isfinite(value) for value in found.values() if not isinstance(value, str))


def test_dicom_headers_are_features() -> None:
    features = of_found(next(listed(shared("data", "dicom_cxr")))).features()
    assert features["header.Manufacturer"] == "Wrapped public data"
    assert features["header.Rows"] == 1024.0
    assert "noise.detail1" in features
