"""How well each estimator tells normal from abnormal, on patients that it never saw; no label of a disease trains any.

``python -m tests.bench.estimators [--task children] [--seeds 3] [--first 0] [--flows 3] [--data DIR] [--json]``

Tasks: ``children`` (half of the mixture abnormal), ``children10`` (a tenth), ``lesions`` (soft opacities planted into
half of otherwise equal normal images: nothing but the lesion differs), ``adults`` (normal set and mixture from two
sources; tested by radiologists' labels within one), ``ctich`` (head CTs; 40 % of the volumes are tested). A seed
decides split and training. Flows take minutes a seed, hence their own number of seeds. Of every estimator the mean AUC
over the seeds is told, with a 95 % interval by resampling test patients. ``set + local`` is the combination without the
flows. That both classifiers find planted lesions is partly circular: they learned from another generator's opacities;
the row without artificial abnormalities isn't.

Nothing is trained on a test patient; but seeds 0 to 2 of ``ctich``, and the images of ``adults``, were looked at while
recipes were chosen (``--first 3`` gives seeds that chose nothing), and of the adults' normal set nothing says whose
images are whose.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from tests.support.lesions import plant
from triage.calibration import LOCAL_CLASSIFIER, SET_CLASSIFIER, pooled
from triage.logs import configure_logging
from workers.flows.engine import Engine
from workers.flows.intracranial import inside_skull
from workers.flows.local_classifier import LocalClassifier
from workers.flows.set_classifier import FeatureExtractor, Features, SetClassifier
from workers.flows.views import views
from workers.lab.evaluation.bootstrap import Bootstrap, auc_interval
from workers.lab.fit_classifier import fit_classifier
from workers.lab.fit_local import fit_local
from workers.lab.image_set import ImageSet, Pixels, share
from workers.lab.imagenet import frozen_blocks
from workers.lab.images import load
from workers.lab.presets import ClassifierRecipe, Preset, find_preset
from workers.lab.progress import show_progress
from workers.lab.run import Run
from workers.lab.starter import RECIPES
from workers.lab.train import train

Numbers = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]
DRAWS = 1000
TESTED = 0.3


@dataclass(frozen=True)
class Task:
    """Two training sets, and test images of other patients with their truth."""

    preset: Preset
    normal: ImageSet
    mixture: ImageSet
    test: Pixels
    patients: tuple[str, ...]
    abnormal: Truth


class Data:
    """The images, read once.

    Parameters
    ----------
    folder : Path
        Holds ``cxr_children.npz``, ``cxr_adult.npz`` and ``bct_ctich.npz``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read: dict[str, ImageSet] = {}

    def __call__(self, source: str, preset: Preset) -> ImageSet:
        """Return the images of a source; see `workers.lab.images`."""
        if source not in self.read:
            self.read[source] = load([str(self.folder / source)], preset.preprocessing, preset.modality)
        return self.read[source]


def _some(images: ImageSet, count: int, salt: str) -> ImageSet:
    order = sorted(images.keys, key=lambda key: share(key, salt))
    wanted = set(order[:count])
    return images.select([key in wanted for key in images.keys])


def _task(preset: Preset, normal: ImageSet, mixture: ImageSet, healthy: ImageSet, ill: ImageSet) -> Task:
    truth = np.arange(len(healthy) + len(ill)) >= len(healthy)
    pixels = np.concatenate([healthy.pixels, ill.pixels])
    return Task(preset, normal, mixture, pixels, healthy.patients + ill.patients, truth)


def children(data: Data, seed: int, share_abnormal: float = 0.5) -> Task:
    """Children's radiographs: normal or pneumonia, split by patient."""
    preset, salt = find_preset("starter-cxr"), f"children {seed}"
    healthy, well = data("cxr_children.npz?y=0", preset).divided(TESTED, salt)
    sick, ill = data("cxr_children.npz?y=1", preset).divided(TESTED, salt)
    normal, rest = well.divided(0.5, salt + " sets")
    count = round(len(rest) * share_abnormal / (1 - share_abnormal))
    return _task(preset, normal, ImageSet.union([rest, _some(ill, count, salt)]), healthy, sick)


def lesions(data: Data, seed: int) -> Task:
    """Normal radiographs of one source; half of the mixture and of the test images get a soft opacity."""
    preset, salt = find_preset("starter-cxr"), f"lesions {seed}"
    test, rest = data("cxr_adult.npz?source=rsna_normal", preset).divided(TESTED, salt)
    normal, mixture = rest.divided(0.5, salt + " sets")

    def half(images: ImageSet) -> tuple[ImageSet, ImageSet]:
        clean, host = images.divided(0.5, salt + " planted")
        pixels = np.stack([plant(image, number, seed=seed).pixels for number, image in enumerate(host.pixels)])
        return clean, ImageSet(pixels, tuple(f"{key}+" for key in host.keys), host.patients)

    return _task(preset, normal, ImageSet.union(half(mixture)), *half(test))


