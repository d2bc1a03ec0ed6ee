"""How fast the score is: the paper's configurations, the starter bundles, our plain modules, and peers; one run.

    .venv/bin/python -m tests.bench.score [--quick] [--json] [--rosinality MODEL.PY]
    .venv/bin/python -m tests.bench.score --full [--preset paper-cxr] [--train-steps 1] [--threads 1]

Without --full the paper's configurations are measured with one step a level and scaled by the 32 of the paper: all
steps of a level are alike. With --full they are built, trained for a step, scored and sampled at full size, each in a
process of its own (an hour on two slow cores; up to 24 GiB).

One thread; seconds are those of the processor in this thread: medians for the paper's configurations, the best of
several for the starters' milliseconds, so that other work on the machine disturbs less. GFLOP/s count two operations
for each multiply-add of the convolutions without the edge channel (`workers.flows.counts`). The peak is a square sgemm
of the best of several sizes: timed in turn with the engine for the paper's configurations, once before for the
starters, whose best of many short runs it rather favours. Peers come with the extra `bench`; one that is missing is
left out and named.
"""

import argparse
import ctypes
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tests.bench import score_peers
from triage.bundles import Bundle, models_folder
from triage.config.schema import Models
from triage.manifest import Architecture
from workers.flows.counts import count_levels, pair_operations
from workers.flows.engine import Engine
from workers.flows.fused import FusedFlows
from workers.flows.glow import Glow
from workers.lab.presets import find_preset

PAPER = ("paper-cxr", "paper-bct")
Figures = dict[str, float | str]


def best_of(repeats: int, call: Callable[[], object]) -> float:
    """Return this thread's processor seconds of the best of ``repeats`` calls, after one to warm up."""
    call()
    found = math.inf
    for _ in range(repeats):
        started = time.thread_time()
        call()
        found = min(found, time.thread_time() - started)
    return found


def best_gemm(repeats: int = 5) -> tuple[int, float]:
    """Return the square sgemm with the most GFLOP/s, one thread: its size, and these."""
    rates = {}
    for n in (384, 512, 768, 1024, 1536, 2048):
        a, b, c = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
        rates[n] = 2 * n**3 / best_of(repeats, lambda a=a, b=b, c=c: torch.mm(a, b, out=c)) / 1e9
    size = max(rates, key=lambda n: rates[n])
    return size, rates[size]


def against_peak(call: Callable[[], object], operations: float, rounds: int) -> tuple[float, float, float]:
    """Return a call's seconds, its share of the GEMM peak, and that peak in GFLOP/s: medians over rounds.

    In every round the call and a square sgemm are timed one after the other, the sgemm for as long as the call: the
    best of many short runs against the best of few long ones would favour the short ones on a noisy machine.
    """
    size, usual = best_gemm()
    a, b, c = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    call()
    rows = []
    for _ in range(rounds):
        seconds = _timed(call)
        times = max(1, round(seconds * usual * 1e9 / (2 * size**3)))
        peak = 2 * size**3 * times / _timed(lambda times=times: [torch.mm(a, b, out=c) for _ in range(times)]) / 1e9
        rows.append((seconds, operations / seconds / 1e9 / peak, peak))
    seconds, share, peak = (statistics.median(column) for column in zip(*rows, strict=True))
    return seconds, share, peak


def _timed(call: Callable[[], object]) -> float:
    started = time.thread_time()
    call()
    return time.thread_time() - started


