"""Steps of flow, and the levels that they make up."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from triage.manifest import Convolution, Scale
from workers.flows.bijections import CONVOLUTIONS, ActNorm, AffineCoupling, Squeeze


@dataclass(frozen=True)
class Options:
    """Where the paper and the released code differ; see `triage.manifest.Architecture`."""

    scale: Scale = "paper"
    convolution: Convolution = "lu"
    edge: bool = True


PAPER = Options()


class Step(nn.Module):
    """One step of flow: actnorm, invertible convolution, affine coupling."""

    def __init__(
        self,
        dim: int,
        channels: int,
        width: int,
        generator: torch.Generator,
        *,
        options: Options = PAPER,
    ) -> None:
        super().__init__()
        self.actnorm = ActNorm(channels)
        self.convolution = CONVOLUTIONS[options.convolution](channels, generator)
        self.coupling = AffineCoupling(dim, channels, width, generator, scale=options.scale, edge=options.edge)

    @torch.no_grad()
    def initialise(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """Set the actnorms by what reaches them of ``batches``; return what they become."""
        self.actnorm.initialise(batches)
        mixed = [self.convolution(self.actnorm(x)[0])[0] for x in batches]
        self.coupling.net.initialise([x[:, : x.shape[1] // 2] for x in mixed])
        return [self.coupling(x)[0] for x in mixed]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z, ladj)."""
        x, ladj1 = self.actnorm(x)
        x, ladj2 = self.convolution(x)
        z, ladj3 = self.coupling(x)
        return z, ladj1 + ladj2 + ladj3

    def inverse(self, z: Tensor) -> Tensor:
        """Return x."""
        x: Tensor = self.actnorm.inverse(self.convolution.inverse(self.coupling.inverse(z)))
        return x


class Level(nn.Module):
    """One level of the multi-scale flow: squeeze, then steps.

    With ``checkpointing`` a step's activations are computed again in the backward pass instead of kept: at full size
    one step's hidden maps take a gigabyte.
    """

    checkpointing: bool = False

    def __init__(
        self,
        dim: int,
        channels: int,
        width: int,
        depth: int,
        generator: torch.Generator,
        *,
        options: Options = PAPER,
    ) -> None:
        super().__init__()
        self.squeeze = Squeeze()
        self.steps = nn.ModuleList(Step(dim, channels, width, generator, options=options) for _ in range(depth))

    @torch.no_grad()
    def initialise(self, batches: Sequence[Tensor]) -> list[Tensor]:
        """Set the steps' actnorms by what reaches them of ``batches``; return what they become."""
        found = [self.squeeze(x)[0] for x in batches]
        for step in self._steps():
            found = step.initialise(found)
        return found

    def _steps(self) -> list[Step]:
        return [step for step in self.steps if isinstance(step, Step)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z, ladj)."""
        z, ladj = self.squeeze(x)
        again = self.checkpointing and torch.is_grad_enabled()
        for step in self.steps:
            z, part = checkpoint(step, z, use_reentrant=False) if again else step(z)
            ladj = ladj + part
        return z, ladj

    def inverse(self, z: Tensor) -> Tensor:
        """Return x."""
        for step in reversed(self._steps()):
            z = step.inverse(z)
        return self.squeeze.inverse(z)
