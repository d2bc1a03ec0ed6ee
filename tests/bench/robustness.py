"""How far a percentile drifts under what isn't medicine: the picture altered before preprocessing, then scored.

    .venv/bin/python -m tests.bench.robustness [--bundle FOLDER] [--heads FOLDER] [--images 12] [--json]

Every alteration is made in the displayed radiograph at its full resolution, or in the head CT's HU (on volumes that
trained nothing); then borders, greys, gate and estimators see it as they would see a study. Two radiographs are stored
again in other ways (polarity, bits, windows, tables) and go all the way from a file. Drift is in percentile points
against the unaltered picture, without pictures that the gate or the calibration refuses (counted); "without itself":
where the picture is one of the reference's, against the others. The last table shows whether a score follows the share
of zero pixels, as log p(x|normal) does in the paper (figure A.20).
"""

import argparse
import io
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from tests.bench.robustness_heads import AIR, Head
from tests.bench.robustness_heads import ALTERATIONS as HEAD_ALTERATIONS
from tests.bench.robustness_stored import ways
from tests.support.peers import shared
from tests.support.progress import tracked
from triage.bundles import Bundle
from triage.calibration import Calibration
from triage.errors import NotScoredError
from triage.messages import ModelInput
from workers.flows.engine import Engine
from workers.flows.intracranial import inside_skull
from workers.images import Source, prepare
from workers.images.cxr import _resized, _standardised, cxr_tensor
from workers.images.gate_cxr import check_frontal_chest
from workers.images.pixels import displayed
from workers.images.volume import HU_OFFSET
from workers.lab.starter import BCT_TEST_ABNORMAL, BCT_TEST_NORMAL

Picture = npt.NDArray[np.float32]
Subject = TypeVar("Subject", Picture, Head)
Drifts = dict[str, dict[str, float]]
MEANS = ("mean", "mean_without_itself")
MODELS = Path(__file__).resolve().parents[2] / "workers" / "models"


def turned(degrees: float) -> Callable[[Picture], Picture]:
    return lambda a: ndimage.rotate(a, degrees, reshape=False, order=1)


def bordered(share: float) -> Callable[[Picture], Picture]:
    return lambda a: np.pad(a, round(share * len(a)))


def jpeg(quality: int) -> Callable[[Picture], Picture]:
    def through(a: Picture) -> Picture:
        code = io.BytesIO()
        Image.fromarray(np.round(a * 255).astype(np.uint8)).save(code, "JPEG", quality=quality)
        return np.asarray(Image.open(code), dtype=np.float32) / 255

    return through


