"""How far float32 is from float64 in the log ratio at the paper's full depth and grid, on trained weights.

    .venv/bin/python -m tests.bench.precision [--preset paper-cxr|paper-bct] [--width 32] [--minutes 9] [--json]
    .venv/bin/python -m tests.bench.precision --width 512 --minutes 30 --warm-up 20 --apart 3 --initial 3

A flow with the paper's grid, levels and depth, and narrow coupling nets so that minutes suffice, is trained on the
images in ``../shared/data``; the second flow of the pair is that flow some steps later. Then every image's log ratio is
computed by the engine in float32 (float64 sums) and in float64. Random weights would be chaotic and say nothing. The
gate that `models verify` asks of every bundle is 0.2 nat (`workers.flows.precision.GATE_NATS`).

The second is of the paper's full width: minutes a step, hence few steps; one to two hours a preset, paper-bct with 14
GB and ``--preset paper-bct --minutes 28 --learning-rate 1e-5 --warm-up 8 --apart 2``: at 2e-4 its nine steps threw it
off (4.8 to 10.6 bits/dim, and 0.34 nat), at 1e-5 they bring it to 4.3 (and 0.12 nat).
"""

import argparse
import json
import math
import time
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console

from tests.support.peers import shared
from workers.flows.fused import FusedFlows
from workers.flows.glow import Glow, dequantise
from workers.flows.precision import GATE_NATS
from workers.lab.fit import shifted
from workers.lab.images import load
from workers.lab.presets import find_preset

CLIP = 1.0
SOURCES = {"CXR": "dicom_cxr", "BCT": "bct_ctich.npz?hu=-20..100&spacing=0.15625*n_slices,1.56,1.56"}


@dataclass(frozen=True)
class Course:
    """How a pair is trained: see the command's options."""

    width: int
    minutes: float
    learning_rate: float
    warm_up: int
    apart: int
    initial: int


def pair(preset_name: str, course: Course, console: Console) -> tuple[list[Glow], np.ndarray, dict[str, float]]:
    """Return a trained pair, the images that were kept from it, and how training went."""
    preset, width = find_preset(preset_name), course.width
    architecture = preset.architecture.model_copy(update={"widths": (width,) * preset.architecture.levels})
    images = load([str(shared("data") / SOURCES[preset.modality])], preset.preprocessing, preset.modality).pixels
    kept, images = images[:8], images[8:]
    rng = np.random.default_rng(0)

    def batch(count: int, noise: bool) -> torch.Tensor:
        some = shifted(images[rng.integers(len(images), size=count)], 8, rng)
        u = torch.from_numpy(rng.uniform(size=(count, 1, *some.shape[1:]))).float() if noise else 0.5
        return dequantise(torch.from_numpy(some).unsqueeze(1).float(), architecture.grey_levels, u)

    flow = Glow(architecture)
    flow.initialise(batch(course.initial, noise=True))
    flow.use_checkpointing()
    optimiser = torch.optim.Adam(flow.parameters(), lr=course.learning_rate)
    first: Glow | None = None
    bits, step, steps, started = [], 0, math.inf, time.process_time()
    while step < steps:
        for group in optimiser.param_groups:
            group["lr"] = course.learning_rate * min(1.0, (step + 1) / course.warm_up)
        optimiser.zero_grad(set_to_none=True)
        loss = -flow.log_prob(batch(1, noise=True)).mean() / architecture.dimensions / math.log(2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), CLIP)
        optimiser.step()
        bits.append(float(loss.detach()))
        step += 1
        if step % course.apart == 0:
            console.print(f"{preset_name}: step {step}, {np.mean(bits[-course.apart :]):.3f} bits/dim", highlight=False)
        if first is None and time.process_time() - started > 60 * course.minutes:
            first, steps = deepcopy(flow), step + course.apart
    assert first is not None
    optimiser.zero_grad(set_to_none=True)  # two gigabytes at full width
    trained = {"steps": step, "first_bits_per_dim": bits[0], "last_bits_per_dim": float(np.mean(bits[-course.apart :]))}
    return [one.requires_grad_(False).eval() for one in (first, flow)], kept, trained


def densities(flows: list[Glow], images: np.ndarray, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return the log density of every image under both flows, (2,), nats, as the engine computes it in ``dtype``."""
    levels, engine = flows[0].architecture.grey_levels, FusedFlows(flows, dtype=dtype, shared_levels=0)
    inputs = (dequantise(torch.from_numpy(image)[None, None].float(), levels) for image in images)
    return [engine.parts(x).log_density.sum(2)[:, 0] for x in inputs]


def errors(flows: list[Glow], images: np.ndarray) -> dict[str, float]:
    """Return the largest and the root mean square error of the log ratio, and of one log density, nats."""
    # One after the other: both engines at once would not fit into 24 GiB beside the flows.
    exact, single = (densities(flows, images, dtype) for dtype in (torch.float64, torch.float32))
    rows = []
    for true, found in zip(exact, single, strict=True):
        rows.append([float((found - true)[1] - (found - true)[0]), float((found - true)[0]), float(true[1] - true[0])])
    ratio, density, true = np.array(rows).T
    return {
        "images": len(images),
        "ratio_error_max_nats": float(np.abs(ratio).max()),
        "ratio_error_rms_nats": float(np.sqrt((ratio**2).mean())),
        "density_error_max_nats": float(np.abs(density).max()),
        "ratio_mean_nats": float(true.mean()),
        "gate_nats": GATE_NATS,
    }


def main() -> None:
    """Train, compare, print; exit 1 if the gate isn't passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("paper-cxr", "paper-bct"), action="append", help="default: both")
    parser.add_argument("--width", type=int, default=32, help="hidden channels of the coupling nets")
    parser.add_argument("--minutes", type=float, default=9.0, help="of training, each, of processor time")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--warm-up", type=int, default=50, help="steps until the whole learning rate")
    parser.add_argument("--apart", type=int, default=10, help="steps between the two flows of the pair")
    parser.add_argument("--initial", type=int, default=32, help="images of the data-dependent initialisation")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    wanted = {name: value for name, value in vars(arguments).items() if name not in ("preset", "json")}
    course = Course(**wanted)
    console, found = Console(stderr=True), {}
    for name in arguments.preset or ("paper-cxr", "paper-bct"):
        flows, images, trained = pair(name, course, console)
        found[name] = {"width": arguments.width, **trained, **errors(flows, images)}
        if not arguments.json:
            print(name, *(f"  {key}: {value:.4g}" for key, value in found[name].items()), sep="\n", flush=True)
    if arguments.json:
        print(json.dumps(found, indent=2))
    if any(row["ratio_error_max_nats"] > GATE_NATS for row in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
