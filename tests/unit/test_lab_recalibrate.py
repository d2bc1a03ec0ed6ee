"""A bundle against a site's own images: percentiles, p-values and probabilities that mean what they say."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from tests.support.flows import tiny_bundle
from triage.bundles import MIXTURE, NORMAL, Bundle, write_bundle
from triage.errors import ConfigurationError
from workers.flows.engine import Engine
from workers.lab import recalibrate as recalibrate_module
from workers.lab.calibrate import admissible
from workers.lab.cli import register
from workers.lab.images import load
from workers.lab.recalibrate import Site, recalibrate

COUNT = 240
CHECKS = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((8, 8))).astype(np.uint8) * 255


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and with smooth images: x, which are labelled by how the bundle ranks them, y."""
    folder = tmp_path_factory.mktemp("site")
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(0, 1, (COUNT, 64, 64)), (0, 5, 5))
    images = 128 + 110 * smooth / np.abs(smooth).max(axis=(1, 2), keepdims=True)
    np.savez(folder / "all.npz", x=images.astype(np.uint8), part=np.arange(COUNT) % 2)
    bundle = tiny_bundle(folder / "tiny")
    pixels = load([str(folder / "all.npz")], bundle.preprocessing, "CXR").pixels
    combined = Engine(bundle, "cpu").measure(pixels).estimates(bundle.calibration)["combined"]
    noisy = combined + 0.5 * combined.std() * rng.normal(size=COUNT)
    rows = [f"{row},{'ill' if high else 'normal'}" for row, high in enumerate(noisy > np.quantile(noisy, 0.6))]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    return folder


def calibrated(
    site: Path, out: Path, normal: str = "", labels: bool = False, prevalence: float | None = None
) -> Bundle:
    found = Site.find(
        Bundle.open(site / "tiny"), [f"{site / 'all.npz'}?part=0" if normal else str(site / "all.npz")],
        [normal] if normal else [], site / "labels.csv" if labels else None, prevalence=prevalence,
    )  # fmt: skip
    return recalibrate(found, out, device="cpu")[0]


def combined_of(bundle: Bundle, source: str) -> np.ndarray:
    pixels = load([source], bundle.preprocessing, "CXR").pixels
    return Engine(bundle, "cpu").measure(pixels).estimates(bundle.calibration)["combined"]


def test_the_reference_is_the_site_s_and_the_weights_are_the_same_bytes(site: Path, tmp_path: Path) -> None:
    made = calibrated(site, tmp_path / "local")
    assert made.name == "local"
    assert made.digest != Bundle.open(site / "tiny").digest
    for file in (NORMAL, MIXTURE):
        digests = {hashlib.sha256((folder / file).read_bytes()).hexdigest() for folder in (site / "tiny", made.folder)}
        assert len(digests) == 1
    places = np.array([made.calibration.percentile(value) for value in combined_of(made, str(site / "all.npz"))])
    assert made.calibration.images >= COUNT - 10
    assert np.abs(np.sort(places) - np.linspace(0, 100, len(places))).max() < 5
    assert "Calibrated again" in made.card
    rates = {point.target: point for point in made.calibration.operating_points if point.kind == "flag_rate"}
    assert rates[0.05].percentile == pytest.approx(95, abs=1)
    assert rates[0.2].percentile == pytest.approx(80, abs=1)


def test_p_values_of_normal_images_are_small_no_more_often_than_they_say(site: Path, tmp_path: Path) -> None:
    """The normals of one half are the reference, the exchangeable images of the other half are tested."""
    made = calibrated(site, tmp_path / "local", normal=f"{site / 'all.npz'}?part=0")
    values = [made.calibration.p_value(value) for value in combined_of(made, f"{site / 'all.npz'}?part=1")]
    shares = np.array([value for value in values if value is not None])
    assert len(shares) == COUNT // 2
    for level in (0.1, 0.2, 0.5):
        assert (shares <= level).mean() < level + 3 * np.sqrt(2 * level * (1 - level) / len(shares))
    assert shares.min() >= 1 / (len(made.calibration.normal_reference) + 1)


def test_probabilities_agree_with_the_labels_and_follow_the_prior(site: Path, tmp_path: Path) -> None:
    made = calibrated(site, tmp_path / "a", labels=True)
    rarer = calibrated(site, tmp_path / "b", labels=True, prevalence=0.05)
    combined = combined_of(made, str(site / "all.npz"))
    as_labelled, as_rare = (
        np.array([bundle.calibration.calibrated(value) for value in combined], dtype=float) for bundle in (made, rarer)
    )
    assert as_labelled.mean() == pytest.approx(0.4, abs=0.03)
    odds = [p / (1 - p) for p in (as_labelled, as_rare)]
    assert made.calibration.probability is not None
    prevalence = made.calibration.probability.prevalence
    assert np.allclose(odds[1] / odds[0], (0.05 / 0.95) / (prevalence / (1 - prevalence)))
    assert {point.kind for point in made.calibration.operating_points} == {"flag_rate", "sensitivity"}


