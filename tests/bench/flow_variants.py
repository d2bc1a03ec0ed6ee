"""What makes the ratio of two flows better: variants of their training, and other sums of the same local ratios.

``python -m tests.bench.flow_variants [--task adults] [--variant scratch] [--seeds 3] [--data DIR] [--json]``

The tasks are those of `tests.bench.estimators`. Every variant trains a pair of flows; of each pair are told: -log
p(x|normal), the plain ratio (the paper's), every level's ratio, the sum without the finest level, every place's ratio
in standard deviations of normal images there (per-position weights) summed and by the mean of its highest twentieth,
and the highest twentieth of the raw local ratios. Last comes the mean of all variants' standardised ratios (an
ensemble). Means over seeds with 95 % intervals, as there. Minutes a variant and seed.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from sklearn.metrics import roc_auc_score

from tests.bench.estimators import TASKS, Data, Task, summary
from triage.logs import configure_logging
from workers.flows.posterior import Posterior
from workers.flows.relevance import Standard, raw_maps
from workers.flows.transform import FlowGrid
from workers.flows.weights import load_flows
from workers.lab.image_set import Pixels
from workers.lab.presets import Preset
from workers.lab.progress import show_progress
from workers.lab.run import Run
from workers.lab.train import train

Numbers = npt.NDArray[np.float64]
HIGHEST = 0.05
BASE_SHARE = 0.6


def _architecture(**changes: object) -> Callable[[Preset], Preset]:
    return lambda preset: preset.model_copy(update={"architecture": preset.architecture.model_copy(update=changes)})


def _started(base_share: float, levels: int = 0) -> Callable[[Preset], Preset]:
    """Train one flow on all images for a share of the epochs, and two from it for the rest.

    A share of 0 trains both from their initialisation, as the paper does. So many of the finest levels stay as they
    are in both.
    """

    def change(preset: Preset) -> Preset:
        epochs, rate = preset.base.epochs + preset.flow.epochs, preset.base.learning_rate
        base = round(base_share * epochs)
        tuned = {"epochs": epochs - base, "frozen_levels": levels, "learning_rate": rate / 2 if base else rate}
        return _sharing(preset, levels).model_copy(
            update={
                "base": preset.base.model_copy(update={"epochs": base}),
                "flow": preset.flow.model_copy(update=tuned),
            }
        )

    return change


def _sharing(preset: Preset, levels: int) -> Preset:
    return _architecture(shared_levels=levels)(preset)


def _progressive(preset: Preset) -> Preset:
    warm = _started(BASE_SHARE, 1)(preset)
    base = warm.base.model_copy(update={"epochs": warm.base.epochs // 3})
    return warm.model_copy(update={"progression": (4, 12), "base": base})


def _regridded(times: float, *, more_levels: int = 0) -> Callable[[Preset], Preset]:
    """See images ``times`` as fine, with so many levels more, as wide as the finest."""

    def change(preset: Preset) -> Preset:
        architecture, pool = preset.architecture, preset.transform.pool
        update = {
            "size": (*architecture.size[:-2], *(round(n * times) for n in architecture.size[-2:])),
            "widths": architecture.widths[:1] * more_levels + architecture.widths,
        }
        pooled = (*pool[:-2], *(round(n / times) for n in pool[-2:]))
        return _architecture(**update)(preset).model_copy(
            update={
                "transform": preset.transform.model_copy(update={"pool": pooled}),
                "weights": (1.0,) * more_levels + preset.weights,
            }
        )

    return change


VARIANTS: dict[str, Callable[[Preset], Preset]] = {
    "preset": lambda preset: preset,
    "scratch": _started(0.0),
    "warm, nothing shared": _started(BASE_SHARE, 0),
    "warm, one level shared": _started(BASE_SHARE, 1),
    "warm, two levels shared": _started(BASE_SHARE, 2),
    "width by level": lambda preset: _architecture(widths=(16, 64, 128)[: preset.architecture.levels])(preset),
    "not standardised": lambda preset: preset.model_copy(
        update={"transform": preset.transform.model_copy(update={"standardise": False})}
    ),
    "half as fine": _regridded(0.5),
    "twice as fine, a level more": _regridded(2.0, more_levels=1),
    "warm, one level shared, progressive grey levels": _progressive,
}


def statistics(posterior: Posterior, grid: FlowGrid, normal: Pixels, test: Pixels) -> dict[str, Numbers]:
    """Return everything that is told of one pair, higher for the more abnormal, (N,) each."""
    grey = grid(test)
    one, other = posterior.level_parts(grey)
    ratio = other - one
    found = {"-log p(x|normal)": -one.sum(1), "plain ratio": ratio.sum(1)}
    for level in range(ratio.shape[1]):
        found[f"ratio of level {level + 1}"] = ratio[:, level]
    found["ratio without level 1"] = ratio[:, 1:].sum(1)
    maps, usual = (raw_maps("ratio", posterior, images) for images in (grey, grid(normal)))
    standard = Standard.of(usual)(maps)
    found["local ratios, standardised by place"] = standard.reshape(len(test), -1).mean(1)
    for name, values in (("highest twentieth of local ratios", maps), ("the same, standardised by place", standard)):
        flat = np.sort(values.reshape(len(test), -1), 1)
        found[name] = flat[:, -max(1, round(HIGHEST * flat.shape[1])) :].mean(1)
    return found


def pair(task: Task, preset: Preset, seed: int) -> tuple[Posterior, FlowGrid]:
    """Train a variant's two flows, and nothing else."""
    # Everything is told of the images themselves: copies would only take time.
    alone = preset.transform.model_copy(update={"views": 1})
    preset = preset.model_copy(update={"classifier": None, "local": None, "transform": alone})
    with tempfile.TemporaryDirectory() as folder:
        run = Run(preset=preset, normal=task.normal, mixture=task.mixture, out=Path(folder) / "bundle", seed=seed)
        with show_progress() as report:
            bundle = train(run, report)
        return Posterior(*load_flows(bundle, torch.device("cpu"))), run.grid