def working_memory_mb(preset: str) -> float:
    """Return how much the engine's memory grows while it scores, above its weights, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.score", "--memory-of", preset], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def _memory_of(preset: str) -> float:
    architecture = _shallow(preset)
    fused = FusedFlows([Glow(architecture)])
    x = torch.rand(1, 1, *architecture.size) - 0.5
    torch.mm(torch.randn(512, 512), torch.randn(512, 512))  # the GEMM library's own buffers
    ctypes.CDLL(None).malloc_trim(0)  # what the training modules left behind must not hide what scoring takes
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mb("VmRSS")
    fused.parts(x)
    return _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


def _shallow(preset: str) -> Architecture:
    return find_preset(preset).architecture.model_copy(update={"depth": 1})


def paper_configuration(preset: str, repeats: int, rosinality: Path | None) -> Figures:
    """Measure one of the paper's configurations with one step a level."""
    shallow, full = _shallow(preset), find_preset(preset).architecture
    scale = full.depth
    operations = sum(level.operations for level in count_levels(shallow))
    flows = [Glow(shallow, seed=seed).requires_grad_(False).eval() for seed in (0, 1)]
    x = torch.rand(1, 1, *shallow.size, generator=torch.Generator().manual_seed(0)) - 0.5
    one, pair = FusedFlows(flows[:1]), FusedFlows(flows, shared_levels=2)
    seconds, fraction, peak = against_peak(lambda: one.parts(x), operations, repeats)
    pair.parts(x)  # warm, as the others are
    together = statistics.median(_timed(lambda: pair.parts(x)) for _ in range(repeats))
    with torch.inference_mode():
        flows[0].level_parts(x)
        modules = statistics.median(_timed(lambda: flows[0].level_parts(x)) for _ in range(max(2, repeats // 2)))
    found: Figures = {
        "measured": f"one step a level, times {scale}",
        "seconds": seconds * scale,
        "gflop": operations * scale / 1e9,
        "gflops": operations / seconds / 1e9,
        "gemm_peak_gflops": peak,
        "fraction_of_peak": fraction,
        "modules_seconds": modules * scale,
        "times_faster_than_modules": modules / seconds,
        "pair_sharing_2_levels_to_one": together / seconds,
        "working_memory_mb": working_memory_mb(preset),
        "weights_mb": 4 * sum(level.stored for level in count_levels(full)) / 1e6,
    }
    if len(shallow.size) == 2:
        found |= _peers(shallow, x, seconds, repeats=max(2, repeats // 2), rosinality=rosinality)
    return found


def _peers(
    architecture: Architecture, x: torch.Tensor, ours: float, *, repeats: int, rosinality: Path | None
) -> Figures:
    makers: dict[str, Callable[[], score_peers.Run]] = {
        "normflows": lambda: score_peers.normflows_glow(architecture),
        "freia": lambda: score_peers.freia_glow(architecture),
    }
    if rosinality is not None:
        makers["rosinality"] = lambda: score_peers.rosinality_glow(architecture, rosinality)
    found: Figures = {}
    ratios = []
    for name, make in makers.items():
        try:
            run = make()
        except ImportError:
            found[f"{name}_seconds"] = "not installed: pip install '.[bench]'"
            continue
        with torch.inference_mode():
            run(x)
            seconds = statistics.median(_timed(lambda run=run: run(x)) for _ in range(repeats))
        found[f"{name}_seconds_one_step_a_level"] = seconds
        found[f"times_faster_than_{name}"] = seconds / ours
        ratios.append(seconds / ours)
    if ratios:
        found["times_faster_than_best_peer"] = min(ratios)
    return found


def starter_bundle(name: str, repeats: int) -> Figures:
    """Measure a shipped bundle: both flows, one image, and a batch of 32."""
    engine = Engine(Bundle.open(models_folder(Models()) / name), "cpu")
    architecture = engine.bundle.architecture
    operations = pair_operations(architecture)
    x = torch.rand(32, 1, *architecture.size, generator=torch.Generator().manual_seed(0)) - 0.5
    flows = (engine.posterior.normal, engine.posterior.mixture)

    def modules(images: torch.Tensor) -> None:
        with torch.inference_mode():
            for flow in flows:
                flow.level_parts(images)

    _, peak = best_gemm()
    seconds = best_of(5 * repeats, lambda: engine.flows.parts(x[:1]))
    batch = best_of(repeats, lambda: engine.flows.parts(x)) / len(x)
    plain, plain_batch = best_of(5 * repeats, lambda: modules(x[:1])), best_of(repeats, lambda: modules(x)) / len(x)
    return {
        "measured": "in full, both flows",
        "seconds": seconds,
        "seconds_an_image_of_32": batch,
        "gflop": operations / 1e9,
        "gflops": operations / seconds / 1e9,
        "gflops_of_32": operations / batch / 1e9,
        "gemm_peak_gflops": peak,
        "fraction_of_peak": operations / seconds / 1e9 / peak,
        "fraction_of_peak_of_32": operations / batch / 1e9 / peak,
        "modules_seconds": plain,
        "times_faster_than_modules": plain / seconds,
        "times_faster_than_modules_of_32": plain_batch / batch,
    }


def run_full(presets: list[str], steps: int, threads: int) -> dict[str, Figures]:
    """Run each preset at full size in a process of its own."""
    found = {}
    for preset in presets:
        command = [sys.executable, "-m", "tests.bench.score_full", preset, str(steps), str(threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[preset] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object: configuration to figures")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--full", action="store_true", help="the paper's configurations at full size")
    parser.add_argument("--preset", action="append", choices=PAPER, help="with --full: only these")
    parser.add_argument("--train-steps", type=int, default=1, help="with --full")
    parser.add_argument("--threads", type=int, default=0, help="with --full; 0 = torch's choice")
    parser.add_argument("--rosinality", type=Path, metavar="MODEL.PY", help="model.py of rosinality/glow-pytorch")
    parser.add_argument("--memory-of", choices=PAPER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.full:
        torch.set_num_threads(1)
    if arguments.memory_of:
        print(_memory_of(arguments.memory_of))
        return
    if arguments.full:
        figures = run_full(arguments.preset or list(PAPER), arguments.train_steps, arguments.threads)
    else:
        repeats = 3 if arguments.quick else 9
        figures = {}
        with Console(stderr=True).status("") as status:
            for name in PAPER:
                status.update(f"measuring {name}")
                figures[name] = paper_configuration(name, repeats, arguments.rosinality)
            for name in ("cxr-starter", "bct-starter"):
                status.update(f"measuring {name}")
                figures[name] = starter_bundle(name, repeats)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    table = Table(title="one flow and image on one thread unless said otherwise")
    table.add_column("figure")
    for name in figures:
        table.add_column(name, justify="right")
    for key in dict.fromkeys(key for found in figures.values() for key in found):
        cells = (found.get(key, "") for found in figures.values())
        table.add_row(key, *(cell if isinstance(cell, str) else f"{cell:,.4g}" for cell in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
