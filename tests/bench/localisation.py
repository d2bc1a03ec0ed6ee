"""Where: how well each kind of relevance map finds what is there, against chance and against where such things lie.

CXR: soft lesions planted into normal chest X-rays of patients that no flow was trained on: pixel AUC over the image,
the same within the lungs (where the place alone tells nothing), and the pointing game (is the highest pixel inside?).
BCT: CT-ICH volumes with hemorrhage that no flow saw: AUC of slices within a volume, and whether the first slice shown
has hemorrhage. Means over images or volumes with 95 % bootstrap intervals over them (each a patient's). Raw, and
standardised by the maps of normals that are neither tested nor trained on (BCT: not trained on); the shipped one also
as the bundle standardises it. A head's local map is standardised slice by slice as it is made, so both rows are alike.

Baselines: noise; and for CXR the mean mask of other lesions, for BCT how often each slice of other patients bleeds, and
how much brain a slice shows (which no label tells).

``python -m tests.bench.localisation [cxr|bct] [--kinds local] [--json] [--models DIR]``: every kind of map takes
fifty minutes for CXR, five for BCT; the shipped one alone two minutes. Occlusion is tried on the first hundred images.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from tests.support.lesions import lungs, plant
from tests.support.peers import shared
from tests.support.progress import tracked
from triage.bundles import Bundle
from triage.manifest import Preprocessing
from workers.flows.engine import Engine
from workers.flows.intracranial import inside_skull
from workers.flows.relevance import Method, Standard
from workers.images.backdrop import conspicuousness
from workers.images.bct import bct_tensor
from workers.images.resample import grid_affine, head_frame
from workers.lab.gates.head import as_volume
from workers.lab.image_set import ImageSet, share
from workers.lab.images import load
from workers.lab.maps import make_mapper
from workers.lab.presets import find_preset
from workers.lab.starter import BCT_TEST_ABNORMAL, BCT_TEST_NORMAL, RECIPES

Maps = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Figures = dict[str, dict[str, "Figure"]]

TESTED, LESIONS_EACH = 120, 2
#: Occlusion asks the classifier 324 times an image: of so many alone, and of fewer normals to standardise by.
OCCLUDED, OCCLUDED_NORMALS = 100, 40
PATCH, STRIDE = 24, 8

CXR_KINDS = (
    "ratio", "ratio.level1", "ratio.level2", "ratio.level3", "normal", "normal.level1", "normal.level2",
    "normal.level3", "gradient", "gradient~2", "gradient_normal", "gradient_normal~1", "gradient_normal~2",
    "difference", "difference~1", "difference~1.5", "difference~2",
)  # fmt: skip
BCT_KINDS = (
    "ratio", "ratio.level1", "ratio.level2", "ratio.level3", "normal", "normal.level1", "normal.level2",
    "normal.level3", "gradient", "gradient~1", "gradient_normal", "gradient_normal~1", "difference", "difference~1.5",
)  # fmt: skip

CLASSIFIER_KINDS = ("classifier", "classifier~1", "classifier~2")
LOCAL_KINDS = ("local", "local~0.5", "local~1", "local~2")


@dataclass(frozen=True)
class Figure:
    """A mean over patients with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def figure(values: npt.ArrayLike, patients: npt.NDArray[np.int64]) -> Figure:
    """Return the mean of ``values``, resampled by patient."""
    each = np.array([np.mean(np.asarray(values, float)[patients == p]) for p in np.unique(patients)])
    drawn = np.random.default_rng(0).choice(each, (2000, len(each))).mean(1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Figure(float(each.mean()), float(low), float(high))


def resized(maps: Maps, size: tuple[int, ...]) -> Maps:
    """Return maps, (N, …), on a finer grid, linearly."""
    mode = "bilinear" if maps.ndim == 3 else "trilinear"
    found: Maps = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], size, mode=mode)[:, 0].numpy()
    return found


