"""The inference engine: log densities of images under one flow, or under the two of a pair, by strips of sites.

Where the training modules run a convolution over a whole map, whose hidden channels (half a gigabyte of them at full
size) travel through memory again and again, this runs the coupling net over strips of a thousand sites: im2col, GEMM
and relu, GEMM and relu, and one GEMM that gives all taps' outputs, which are then shifted and added. A strip's hidden
channels stay in the cache, a direct convolution's waste on few output channels is gone, and the working memory is a
few megabytes. Maps lie as (C, sites), so that every copy runs along rows.

A number that can be trusted: latents and couplings are float32, every sum over sites is float64, and so are the
constants. The partition into strips follows from the architecture alone; every strip is computed by one thread, and
their results are added in order, so on a CPU neither the number of threads nor the other images of a batch change any
bit. (Of grids of 8 x 8 a batch may change the last ones: a GEMM of so few sites takes another way.)
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.flows.bijections import SplitPrior
from workers.flows.fold import FoldedLevel, fold_level
from workers.flows.glow import Glow, grey_cell
from workers.flows.levels import Level
from workers.flows.strips import chunk_sites, run_steps
from workers.flows.threads import Workers, one_thread_each


@dataclass(frozen=True)
class Parts:
    """What F flows say of N images.

    Attributes
    ----------
    log_density : torch.Tensor
        (F, N, L), float64, nats: every level's part of ln p(x).
    largest_latent : torch.Tensor
        (F, N, L), float64: the largest |z| among every level's latents.
    """

    log_density: Tensor
    largest_latent: Tensor


def latent_quantities(largest: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return one image's largest latents, (2, L), by the names under which calibration checks them."""
    return {
        f"latent.{flow}.level{number}": float(value)
        for flow, levels in zip(("normal", "mixture"), largest, strict=True)
        for number, value in enumerate(levels, start=1)
    }


class FusedFlows:
    """One flow, or several of one architecture in one pass, compiled for inference.

    Parameters
    ----------
    flows : sequence of Glow
        Their parameters are copied: later training doesn't reach this object.
    dtype : torch.dtype
        Of the coupling nets: float32; bfloat16 to preview; float64 makes everything float64, to check by.
    shared_levels : int or None
        Finest levels that are the same in all flows, computed once; None takes the architecture's.
    """

    def __init__(
        self, flows: Sequence[Glow], *, dtype: torch.dtype = torch.float32, shared_levels: int | None = None
    ) -> None:
        self.architecture = flows[0].architecture
        self.device = next(flows[0].parameters()).device
        self.count = len(flows)
        self.exact = torch.float64 if dtype == torch.float64 else torch.float32
        shared = self.architecture.shared_levels if shared_levels is None else shared_levels
        self.levels: list[FoldedLevel] = []
        self.priors: list[list[SplitPrior]] = []
        size = self.architecture.size
        for number in range(self.architecture.levels):
            size = tuple(n // 2 for n in size)
            group = flows[:1] if number < shared else flows
            levels = [level for flow in group if isinstance(level := flow.levels[number], Level)]
            self.levels.append(fold_level(levels, size, dtype, self.device))
            own = [prior for flow in group if (prior := flow.prior(number)) is not None]
            self.priors.append([deepcopy(prior).to(self.exact) for prior in own])

    @property
    def cell(self) -> float:
        """-D ln n, nats: see `Glow.cell`."""
        return grey_cell(self.architecture)

    @torch.inference_mode()
    def parts(self, x: Tensor) -> Parts:
        """Return every level's part of the log densities of images, and their largest latents.

        Parameters
        ----------
        x : torch.Tensor
            (N, 1, H, W) or (N, 1, D, H, W), values in (-1/2, 1/2).
        """
        with one_thread_each(self.device) as workers:
            everyone = range(self.count)
            # Flows go side by side for one image; a batch of images fills the machine by itself.
            groups = [everyone] if len(x) == 1 else [everyone[f : f + 1] for f in everyone]
            runs = [self._run(x, slice(group.start, group.stop), workers) for group in groups]
        return Parts(torch.cat([run.log_density for run in runs]), torch.cat([run.largest_latent for run in runs]))

    def _run(self, x: Tensor, flows: slice, workers: Workers) -> Parts:
        """Run some of the flows: several over one image, or one over many."""
        count, densities, largest = flows.stop - flows.start, [], []
        z = x.to(self.exact).reshape(len(x), 1, *((1,) * (3 - len(self.architecture.size))), *self.architecture.size)
        for number, level in enumerate(self.levels):
            own = slice(0, 1) if len(level.constant) == 1 else flows
            if count > 1 and own == flows and len(z) == 1:
                z = z.expand(count, *z.shape[1:])  # here the flows part
            z, density = self._run_level(level, own, z, workers)
            latent = z
            if number < len(self.levels) - 1:
                z, latent = z.chunk(2, dim=1)
                if self.priors[number]:
                    latent, part = self._standardised(self.priors[number][own], z, latent)
                    density = density + part
            square = latent.double().square().flatten(1).sum(1)
            density = density - 0.5 * (square + latent[0].numel() * math.log(2 * math.pi))
            shape = (-1, len(x)) if count == 1 or len(density) == count else (1, 1)
            densities.append(density.view(shape).expand(count, len(x)))
            largest.append(latent.abs().flatten(1).amax(1).double().view(shape).expand(count, len(x)))
        return Parts(torch.stack(densities, 2), torch.stack(largest, 2))

    def _run_level(self, level: FoldedLevel, own: slice, z: Tensor, workers: Workers) -> tuple[Tensor, Tensor]:
        """Squeeze and run a level on (lanes, C, D, H, W), as many lanes at once as make one strip."""
        planes = level.kernel[0] == 1
        lanes, channels, *size = z.shape
        blocks = z.reshape(lanes, channels, *(m for n, s in zip(size, level.size, strict=True) for m in (s, n // s)))
        squeezed = blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(lanes, channels * (4 if planes else 8), *level.size)
        at_once = max(1, chunk_sites(level.width, z.device) // math.prod(level.size))
        found = []
        for start in range(0, lanes, at_once):
            part = squeezed[start : start + at_once]
            flows = own if own.stop - own.start == 1 else slice(own.start + start, own.start + start + len(part))
            found.append(run_steps(level, flows, part, self.architecture.scale, workers))
        ladj = torch.cat([part for _, part in found]) + level.constant[own]
        return torch.cat([part for part, _ in found]), ladj

    def _standardised(self, priors: list[SplitPrior], z: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Bring latents with a learned prior to N(0, 1), image by image so that no batch changes a bit."""
        flat = len(self.architecture.size) == 2
        found = []
        for lane in range(len(z)):
            z1, z2 = (part[lane : lane + 1].squeeze(2) if flat else part[lane : lane + 1] for part in (z, latent))
            found.append(priors[lane % len(priors)](z1, z2))
        return (torch.cat([part for part, _ in found]).view_as(latent), torch.cat([part for _, part in found]))
