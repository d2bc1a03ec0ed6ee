"""Is a machine's arithmetic good enough for the bundle at hand? The same gate for every precision and device.

The score is a difference of two numbers in the hundreds of thousands of nats. What counts is therefore the error of
the log ratio in nats, against float64 on a CPU, with the bundle's own trained weights and images that its flows know.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from triage.bundles import Bundle
from triage.errors import BundleError
from workers.flows.fused import FusedFlows
from workers.flows.glow import Glow, dequantise, quantise
from workers.flows.golden_input import GoldenInput
from workers.flows.transform import FlowGrid
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
    device_error_nats : float or None
        The same against the CPU in this precision; None if it wasn't asked for.
    images : int
        How many.
    """

    device: str
    precision: Precision
    error_nats: float
    device_error_nats: float | None
    images: int

    @property
    def passed(self) -> bool:
        """Whether scores of this precision may be ranked."""
        return self.error_nats <= GATE_NATS


def gate_images(bundle: Bundle, mixture: Glow) -> Tensor:
    """Return the golden input and `DRAWN` images of the flow of all images, x of (N, 1, …) float32 on the CPU."""
    levels = bundle.architecture.grey_levels
    golden = torch.from_numpy(FlowGrid.of(bundle.manifest)([GoldenInput.load(bundle).pixels]))
    sample = mixture.sample(DRAWN, generator=torch.Generator().manual_seed(1), temperature=0.7)
    images = torch.cat([golden[None], quantise(sample, levels)])
    return dequantise(images.float(), levels)


def log_ratios(flows: tuple[Glow, Glow], x: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return log p(x) - log p(x|normal) of images, (N,), float64, nats; the flows stay as and where they are."""
    there = [flow if device.type == "cpu" else deepcopy(flow).to(device) for flow in flows]
    log_density = FusedFlows(there, dtype=dtype).parts(x.to(device)).log_density.sum(2).cpu()
    return log_density[1] - log_density[0]


def check_precision(
    bundle: Bundle, device: torch.device, precision: Precision, *, against_cpu: bool = False
) -> PrecisionCheck:
    """Measure the error of the log ratio on ``device`` in ``precision``.

    Parameters
    ----------
    bundle : Bundle
        The bundle, verified.
    device : torch.device
        Where.
    precision : str
        Of the coupling nets.
    against_cpu : bool
        Whether to compare with the CPU in the same precision, too.

    Raises
    ------
    BundleError
        If the weights don't load.
    """
    cpu, dtype = torch.device("cpu"), DTYPES[precision]
    flows = load_flows(bundle, cpu)
    x = gate_images(bundle, flows[1])
    exact = log_ratios(flows, x, torch.float64, cpu)
    found = log_ratios(flows, x, dtype, device)
    return PrecisionCheck(
        device=str(device),
        precision=precision,
        error_nats=_largest(found - exact),
        device_error_nats=_largest(found - log_ratios(flows, x, dtype, cpu)) if against_cpu else None,
        images=len(x),
    )


def _largest(errors: Tensor) -> float:
    return float(errors.abs().nan_to_num(torch.inf).max())


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
