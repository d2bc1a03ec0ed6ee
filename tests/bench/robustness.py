"""How far a percentile drifts under what isn't medicine: the picture altered before preprocessing, then scored.

    .venv/bin/python -m tests.bench.robustness [--bundle FOLDER] [--images 12] [--json]

Every alteration is made in the displayed radiograph at its full resolution; then borders, greys, gate and flows see it
as they would see a study. Drift is in percentile points against the unaltered picture, without pictures that the gate
or the calibration refuses (counted). The last rows show whether a score follows the share of zero pixels (A.20).
"""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from tests.support.peers import shared
from triage.bundles import Bundle
from triage.errors import NotScoredError
from triage.messages import ModelInput
from workers.flows.engine import Engine
from workers.images.cxr import cxr_tensor
from workers.images.gate_cxr import check_frontal_chest
from workers.images.pixels import displayed

Picture = npt.NDArray[np.float32]
STARTER = Path(__file__).resolve().parents[2] / "workers" / "models" / "cxr-starter"


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
}


def percentile(engine: Engine, picture: Picture) -> float:
    """Return the percentile, NaN if the picture isn't scored."""
    try:
        pixels = cxr_tensor(np.ascontiguousarray(picture, dtype=np.float32), engine.bundle.preprocessing.size)
        check_frontal_chest(pixels)
    except NotScoredError:
        return np.nan
    score = engine.score(ModelInput(modality="CXR", pixels=pixels))
    return np.nan if score.not_scored else score.percentile


def drifts(engine: Engine, pictures: list[Picture]) -> dict[str, dict[str, float]]:
    """Return mean and 95th percentile of the absolute drift, and the refusals, by alteration."""
    before = np.array([percentile(engine, p) for p in pictures])
    figures = {}
    for name, alter in ALTERATIONS.items():
        change = np.abs(np.array([percentile(engine, alter(p)) for p in pictures]) - before)
        known = change[~np.isnan(change)]
        mean, high = (float(known.mean()), float(np.percentile(known, 95))) if known.size else (np.nan, np.nan)
        figures[name] = {"mean": mean, "p95": high, "not_scored": int(np.isnan(change).sum())}
    negatives = sum(bool(np.isnan(percentile(engine, 1 - p))) for p in pictures)
    figures["a negative (to be refused)"] = {"mean": np.nan, "p95": np.nan, "not_scored": negatives}
    return figures


def zero_pixels(engine: Engine) -> dict[str, float]:
    """Return correlations with the share of zero pixels on images that no flow saw (paper, figure A.20)."""
    with np.load(shared("data", "cxr_adult.npz"), allow_pickle=False) as arrays:
        images = arrays["x"][(arrays["y_rsna"] >= 0) & (arrays["source"] == "talo")][:150]
    rows = []
    for image in images:
        pixels = cxr_tensor(image.astype(np.float32) / 255, engine.bundle.preprocessing.size)
        score = engine.score(ModelInput(modality="CXR", pixels=pixels))
        rows.append([(pixels == 0).mean(), score.log_prob_normal, score.percentile])
    shares = np.corrcoef(np.array(rows), rowvar=False)[0]
    return {"log p(x|normal)": float(shares[1]), "percentile": float(shares[2])}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=STARTER, help="a bundle's folder")
    parser.add_argument("--images", type=int, default=12, choices=range(1, 25), metavar="1..24")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    engine = Engine(Bundle.open(arguments.bundle), "cpu")
    files = sorted(shared("data", "dicom_cxr").glob("*.dcm"))
    chosen = [files[round(n)] for n in np.linspace(0, len(files) - 1, arguments.images)]
    figures = drifts(engine, [displayed(pydicom.dcmread(file))[0] for file in chosen])
    zeros = zero_pixels(engine)
    overall = float(np.nanmean([row["mean"] for row in figures.values()]))
    if arguments.json:
        print(json.dumps({"drift": figures, "mean": overall, "correlation_with_zero_pixels": zeros}, indent=2))
        return
    table = Table(title=f"drift of the percentile, {len(chosen)} radiographs, mean {overall:.1f} points")
    for column in ("alteration", "mean", "95th percentile", "not scored"):
        table.add_column(column, justify="left" if column == "alteration" else "right")
    for name, row in figures.items():
        table.add_row(name, f"{row['mean']:.1f}", f"{row['p95']:.1f}", str(row["not_scored"]))
    for name, value in zeros.items():
        table.add_row(f"correlation of {name} with zero pixels", f"{value:+.2f}", "", "")
    Console().print(table)


if __name__ == "__main__":
    main()
