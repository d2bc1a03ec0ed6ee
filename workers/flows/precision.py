"""Is a machine's arithmetic good enough for the bundle at hand? The same gate for every precision and device.

The score is a difference of two numbers in the hundreds of thousands of nats. What counts is therefore the error of
the log ratio in nats, against float64 on a CPU, with the bundle's own trained weights and images that its flows know.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from triage.bundles import GOLDEN, Bundle
from triage.errors import BundleError
from workers.flows.fused import FusedFlows
from workers.flows.glow import dequantise, quantise
from workers.flows.transform import from_blocks, to_flow_grid
from workers.flows.weights import load_flows

Precision = Literal["float32", "bfloat16"]
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

GATE_NATS = 0.2
"""Largest error of the log ratio with which a score may be ranked."""
DRAWN = 3
"""Images drawn from the flow of all images, beside the golden input, on which the error is measured."""


@dataclass(frozen=True, kw_only=True)
class PrecisionCheck:
    """How far the log ratio is from float64's on a CPU.

    Attributes
    ----------
    device, precision : str
        What was checked.
    error_nats : float
        The largest error over the images; infinite if a number isn't finite.
    images : int
        How many.
    """

    device: str
    precision: Precision
    error_nats: float
    images: int

    @property
    def passed(self) -> bool:
        """Whether scores of this precision may be ranked."""
        return self.error_nats <= GATE_NATS


def gate_images(bundle: Bundle, *, drawn: int = DRAWN) -> Tensor:
    """Return the golden input and ``drawn`` images of the bundle's own flow, x of (N, 1, …) float32 on the CPU."""
    architecture, grid = bundle.architecture, bundle.preprocessing
    pixels = from_blocks(load_file(bundle.folder / GOLDEN)["pixels"].numpy(), grid.size)
    golden = torch.from_numpy(to_flow_grid(pixels, bundle.transform, architecture, grid.grey_levels))
    images = [golden[None, None]]
    if drawn:
        _, mixture = load_flows(bundle, torch.device("cpu"))
        sample = mixture.sample(drawn, generator=torch.Generator().manual_seed(1), temperature=0.7)
        images.append(quantise(sample, architecture.grey_levels))
    return dequantise(torch.cat(images).float(), architecture.grey_levels)


def log_ratios(bundle: Bundle, x: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return log p(x) - log p(x|normal) of images, (N,), float64, nats."""
    parts = FusedFlows(load_flows(bundle, device), dtype=dtype).parts(x.to(device))
    log_density = parts.log_density.sum(2).cpu()
    return log_density[1] - log_density[0]


def check_precision(
    bundle: Bundle, device: torch.device, precision: Precision, *, drawn: int = DRAWN
) -> PrecisionCheck:
    """Measure the error of the log ratio on ``device`` in ``precision``.

    Raises
    ------
    BundleError
        If the weights don't load.
    """
    x = gate_images(bundle, drawn=drawn)
    exact = log_ratios(bundle, x, torch.float64, torch.device("cpu"))
    found = log_ratios(bundle, x, DTYPES[precision], device)
    error = float((found - exact).abs().nan_to_num(torch.inf).max())
    return PrecisionCheck(device=str(device), precision=precision, error_nats=error, images=len(x))


def require_precision(bundle: Bundle, device: torch.device, precision: Precision) -> None:
    """Refuse a precision that doesn't pass the gate.

    Raises
    ------
    BundleError
        If the log ratio is off by more than `GATE_NATS`.
    """
    check = check_precision(bundle, device, precision)
    if not check.passed:
        raise BundleError(
            f"{precision} is a preview: it moves bundle {bundle.name}'s log ratio by {check.error_nats:.2g} nats on "
            f"{device}, {GATE_NATS} are allowed",
            remedy='set worker.precision to "float32"',
        )


def device_error(bundle: Bundle, device: torch.device, precision: Precision, *, drawn: int = DRAWN) -> float:
    """Return how far ``device``'s log ratio is from the CPU's in the same precision, nats; infinite if not finite.

    Raises
    ------
    BundleError
        If the weights don't load.
    """
    x, dtype = gate_images(bundle, drawn=drawn), DTYPES[precision]
    there, here = (log_ratios(bundle, x, dtype, place) for place in (device, torch.device("cpu")))
    return float((there - here).abs().nan_to_num(torch.inf).max())
