"""Glow: log p(x) of an image as a sum of one part per level, and images drawn from p.

References
----------
Kingma & Dhariwal 2018, arXiv:1807.03039; Shibata et al. 2021 (the paper), sections 2 and 3.2 and appendix B.
"""

import math

import torch
from torch import Tensor, nn

from triage.manifest import Architecture
from workers.flows.bijections import SplitPrior, total
from workers.flows.levels import Level, Options

HIDDEN_VALUES = 2**26
"""Of a batch inside a step: 256 MiB, and some four times so much with what is made of them."""


class Glow(nn.Module):
    """A multi-scale flow; its latents are N(0, 1) on every level (a learned prior is one more bijection).

    Parameters
    ----------
    architecture : Architecture
        Grid, grey levels, depth and widths.
    seed : int
        Of the random rotations and hidden convolutions at the start.
    """

    def __init__(self, architecture: Architecture, *, seed: int = 0) -> None:
        super().__init__()
        self.architecture = architecture
        generator = torch.Generator().manual_seed(seed)
        options = Options(architecture.scale, architecture.convolution, architecture.edge)
        dim, channels = len(architecture.size), 1
        self.levels = nn.ModuleList()
        self.priors = nn.ModuleList()
        for number, width in enumerate(architecture.widths, start=1):
            channels *= 2**dim
            self.levels.append(Level(dim, channels, width, architecture.depth, generator, options=options))
            channels //= 2  # the first half goes on, the second is this level's latent
            if architecture.prior == "learned" and number < architecture.levels:
                self.priors.append(SplitPrior(dim, channels, edge=architecture.edge))

    def prior(self, level: int) -> SplitPrior | None:
        """Return the learned prior of a level (0 is the finest), if it has one."""
        prior = self.priors[level] if level < len(self.priors) else None
        return prior if isinstance(prior, SplitPrior) else None

    def use_checkpointing(self, on: bool = True) -> None:
        """Keep no activations inside steps while training: they are computed again for the gradient."""
        for level in self._levels():
            level.checkpointing = on

    def _levels(self) -> list[Level]:
        return [level for level in self.levels if isinstance(level, Level)]

    def batch(self, most: int) -> int:
        """Return how many images, ``most`` at most, may be inside a step at once: their hidden maps take memory."""
        return max(1, min(most, HIDDEN_VALUES // hidden_values(self.architecture)))

    @property
    def latent_shapes(self) -> list[tuple[int, ...]]:
        """The shape (C, …) of every level's latent."""
        size, channels, shapes = self.architecture.size, 1, []
        for level in range(self.architecture.levels):
            size = tuple(n // 2 for n in size)
            channels *= 2 ** len(size)
            if level < self.architecture.levels - 1:
                channels //= 2
            shapes.append((channels, *size))
        return shapes

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Map images to latents.

        Parameters
        ----------
        x : torch.Tensor
            (N, 1, H, W) or (N, 1, D, H, W), values in (-1/2, 1/2).

        Returns
        -------
        latents : list of torch.Tensor
            One a level, finest first, of `latent_shapes`.
        ladj : torch.Tensor
            (N, L), float64, nats: every level's ln |det dz/dx|.
        """
        latents: list[Tensor] = []
        ladjs: list[Tensor] = []
        for level in self.levels:
            x, ladj = level(x)
            if len(ladjs) < len(self.levels) - 1:
                x, latent = x.chunk(2, dim=1)
                prior = self.prior(len(ladjs))
                if prior is not None:
                    latent, part = prior(x, latent)
                    ladj = ladj + part
                latents.append(latent)
            ladjs.append(ladj)
        return [*latents, x], torch.stack(ladjs, dim=1)

    def inverse(self, latents: list[Tensor]) -> Tensor:
        """Map latents (one a level, finest first) back to images."""
        x = latents[-1]
        levels = self._levels()
        for number in reversed(range(len(levels))):
            x = levels[number].inverse(x)
            if number:
                prior = self.prior(number - 1)
                latent = latents[number - 1]
                x = torch.cat([x, latent if prior is None else prior.inverse(x, latent)], dim=1)
        return x

    def level_parts(self, x: Tensor) -> Tensor:
        """Return every level's part of ln p(x), (N, L), float64, nats; p is a density over (-1/2, 1/2)^D."""
        latents, ladj = self.encode(x)
        gaussian = [-0.5 * (total(z.square()) + z[0].numel() * math.log(2 * math.pi)) for z in latents]
        return ladj + torch.stack(gaussian, dim=1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return ln P of integer images, (N,), float64, nats: the density times a grey level's cell, n^-D."""
        return self.level_parts(x).sum(1) + self.cell

    @property
    def cell(self) -> float:
        """-D ln n, nats: the logarithm of a grey level's share of (-1/2, 1/2)^D."""
        return grey_cell(self.architecture)

    @torch.no_grad()
    def sample(self, count: int, *, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Draw ``count`` images; ``temperature`` scales the latents' standard deviation. Returns (N, 1, …)."""
        parameter = next(self.parameters())
        latents = [
            temperature * torch.randn(count, *shape, generator=generator, dtype=torch.float64).to(parameter)
            for shape in self.latent_shapes
        ]
        return self.inverse(latents)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Data-dependent initialisation: every actnorm is set by what reaches it of ``x`` (at least 64 images).

        All images count, but only `batch` of them are inside a step at a time: 256 of the paper's would take 130 GiB.
        """
        batches = list(torch.split(x, self.batch(len(x))))
        for number, level in enumerate(self._levels()):
            if number:  # the second half was split off; a learned prior has no actnorm
                batches = [z.chunk(2, dim=1)[0] for z in batches]
            batches = level.initialise(batches)


def hidden_values(architecture: Architecture) -> int:
    """Return the size of an image's largest hidden map: channels times sites."""
    dim, sites = len(architecture.size), architecture.dimensions
    return max(width * (sites >> dim * level) for level, width in enumerate(architecture.widths, start=1))


def grey_cell(architecture: Architecture) -> float:
    """Return -D ln n, nats: the logarithm of a grey level's share of (-1/2, 1/2)^D."""
    return -architecture.dimensions * math.log(architecture.grey_levels)


def dequantise(grey: Tensor, grey_levels: int, noise: Tensor | float = 0.5) -> Tensor:
    """Return x = (v + u) / n - 1/2 of integers v, with u = 1/2 (to score) or uniform noise of v's shape (to train)."""
    return (grey + noise) / grey_levels - 0.5


def quantise(x: Tensor, grey_levels: int) -> Tensor:
    """Return the integers whose cells hold ``x``, uint8."""
    return ((x + 0.5) * grey_levels).floor().clamp(0, grey_levels - 1).to(torch.uint8)
