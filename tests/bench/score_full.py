"""A paper configuration at full size, once: build, one training step, score by the engine, sample; one process."""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from workers.flows.counts import count_levels
from workers.flows.fused import FusedFlows
from workers.flows.glow import Glow, dequantise, quantise
from workers.lab.presets import find_preset


def smooth_image(size: tuple[int, ...], grey_levels: int) -> torch.Tensor:
    """Return a smooth fictional image with a little noise, integers (1, 1, …) as float32."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, *(max(2, n // 32) for n in size), generator=generator)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    image = torch.nn.functional.interpolate(coarse, size=size, mode=mode, align_corners=True)
    noise = 0.02 * torch.randn(image.shape, generator=generator)
    return ((image + noise) * grey_levels).floor().clamp(0, grey_levels - 1)


def peak_gib() -> float:
    """Return the most memory that this process has held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@contextmanager
def timed(figures: dict[str, float], name: str, say: Callable[[str], None]) -> Iterator[None]:
    """Note seconds, and the peak memory so far."""
    started = time.perf_counter()
    yield
    figures[f"{name}_s"] = round(time.perf_counter() - started, 2)
    figures[f"{name}_peak_gib"] = round(peak_gib(), 2)
    say(f"{name}: {figures[f'{name}_s']} s, peak memory so far {figures[f'{name}_peak_gib']} GiB")


def run(preset_name: str, steps: int, say: Callable[[str], None]) -> dict[str, float]:
    """Build, train ``steps`` steps, score and sample a preset's flow."""
    preset = find_preset(preset_name)
    architecture, schedule = preset.architecture, preset.flow
    figures: dict[str, float] = {"threads": torch.get_num_threads()}
    grey = smooth_image(architecture.size, architecture.grey_levels)
    with timed(figures, "build", say):
        flow = Glow(architecture)
        flow.use_checkpointing()
    figures["parameters"] = sum(level.parameters for level in count_levels(architecture))
    optimiser = torch.optim.Adam(flow.parameters(), lr=schedule.learning_rate / schedule.warmup_steps)
    for step in range(steps):
        with timed(figures, "train_step", say):
            generator = torch.Generator().manual_seed(step)
            x = dequantise(grey, architecture.grey_levels, torch.rand(grey.shape, generator=generator))
            optimiser.zero_grad(set_to_none=True)
            nats = -flow.log_prob(x).sum()
            (nats / architecture.dimensions).backward()
            norm = torch.nn.utils.clip_grad_norm_(flow.parameters(), schedule.clip_norm)
            optimiser.step()
        figures[f"step{step}_bits_per_dim"] = float(nats.detach()) / architecture.dimensions / 0.6931471805599453
        figures[f"step{step}_gradient_norm"] = float(norm)
    del optimiser
    flow.zero_grad(set_to_none=True)
    flow.requires_grad_(False).eval()
    x = dequantise(grey, architecture.grey_levels)
    with timed(figures, "fold", say):
        fused = FusedFlows([flow])
    with timed(figures, "score", say):
        parts = fused.parts(x).log_density
    del fused
    figures["log_prob"] = float(parts.sum()) + flow.cell
    with timed(figures, "score_modules", say), torch.inference_mode():
        naive = flow.level_parts(x)
    figures["engine_minus_modules_nats"] = float(parts.sum() - naive.sum())
    figures["relative_difference"] = abs(float(parts.sum() - naive.sum())) / abs(float(naive.sum()))
    with timed(figures, "sample", say):
        sample = flow.sample(1, generator=torch.Generator().manual_seed(0), temperature=0.7)
    figures["sample_finite"] = float(torch.isfinite(sample).all())
    figures["sample_mean_grey"] = float(quantise(sample, architecture.grey_levels).float().mean())
    return figures


def main() -> None:
    """Run the preset named on the command line; progress to standard error, one JSON object to standard output."""
    name, steps, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if threads:
        torch.set_num_threads(threads)
    print(json.dumps(run(name, steps, lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True))))


if __name__ == "__main__":
    main()