def occlusion(classifier: Callable[[Pixels], float], images: Pixels, usual: Maps) -> Maps:
    """Return how far a classifier's logit falls when a patch is replaced by the usual one, at its surroundings' level.

    Parameters
    ----------
    classifier : callable
        From one image to its logit.
    images : numpy.ndarray
        uint8, (N, H, W).
    usual : numpy.ndarray
        float64, (H, W): the mean of normal images.
    """
    height, width = images.shape[1:]
    starts = [range(-PATCH // 2, n - PATCH // 2, STRIDE) for n in (height, width)]
    found = np.zeros(images.shape)
    for number in tracked(range(len(images)), "occlusion"):
        image = images[number]
        whole, weight = classifier(image), np.zeros((height, width))
        for top in starts[0]:
            for left in starts[1]:
                window = np.zeros((height, width))
                window[max(top, 0) : top + PATCH, max(left, 0) : left + PATCH] = 1
                soft = ndimage.gaussian_filter(window, PATCH / 8)
                rim = (ndimage.grey_dilation(window, 9) > 0) & (window == 0)
                level = float((image[rim] - usual[rim]).mean())
                filled = image * (1 - soft) + np.clip(usual + level, 0, 255) * soft
                found[number] += soft * (whole - classifier(np.rint(filled).astype(np.uint8)))
                weight += soft
        found[number] /= weight
    return found


@dataclass(frozen=True)
class Bench:
    """A bundle, and the normals by which its maps are standardised."""

    bundle: Bundle
    engine: Engine
    normals: Pixels

    def maps(self, kind: str, images: Pixels) -> tuple[Maps, Maps]:
        """Return the raw and the standardised maps of images, (N, …) on the flows' grid."""
        names = tuple(str(n) for n in range(len(self.normals)))
        normals = ImageSet(self.normals, names, names)
        engine = self.engine
        manifest, method = self.bundle.manifest, Method.parse(kind)
        mapper = make_mapper(manifest, engine.posterior, normals, method, classifiers=engine.classifiers)
        if mapper is None:
            raise ValueError("too few normals")
        raw = mapper.raw(images)
        return raw, mapper.standard(raw)

    def as_shipped(self, images: Pixels) -> Maps:
        """Return the bundle's own maps of images, standardised by its own normals."""
        mapper = self.engine.mapper
        if mapper is None:
            raise ValueError("the bundle makes no maps")
        return mapper.standard(mapper.raw(images))

    def kinds(self, of_flows: tuple[str, ...], wanted: str) -> list[str]:
        """Return the kinds that the bundle can make, of those whose names begin with ``wanted``."""
        there = self.engine.classifiers
        kinds = of_flows + (CLASSIFIER_KINDS if there.of_sets else ()) + (LOCAL_KINDS if there.local else ())
        missing = f"level{self.bundle.architecture.levels + 1}"
        return [kind for kind in kinds if kind.startswith(wanted) and missing not in kind]

    @property
    def shipped(self) -> str:
        """The kind that the bundle's own file of maps names, "" without one."""
        return str(self.engine.mapper.method) if self.engine.mapper is not None else ""


def held(images: ImageSet, bundle: Bundle, preset_name: str) -> ImageSet:
    """Return the images of patients that no estimator was trained on."""
    preset = find_preset(preset_name)
    first, last = preset.validation_share, preset.validation_share + preset.calibration_share
    salt = f"split {bundle.manifest.training.seed}"
    return images.select([first <= share(p, salt) < last for p in images.patients])


def cxr(models: Path, data: Path, wanted: str) -> Figures:
    """Measure on planted lesions the kinds of map whose names begin with ``wanted``."""
    recipe = RECIPES["cxr"]
    bundle = Bundle.open(models / recipe.name)
    unseen = held(load([f"{data}/{s}" for s in recipe.normal], bundle.preprocessing, "CXR"), bundle, recipe.preset)
    others = load([f"{data}/{recipe.test_normal}"], bundle.preprocessing, "CXR")
    tested = np.concatenate([unseen.pixels[:TESTED], others.pixels])
    bench = Bench(bundle, Engine(bundle, "cpu"), unseen.pixels[TESTED:])
    patients = np.repeat(np.arange(len(tested)), LESIONS_EACH)
    planted = [plant(tested[p], n) for n, p in enumerate(patients)]
    images, masks = np.stack([p.pixels for p in planted]), np.stack([p.mask for p in planted])
    inside = np.stack([lungs(tested[p]) for p in patients])

    def figures(maps: Maps) -> dict[str, Figure]:
        """Return what the maps of all images, or of the first ones, find."""
        fine = resized(maps, images.shape[1:]) if maps.shape[1:] != images.shape[1:] else maps
        there = masks[: len(fine)]
        whole = [roc_auc_score(k.ravel(), m.ravel()) for m, k in zip(fine, there, strict=True)]
        # Of a lesion only what lies there: outside of the lungs every place would be one.
        within = [roc_auc_score(k[i], m[i]) for m, k, i in zip(fine, there, inside[: len(fine)], strict=True)]
        hits = [k[np.unravel_index(m.argmax(), m.shape)] for m, k in zip(fine, there, strict=True)]
        rows = {"pixel AUC": whole, "within lungs": within, "pointing game": hits}
        return {name: figure(values, patients[: len(fine)]) for name, values in rows.items()}

    noise = np.random.default_rng(0).random(images.shape)
    elsewhere = [plant(image, 10_000 + n).mask for n, image in enumerate(bench.normals)]
    place = ndimage.gaussian_filter(np.mean(elsewhere, axis=0), 2)
    found = {"chance": figures(noise), "place alone": figures(np.broadcast_to(place, images.shape).copy())}
    for kind in tracked(bench.kinds(CXR_KINDS, wanted), "CXR, kinds of map"):
        for name, maps in zip(("raw", "standardised"), bench.maps(kind, images), strict=True):
            found[f"{kind}, {name}"] = figures(maps)
    classifier = bench.engine.classifiers.of_sets
    if classifier is not None and "classifier occlusion".startswith(wanted):
        reference = bench.normals[:OCCLUDED_NORMALS]
        usual = bench.normals.mean(0)
        own = occlusion(classifier, images[:OCCLUDED], usual)
        found["classifier occlusion, raw"] = figures(own)
        found["classifier occlusion, standardised"] = figures(Standard.of(occlusion(classifier, reference, usual))(own))
    if bench.shipped and bench.shipped.startswith(wanted):
        found["shipped: " + bench.shipped] = figures(bench.as_shipped(images))
    return found


@dataclass(frozen=True)
class ScannedHead:
    """A CT-ICH volume on the grid.

    Attributes
    ----------
    pixels : numpy.ndarray
        uint8, (D, H, W).
    places : numpy.ndarray
        float64, (3, S, h, w): where every other pixel of the S slices that were scanned lies in ``pixels``.
    bleeds : numpy.ndarray
        bool, (S,): which of these slices bleed.
    """

    pixels: Pixels
    places: Maps
    bleeds: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, x: Pixels, thick_mm: float, bleeds: npt.NDArray[np.bool_], grid: Preprocessing) -> "ScannedHead":
        """Lay the grid along a head; its slices may lie aslant in it."""
        volume = as_volume(x, between_mm=thick_mm)
        head = bct_tensor(volume, head_frame(volume), grid)
        start, step = grid_affine(head.frame, grid)
        k, j, i = np.mgrid[: len(x), : x.shape[1] : 2, : x.shape[2] : 2]
        lps = np.tensordot(volume.affine[:, :3], np.stack([i, j, k]), axes=1) + volume.affine[:, 3:, None, None]
        places = np.tensordot(np.linalg.inv(step), lps - start[:, None, None, None], axes=1)[::-1]
        return cls(head.pixels, places, bleeds)

    def by_slice(self, map_: Maps) -> npt.NDArray[np.float64]:
        """Return how strong a map, (D, H, W), is on every scanned slice, (S,)."""
        return np.array([conspicuousness(slice_) for slice_ in self.onto_slices(map_)])

    def onto_slices(self, map_: Maps) -> Maps:
        """Return a map, (D, H, W), on the scanned slices, (S, h, w); as low as its lowest where it doesn't reach."""
        found: Maps = ndimage.map_coordinates(map_, self.places, order=1, mode="constant", cval=float(map_.min()))
        return found


def bct(models: Path, data: Path, wanted: str) -> Figures:
    """Measure on the slices of volumes with hemorrhage the kinds of map whose names begin with ``wanted``."""
    recipe = RECIPES["bct"]
    bundle = Bundle.open(models / recipe.name)
    grid = bundle.preprocessing
    with np.load(data / "bct_ctich.npz") as npz:
        columns = {name: npz[name] for name in ("x", "patient", "n_slices", "slice_has_ich", "y")}
    names = columns["patient"].astype(str)
    rows = {
        name: ScannedHead.of(x, 0.15625 * float(n), has.astype(bool), grid)
        for name, x, n, has in zip(names, columns["x"], columns["n_slices"], columns["slice_has_ich"], strict=True)
    }
    tested = [rows[name] for name in BCT_TEST_ABNORMAL.split(",")]
    tested = [head for head in tested if head.bleeds.any() and not head.bleeds.all()]
    unseen = np.stack([rows[name].pixels for name in BCT_TEST_NORMAL.split(",")])
    bench = Bench(bundle, Engine(bundle, "cpu"), unseen)
    volumes = np.stack([head.pixels for head in tested])

    def figures(strengths: list[npt.NDArray[np.float64]]) -> dict[str, Figure]:
        areas = [roc_auc_score(head.bleeds, s) for s, head in zip(strengths, tested, strict=True)]
        first = [head.bleeds[s.argmax()] for s, head in zip(strengths, tested, strict=True)]
        patients = np.arange(len(tested))
        return {"slice AUC": figure(areas, patients), "first slice": figure(first, patients)}

    def strength(maps: Maps) -> list[npt.NDArray[np.float64]]:
        return [head.by_slice(fine) for head, fine in zip(tested, resized(maps, grid.size), strict=True)]

    rng, count = np.random.default_rng(0), len(tested[0].bleeds)
    trained = [rows[n] for n, y in zip(names, columns["y"], strict=True) if y and n not in BCT_TEST_ABNORMAL.split(",")]
    place = np.mean([head.bleeds for head in trained], axis=0)
    middle = -np.abs(np.arange(count) - (count - 1) / 2)
    brain = [head.onto_slices(inside_skull(head.pixels).astype(np.float64)).sum((1, 2)) for head in tested]
    found = {
        "chance": figures([rng.random(count) for _ in tested]),
        "middle first": figures([middle] * len(tested)),
        "place alone": figures([place] * len(tested)),
        "area of brain alone": figures(brain),
    }
    for kind in tracked(bench.kinds(BCT_KINDS, wanted), "BCT, kinds of map"):
        for name, maps in zip(("raw", "standardised"), bench.maps(kind, volumes), strict=True):
            found[f"{kind}, {name}"] = figures(strength(maps))
    if bench.shipped and bench.shipped.startswith(wanted):
        found["shipped: " + bench.shipped] = figures(strength(bench.as_shipped(volumes)))
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["cxr", "bct"], default=["cxr", "bct"])
    parser.add_argument("--models", type=Path, default=Path("workers/models"), help="folder of the starter bundles")
    parser.add_argument("--kinds", default="", help="only kinds of map whose names begin so, as local; default: all")
    parser.add_argument("--json", action="store_true", help="one object, modality -> map -> figure -> value, low, high")
    arguments = parser.parse_args()
    data = shared("data", "cxr_adult.npz").parent
    measures = {"cxr": cxr, "bct": bct}
    found = {what: measures[what](arguments.models, data, arguments.kinds) for what in arguments.what or list(measures)}
    if arguments.json:
        plain = {w: {k: {n: asdict(f) for n, f in row.items()} for k, row in t.items()} for w, t in found.items()}
        print(json.dumps(plain, indent=1))
        return
    for what, table in found.items():
        shown = Table(title=f"{what.upper()}: means with 95 % intervals")
        shown.add_column("map")
        for name in next(iter(table.values())):
            shown.add_column(name, justify="right")
        for kind, row in table.items():
            shown.add_row(kind, *(str(value) for value in row.values()))
        Console(width=110).print(shown)


if __name__ == "__main__":
    main()