def test_one_strange_image_does_not_stretch_the_ranges(site: Path, tmp_path: Path) -> None:
    with np.load(site / "all.npz") as arrays:
        images = arrays["x"]
    np.savez(tmp_path / "with.npz", x=np.concatenate([images, CHECKS[None]]))
    plain = calibrated(site, tmp_path / "plain").calibration.ranges
    found = Site.find(Bundle.open(site / "tiny"), [str(tmp_path / "with.npz")], [])
    made, notes = recalibrate(found, tmp_path / "local", device="cpu")
    assert any("unlike all the others" in note for note in notes)
    assert made.calibration.ranges.keys() == plain.keys()


def test_a_normal_far_from_the_others_that_would_be_scored_is_a_reference(site: Path, tmp_path: Path) -> None:
    """Else the next one like it would get a p-value that is too small."""
    with np.load(site / "all.npz") as arrays:
        images = arrays["x"]
    np.savez(tmp_path / "with.npz", x=np.concatenate([images, CHECKS[None]]))
    shutil.copytree(site / "tiny", tmp_path / "wide")
    tiny = Bundle.open(tmp_path / "wide")
    every = dict.fromkeys(calibrated(site, tmp_path / "plain").calibration.ranges, (-1e12, 1e12))
    wide = write_bundle(tiny.folder, tiny.manifest, tiny.calibration.model_copy(update={"ranges": every}), tiny.card)
    source = str(tmp_path / "with.npz")
    found = Site.find(wide, [source], [source])
    assert not recalibrate_module._plausible(recalibrate_module._measure(found, "cpu", lambda: None)).all()
    made, _ = recalibrate(found, tmp_path / "local", device="cpu")
    assert len(made.calibration.normal_reference) == made.calibration.images == COUNT + 1


@pytest.mark.parametrize(
    ("lowest", "bound", "admitted"), [(1.0, None, 0.0), (1.0, -0.7, -0.7), (-3.0, -0.7, -6.0), (-3.0, -9.0, -9.0)]
)
def test_a_ratio_is_unlike_below_its_bound_and_all_that_trained_flows_show(
    lowest: float, bound: float | None, admitted: float
) -> None:
    """Exact densities never go below log pi; trained flows do, on images as good as any: by so much it is let through.

    Every level's part has the range of the references alone.
    """
    rows = [{"ratio": ratio, "ratio.level1": ratio / 2} for ratio in (lowest, 3.0)]
    ranges = admissible(rows, lambda quantity: 0.5, None if bound is None else (bound, -0.1))
    assert ranges["ratio"] == (admitted, 3.0 + (3.0 - lowest) / 2)
    assert ranges["ratio.level1"] == (lowest / 2 - (3.0 - lowest) / 4, 1.5 + (3.0 - lowest) / 4)


def test_too_few_images_or_labels_and_contradicting_labels(site: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(site / "tiny")
    with pytest.raises(ConfigurationError, match="at least 30"):
        recalibrate(Site.find(bundle, [f"{site / 'all.npz'}?sample=0.05"], []), tmp_path / "a")
    table = tmp_path / "labels.csv"
    lines = (site / "labels.csv").read_text().splitlines()
    table.write_text("\n".join(lines[:60]))
    with pytest.raises(ConfigurationError, match="50 of either"):
        recalibrate(Site.find(bundle, [str(site / "all.npz")], [], table), tmp_path / "b")
    swapped = [line.replace("ill", "x").replace("normal", "ill").replace("x", "normal") for line in lines[1:]]
    table.write_text("\n".join(["file,label", *swapped]))
    with pytest.raises(ConfigurationError, match="more often normal"):
        recalibrate(Site.find(bundle, [str(site / "all.npz")], [], table), tmp_path / "c")
    with pytest.raises(ConfigurationError, match="--labels"):
        Site.find(bundle, [str(site / "all.npz")], [], prevalence=0.1)


def test_the_command(site: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    out = tmp_path / "local"
    answer = CliRunner().invoke(
        app, ["models", "calibrate", str(site / "tiny"), "--reference", str(site / "all.npz"),
              "--labels", str(site / "labels.csv"), "--out", str(out)],
    )  # fmt: skip
    assert answer.exit_code == 0, answer.exception
    assert Bundle.open(out).calibration.probability is not None
    again = CliRunner().invoke(
        app, ["models", "calibrate", str(site / "tiny"), "--reference", str(site / "all.npz"), "--out", str(out)]
    )
    assert isinstance(again.exception, ConfigurationError)