def marked(a: Picture) -> Picture:
    picture = Image.fromarray(np.round(a * 255).astype(np.uint8))
    side, draw, font = len(a), ImageDraw.Draw(picture), ImageFont.load_default(size=len(a) // 16)
    for place, text in (((0.03, 0.03), "L"), ((0.7, 0.02), "PORTABLE"), ((0.03, 0.9), "AP 10:45")):
        draw.text((place[0] * side, place[1] * side), text, fill=255, font=font)
    return np.asarray(picture, dtype=np.float32) / 255


def noisy(deviation: float) -> Callable[[Picture], Picture]:
    return lambda a: np.clip(a + np.random.default_rng(0).normal(0, deviation, a.shape), 0, 1)


def coarser(side: int) -> Callable[[Picture], Picture]:
    return lambda a: np.asarray(Image.fromarray(a).resize((side, side), Image.Resampling.BOX))


ALTERATIONS: dict[str, Callable[[Picture], Picture]] = {
    **{f"rotation {d:+d} degrees": turned(d) for d in (2, -2, 5, -5)},
    **{f"border {s:.0%}": bordered(s) for s in (0.02, 0.05, 0.1, 0.15)},
    "grey border 8%": lambda a: np.pad(a, round(0.08 * len(a)), constant_values=0.4),
    "zero padding to 4:3": lambda a: np.pad(a, ((0, 0), (a.shape[1] // 6, a.shape[1] // 6))),
    "marks": marked,
    "marks in a border": lambda a: marked(bordered(0.08)(a)),
    **{f"JPEG quality {q}": jpeg(q) for q in (95, 75, 50)},
    "brightness x 0.8": lambda a: a * 0.8,
    "brightness x 1.2": lambda a: np.clip(a * 1.2, 0, 1),
    "contrast x 0.8": lambda a: (a - 0.5) * 0.8 + 0.5,
    "contrast x 1.2": lambda a: np.clip((a - 0.5) * 1.2 + 0.5, 0, 1),
    "gamma 0.8": lambda a: a**0.8,
    "gamma 1.25": lambda a: a**1.25,
    "noise 1 %": noisy(0.01),
    "noise 3 %": noisy(0.03),
    "resolution 512": coarser(512),
    "resolution 256": coarser(256),
    "a negative (to be refused)": lambda a: 1 - a,
}


def combined(engine: Engine, tensor: Callable[[], npt.NDArray[np.uint8]]) -> float:
    """Return the statistic of what ``tensor`` makes, by which it would be ranked; NaN if it isn't scored."""
    try:
        pixels = tensor()
    except NotScoredError:
        return np.nan
    score = engine.score(ModelInput(modality=engine.bundle.modality, pixels=pixels))
    return np.nan if score.not_scored else score.combined


def of_picture(engine: Engine, picture: Picture) -> float:
    def tensor() -> npt.NDArray[np.uint8]:
        pixels = cxr_tensor(np.ascontiguousarray(picture, dtype=np.float32), engine.bundle.preprocessing.size)
        check_frontal_chest(pixels)
        return pixels

    return combined(engine, tensor)


def of_head(engine: Engine, head: Head) -> float:
    return combined(engine, lambda: head.tensor(engine.bundle.preprocessing))


def drifts(
    engine: Engine,
    of: Callable[[Engine, Subject], float],
    images: list[Subject],
    by: Mapping[str, Callable[[Subject], Subject]],
) -> Drifts:
    """Return mean and 95th percentile of the absolute drift, and the refusals, by alteration."""
    before = [of(engine, image) for image in images]
    return {
        name: figures(engine.bundle.calibration, before, [of(engine, alter(image)) for image in images])
        for name, alter in tracked(by.items(), f"{engine.bundle.modality}, alterations")
    }


def figures(calibration: Calibration, before: list[float], after: list[float]) -> dict[str, float]:
    """Return how far statistics drifted, in percentile points, and how many are not scored.

    Some heads are themselves in the reference, as no study will be. That counts: of 24 references each is a step of 4
    points, and an image on a step leaves it with the least change. So the mean is told without itself, too.
    """
    pairs = [pair for pair in zip(before, after, strict=True) if np.isfinite(pair).all()]
    points = [_drift(calibration, *pair) for pair in pairs]
    others = [_drift(without(calibration, pair[0]), *pair) for pair in pairs]
    return {
        "mean": float(np.mean(points)) if pairs else np.nan,
        "mean_without_itself": float(np.mean(others)) if pairs else np.nan,
        "p95": float(np.percentile(points, 95)) if pairs else np.nan,
        "not_scored": len(before) - len(pairs),
    }


def _drift(calibration: Calibration, before: float, after: float) -> float:
    return abs(calibration.percentile(after) - calibration.percentile(before))


def without(calibration: Calibration, statistic: float) -> Calibration:
    """Return a calibration whose reference no longer holds an image's own value."""
    kept = tuple(value for value in calibration.reference if value != statistic)
    return calibration.model_copy(update={"reference": kept})


def stored(engine: Engine, files: list[Path]) -> Drifts:
    """Return the drift of radiographs that are stored in other ways, through the whole preparation."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:

        def score(ds: pydicom.Dataset) -> float:
            path = Path(name) / "one.dcm"
            ds.save_as(path, enforce_file_format=True)
            grids = {"CXR": engine.bundle.preprocessing}
            sources = [Source(str(ds.SOPInstanceUID), path)]
            return combined(engine, lambda: prepare(sources, grids).model_input.pixels)

        for file in files:
            for way, ds in ways(pydicom.dcmread(file)):
                found.setdefault(way, []).append(score(ds))
    before = found.pop("12 bits, window")
    return {way: figures(engine.bundle.calibration, before, after) for way, after in found.items()}


def zero_pixels(engine: Engine, count: int = 150) -> dict[str, dict[str, float]]:
    """Return correlations with the share of zero pixels on images that no estimator was trained on (figure A.20).

    Once as the images are; then with black borders of random width around them, scored as we do it, and scored with
    the borders left in (the paper's case).
    """
    with np.load(shared("data", "cxr_adult.npz"), allow_pickle=False) as arrays:
        images = arrays["x"][(arrays["y_rsna"] >= 0) & (arrays["source"] == "talo")][:count]
    rng, size = np.random.default_rng(0), engine.bundle.preprocessing.size
    rows: dict[str, list[list[float]]] = {"as they are": [], "black borders": [], "black borders left in": []}
    for image in images.astype(np.float32) / 255:
        around = np.pad(image, [tuple(rng.integers(0, 26, 2)) for _ in range(2)])
        for name, picture in (("as they are", image), ("black borders", around)):
            rows[name].append(_row(engine, picture, cxr_tensor(picture, size)))
        left_in = _standardised(_resized(np.ascontiguousarray(around), size))
        rows["black borders left in"].append(_row(engine, around, left_in))
    found = {}
    for name, values in rows.items():
        shares = np.corrcoef(np.array(values), rowvar=False)[0]
        found[name] = {key: float(shares[n]) for n, key in enumerate(("log p(x|normal)", "ratio", "combined"), start=1)}
    return found


def _row(engine: Engine, picture: Picture, pixels: npt.NDArray[np.uint8]) -> list[float]:
    score = engine.score(ModelInput(modality="CXR", pixels=pixels))
    return [float((picture == 0).mean()), score.log_prob_normal, -score.log_posterior, score.combined]


def heads() -> list[Head]:
    """Return the volumes on which bct-starter was not trained."""
    wanted = [*BCT_TEST_NORMAL.split(","), *BCT_TEST_ABNORMAL.split(",")]
    with np.load(shared("data", "bct_ctich.npz"), allow_pickle=False) as arrays:
        kept = np.isin(arrays["patient"].astype(str), wanted)
        volumes, between_mm = arrays["x"][kept], 0.15625 * arrays["n_slices"][kept]
    return [Head(as_scanned(one), float(apart)) for one, apart in zip(volumes, between_mm, strict=True)]


def as_scanned(stored: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return the HU of a CT-ICH volume, which ends at -20 HU: below is air, but within the skull fluid or fat.

    As air, a few hundred voxels of a brain would get rims as bright as blood from a sharper kernel, and holes from
    slices between slices.
    """
    hu = stored / 255 * 120 - 20.0
    brain = ndimage.binary_dilation(inside_skull(hu.astype(np.float32) + HU_OFFSET), np.ones((1, 3, 3)))
    within = np.stack([ndimage.binary_fill_holes(slice_) for slice_ in brain])
    return np.where((stored < 3) & ~within, AIR, hu)


def show(title: str, rows: Drifts) -> None:
    table = Table(title=title)
    for column in ("alteration", "mean", "mean without itself", "95th percentile", "not scored"):
        table.add_column(column, justify="left" if column == "alteration" else "right")
    for name, row in rows.items():
        points = [f"{row[key]:.1f}" for key in (*MEANS, "p95")]
        table.add_row(name, *points, str(row["not_scored"]))
    Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=MODELS / "cxr-starter", help="a bundle for chest radiographs")
    parser.add_argument("--heads", type=Path, default=MODELS / "bct-starter", help="a bundle for head CTs")
    parser.add_argument("--only", choices=("cxr", "bct"), help="leave the other modality out")
    parser.add_argument(
        "--images", type=int, default=12, choices=range(1, 25), metavar="1..24", help="of each modality"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    tables: dict[str, Drifts] = {}
    zeros: dict[str, dict[str, float]] = {}
    if arguments.only != "bct":
        engine = Engine(Bundle.open(arguments.bundle), "cpu")
        files = some(sorted(shared("data", "dicom_cxr").glob("*.dcm")), arguments.images)
        pictures = [displayed(pydicom.dcmread(file))[0] for file in files]
        tables["radiographs"] = drifts(engine, of_picture, pictures, ALTERATIONS)
        tables["radiographs, stored otherwise"] = stored(engine, files[:2])
        zeros = zero_pixels(engine)
    if arguments.only != "cxr":
        engine = Engine(Bundle.open(arguments.heads), "cpu")
        tables["head CTs"] = drifts(engine, of_head, some(heads(), arguments.images), HEAD_ALTERATIONS)
    if arguments.json:
        found = {name: {row: _jsonable(values) for row, values in rows.items()} for name, rows in tables.items()}
        print(json.dumps({"drift": found, "correlation_with_zero_pixels": zeros}, indent=2, allow_nan=False))
        return
    for name, rows in tables.items():
        mean, others = (float(np.nanmean([row[key] for row in rows.values()])) for key in MEANS)
        show(f"{name}: drift of the percentile, mean {mean:.1f} points, without itself {others:.1f}", rows)
    for name, row in zeros.items():
        print(f"correlation with zero pixels, {name}:", ", ".join(f"{key} {value:+.2f}" for key, value in row.items()))


def _jsonable(row: Mapping[str, float]) -> dict[str, float | None]:
    """Return a row as JSON has it: where every picture was refused there is no number."""
    return {key: value if np.isfinite(value) else None for key, value in row.items()}


def some(items: list, count: int) -> list:
    """Return so many items, evenly spread."""
    return [items[round(n)] for n in np.linspace(0, len(items) - 1, count)]


if __name__ == "__main__":
    main()