def adults(data: Data, seed: int) -> Task:
    """The sets of cxr-starter; half of the normal set, drawn by the seed, stands in the mixture."""
    preset = find_preset("starter-cxr")
    healthy = data(RECIPES["cxr"].test_normal, preset)
    ill = data(RECIPES["cxr"].test_abnormal["all abnormal"], preset)
    tested = frozenset(healthy.patients + ill.patients)
    normal = data(RECIPES["cxr"].normal[0], preset).without_patients(tested)
    unread = data("cxr_adult.npz?y_rsna=-1", preset).without_patients(tested)
    return _task(preset, normal, ImageSet.union([normal.divided(0.5, f"adults {seed}")[0], unread]), healthy, ill)


def ctich(data: Data, seed: int) -> Task:
    """Head CTs with and without hemorrhage; the mixture is all volumes that aren't tested."""
    preset, salt = find_preset("starter-bct"), f"ctich {seed}"
    source = RECIPES["bct"].mixture[0]
    healthy, normal = data(f"{source}&y=0", preset).divided(0.4, salt)
    sick, ill = data(f"{source}&y=1", preset).divided(0.4, salt)
    return _task(preset, normal, ImageSet.union([normal, ill]), healthy, sick)


TASKS: dict[str, Callable[[Data, int], Task]] = {
    "children": children,
    "children10": lambda data, seed: children(data, seed, 0.1),
    "lesions": lesions,
    "adults": adults,
    "ctich": ctich,
}