def measure(
    name: str, data: Data, variants: Mapping[str, Callable[[Preset], Preset]], seeds: int, console: Console
) -> dict[str, dict[str, object]]:
    """Return every variant's and statistic's summary on one task."""
    runs: dict[str, list[tuple[Numbers, Task]]] = {}
    for seed in range(seeds):
        task = TASKS[name](data, seed)
        ratios = []
        for variant, change in variants.items():
            posterior, grid = pair(task, change(task.preset), seed)
            found = statistics(posterior, grid, task.normal.pixels, task.test)
            ratio = found["plain ratio"]
            told = roc_auc_score(task.abnormal, ratio)
            console.print(f"{name}, seed {seed}: {variant}, plain ratio {told:.3f}", highlight=False)
            ratios.append((ratio - ratio.mean()) / ratio.std())
            for statistic, values in found.items():
                runs.setdefault(f"{variant}: {statistic}", []).append((values, task))
        if len(ratios) > 1:
            runs.setdefault("all variants: mean ratio", []).append((np.mean(ratios, 0), task))
    return {estimator: summary(rows) for estimator, rows in runs.items()}


def main() -> None:
    """Print a table, or with ``--json`` one object: task, estimator, figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(TASKS), action="append", help="default: adults")
    parser.add_argument("--variant", choices=list(VARIANTS), action="append", help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    configure_logging()
    console, data = Console(stderr=True), Data(arguments.data)
    wanted = {name: VARIANTS[name] for name in arguments.variant or VARIANTS}
    everything = {}
    for name in arguments.task or ("adults",):
        everything[name] = measure(name, data, wanted, arguments.seeds, console)
        if not arguments.json:
            print(f"\n{name}")
            for estimator, row in everything[name].items():
                low, high = row["ci95"]
                print(f"  {estimator:65} {row['auc']:.3f} [{low:.3f}, {high:.3f}]  seeds {row['seeds']}", flush=True)
    if arguments.json:
        print(json.dumps(everything, indent=2))


if __name__ == "__main__":
    main()
