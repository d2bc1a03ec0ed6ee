"""How far a bleed lifts a head, by where it lies: a ball of 70 HU drawn into heads without hemorrhage.

    .venv/bin/python -m tests.bench.bleeds [--millilitres 12.5] [--data DIR] [--json]

Percentiles by the shipped bundle: medians over the twelve heads without hemorrhage that it wasn't trained on. Its
reference are these and twelve with hemorrhage, so a head's own value is taken out first, and a percentile of 52 is
above everybody without hemorrhage already: how many are is told, too. That the network learned from artificial blood
makes this rosier than real blood would be, at every place alike.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.bench.robustness import without
from tests.support.progress import tracked
from triage.bundles import Bundle, models_folder
from triage.config.schema import Models
from triage.messages import ModelInput
from workers.flows.engine import Engine
from workers.images.gate_bct import BONE_HU, MIN_ENCLOSED_CM2, enclosed_by
from workers.images.volume import lying_straight
from workers.lab.gridding import head_on_grid
from workers.lab.starter import BCT_TEST_NORMAL

Hu = npt.NDArray[np.float64]

#: Where blood stops at the skull it stops at what is surely bone.
PIXEL_MM, BLOOD_HU, SURELY_BONE_HU = 1.56, 70.0, 85.0
#: Place: level (from the lowest slice with brain, from the largest one), and where in it, from front to back and from
#: one side to the other.
PLACES = {
    "cerebellum": ("low", 1, 0.80, 0.38),
    "brainstem": ("low", 1, 0.66, 0.50),
    "basal ganglia": ("large", 0, 0.50, 0.30),
    "occipital lobe": ("large", 0, 0.80, 0.35),
    "near the vertex": ("large", 5, 0.50, 0.30),
}


def drawn(hu: Hu, between_mm: float, place: str, millilitres: float) -> Hu:
    """Return a head, (D, H, W), HU, with blood at a place."""
    level, higher, back, across = PLACES[place]
    brain = np.stack([enclosed_by(plane >= BONE_HU, 3) for plane in hu])
    area = brain.sum((1, 2)) * PIXEL_MM**2 / 100
    seen = np.flatnonzero(area >= MIN_ENCLOSED_CM2)
    z = min((seen[0] if level == "low" else int(area.argmax())) + higher, seen[-1])
    rows, columns = np.nonzero(brain[z])
    y = rows.min() + back * np.ptp(rows)
    x = columns.min() + across * np.ptp(columns)
    steps = np.ogrid[: hu.shape[0], : hu.shape[1], : hu.shape[2]]
    away = sum(
        ((axis - middle) * mm) ** 2
        for axis, middle, mm in zip(steps, (z, y, x), (between_mm, PIXEL_MM, PIXEL_MM), strict=True)
    )
    # Where no skull closes around it any more, below the lowest such slice, brain goes on.
    within = brain | (np.arange(len(hu)) < seen[0])[:, None, None]
    ball = (away < (millilitres * 750 / np.pi) ** (2 / 3)) & within & (hu < SURELY_BONE_HU)
    return np.where(ball, BLOOD_HU, hu)


def measure(data: Path, millilitres: float) -> dict[str, dict[str, float]]:
    """Return by place the median and the lowest percentile, and how many are above all others without hemorrhage."""
    bundle = Bundle.open(models_folder(Models()) / "bct-starter")
    engine = Engine(bundle, "cpu")

    def statistic(hu: Hu, between_mm: float) -> float:
        straight = lying_straight((between_mm, PIXEL_MM, PIXEL_MM))
        score = engine.score(ModelInput(modality="BCT", pixels=head_on_grid(hu, straight, bundle.preprocessing)))
        return float("nan") if score.not_scored else score.combined

    with np.load(data / "bct_ctich.npz") as arrays:
        chosen = np.flatnonzero(np.isin(arrays["patient"].astype(str), BCT_TEST_NORMAL.split(",")))
        heads = arrays["x"][chosen] / 255 * 120 - 20.0
        between = 0.15625 * arrays["n_slices"][chosen]
    own = np.empty(len(heads))
    bleeding = {place: np.empty(len(heads)) for place in PLACES}
    for number, (hu, mm) in enumerate(tracked([*zip(heads, between, strict=True)], "heads")):
        own[number] = statistic(hu, mm)
        for place, values in bleeding.items():
            values[number] = statistic(drawn(hu, mm, place, millilitres), mm)
    references = [without(bundle.calibration, value) for value in own]
    highest = [np.nanmax(np.delete(own, number)) for number in range(len(own))]
    found = {}
    for place, values in {"as they are": own, **bleeding}.items():
        percentiles = [reference.percentile(value) for reference, value in zip(references, values, strict=True)]
        found[place] = {
            "median": float(np.nanmedian(percentiles)),
            "lowest": float(np.nanmin(percentiles)),
            "above_others_without": int((values > highest).sum()),
            "of": len(values),
            "not_scored": int(np.isnan(values).sum()),
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millilitres", type=float, default=12.5)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.data, arguments.millilitres)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for place, row in figures.items():
        told = "{median:6.1f}  (lowest {lowest:.1f}, {not_scored:.0f} not scored, "
        told += "{above_others_without:.0f} of {of:.0f} above all others without hemorrhage)"
        print(f"{place:16} {told.format(**row)}")


if __name__ == "__main__":
    main()