def linear_gaussians(task: Task) -> dict[str, Numbers]:
    """Return -log p(x|normal) and the ratio by Gaussians on 40 principal components of images of 32 x 32."""

    def small(pixels: Pixels) -> Numbers:
        x = pixels.astype(np.float64)
        blocks = x.reshape(*x.shape[:-2], 32, x.shape[-2] // 32, 32, x.shape[-1] // 32).mean((-3, -1))
        flat = blocks.reshape(len(x), -1)
        if task.preset.modality == "CXR":
            flat = (flat - flat.mean(1, keepdims=True)) / (flat.std(1, keepdims=True) + 1e-9)
        return flat

    normal, mixture, test = (small(pixels) for pixels in (task.normal.pixels, task.mixture.pixels, task.test))
    everything = np.concatenate([normal, mixture])
    mean = everything.mean(0)
    count = min(40, min(len(normal), len(mixture)) // 4)
    axes = np.linalg.svd(everything - mean, full_matrices=False)[2][:count].T

    def log_density(of: Numbers, by: Numbers) -> Numbers:
        z = (by - mean) @ axes
        spread = np.cov(z.T) + 1e-3 * np.trace(np.cov(z.T)) / count * np.eye(count)
        away = (of - mean) @ axes - z.mean(0)
        return -0.5 * (np.einsum("ni,ij,nj->n", away, np.linalg.inv(spread), away) + np.linalg.slogdet(spread)[1])

    one_class = -log_density(test, normal)
    return {"linear -log p(x|normal)": one_class, "linear ratio": log_density(test, mixture) + one_class}


def bright_voxels(task: Task) -> dict[str, Numbers]:
    """Return for head CTs which share of the brain, 4 mm within the skull, is of 55 to 90 HU: no learning at all."""
    if task.preset.modality != "BCT":
        return {}
    offset = task.preset.preprocessing.hu_offset
    shares = []
    for pixels in task.test:
        brain = ndimage.binary_erosion(inside_skull(pixels), np.ones((1, 5, 5)))
        bright = brain & (pixels >= 55 + offset) & (pixels <= 90 + offset)
        shares.append(bright.sum() / max(int(brain.sum()), 1))
    return {"voxels of 55 to 90 HU": np.array(shares)}


class Keeper:
    """A feature extractor that looks at no image twice."""

    def __init__(self, recipe: ClassifierRecipe) -> None:
        blocks = frozen_blocks(recipe.spec.blocks[-1])
        self.extract = FeatureExtractor(recipe.spec, blocks, torch.device("cpu"))
        self.kept: dict[bytes, Features] = {}

    def __call__(self, pixels: Pixels) -> Features:
        key = pixels.tobytes()
        if key not in self.kept:
            self.kept[key] = self.extract(pixels)
        return self.kept[key]


def classifiers(task: Task, seed: int, keep: Keeper) -> dict[str, Numbers]:
    """Return the preset's classifiers, alone and together, and what is left of one without each of its aids."""
    recipe, local = task.preset.classifier, task.preset.local
    assert recipe is not None
    assert local is not None
    plain = {"invariance": 0.0, "planted": 0.0}
    variants = {
        "set_classifier": recipe,
        "set classifier, no artificial abnormalities": recipe.model_copy(update={"planted": 0.0}),
        "set classifier, no invariance": recipe.model_copy(update={"invariance": 0.0}),
        "set classifier, neither": recipe.model_copy(update=plain),
    }
    found, cpu = {}, torch.device("cpu")
    for name, variant in variants.items():
        tensors = fit_classifier(variant, task.normal, task.mixture, seed=seed, device=cpu, extract=keep)
        classifier = SetClassifier(variant.spec, tensors, cpu)
        seen = [np.mean([keep(view) for view in views(image, variant.spec.views)], axis=0) for image in task.test]
        found[name] = np.array([classifier.logit(features) for features in seen])
    third = LocalClassifier(local.spec, fit_local(local, task.normal, task.mixture, seed=seed, device=cpu), cpu)
    statistics = np.array([third.statistics(image) for image in task.test])
    found["local_classifier"] = np.array([third(image) for image in task.test])
    for name, values in zip(("map", "planted", "from the mixture"), statistics.T, strict=True):
        found[f"local classifier, {name} alone"] = values
    # Here standardised by the test images themselves, in a bundle by the calibration's; no label is looked at.
    both = (SET_CLASSIFIER, LOCAL_CLASSIFIER)
    z = np.stack([_standardised(found[name]) for name in both], 1)
    found["set + local"] = pooled(z, np.array([task.preset.combination[name] for name in both]), task.preset.pooling)
    return found


def _standardised(values: Numbers) -> Numbers:
    low, middle, high = np.percentile(values, [16, 50, 84])
    found: Numbers = (values - middle) / max((high - low) / 2, 1e-9)
    return found


def bundle(task: Task, seed: int, folder: Path) -> dict[str, Numbers]:
    """Train a bundle as a user would, and return all its estimators."""
    run = Run(preset=task.preset, normal=task.normal, mixture=task.mixture, out=folder / f"bundle-{seed}", seed=seed)
    with show_progress() as report:
        made = train(run, report)
    scores = Engine(made, "cpu").measure(task.test).estimates(made.calibration)
    return {f"bundle: {name}": values for name, values in scores.items()}


def summary(runs: list[tuple[Numbers, Task]]) -> dict[str, object]:
    """Return the mean AUC over seeds, and the mean of its intervals: the seeds share test images."""
    found = [auc_interval(scores, task.abnormal, task.patients, Bootstrap(draws=DRAWS)) for scores, task in runs]
    ends = [interval for _, interval in found if interval is not None]
    first = runs[0][1]
    return {
        "auc": float(np.mean([area for area, _ in found])),
        "ci95": np.mean(ends, 0).tolist(),
        "seeds": [round(area, 4) for area, _ in found],
        "n_normal": int((~first.abnormal).sum()),
        "n_abnormal": int(first.abnormal.sum()),
    }


def measure(name: str, data: Data, seeds: range, flows: int) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield every estimator's name and summary on one task."""
    runs: dict[str, list[tuple[Numbers, Task]]] = {}
    keep: Keeper | None = None
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            task = TASKS[name](data, seed)
            if keep is None and task.preset.classifier:
                keep = Keeper(task.preset.classifier)
            found = linear_gaussians(task) | bright_voxels(task)
            if keep is not None:
                found |= classifiers(task, seed, keep)
            if seed in seeds[:flows]:
                found |= bundle(task, seed, Path(folder))
            for estimator, scores in found.items():
                runs.setdefault(estimator, []).append((scores, task))
    for estimator, rows in runs.items():
        yield estimator, summary(rows)


def main() -> None:
    """Print a table, or with ``--json`` one object: task, estimator, figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(TASKS), action="append", help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--flows", type=int, default=3, help="seeds for which whole bundles are trained")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    configure_logging()
    data, everything = Data(arguments.data), {}
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    for name in arguments.task or TASKS:
        everything[name] = dict(measure(name, data, seeds, arguments.flows))
        if not arguments.json:
            print(f"\n{name}")
            for estimator, row in everything[name].items():
                low, high = row["ci95"]
                print(
                    f"  {estimator:45} {row['auc']:.3f} [{low:.3f}, {high:.3f}]  seeds {row['seeds']} "
                    f"({row['n_normal']} normal, {row['n_abnormal']} abnormal)",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps(everything, indent=2))


if __name__ == "__main__":
    main()
