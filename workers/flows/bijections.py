"""The bijections of Glow, in two and three dimensions.

One contract: ``forward(x)`` returns ``(z, ladj)``, ``inverse(z)`` returns ``x``. ``x`` and ``z`` are (N, C, H, W) or
(N, C, D, H, W); ``ladj`` is ln |det dz/dx| of each image, shape (N,), nats, always float64: the sums run over up to
a million terms, which float32 doesn't carry.

References
----------
Kingma & Dhariwal 2018, arXiv:1807.03039, and its code (github.com/openai/glow), from which the edge channel, the
interleaved shift and scale and the log-scale factor 3 are taken; the paper's own scale is in its section 3.2, its forms
in three dimensions in appendix B. Where the paper and the released code differ, `workers.flows.levels.Options` chooses.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from triage.manifest import Convolution, Scale

LOG_SCALE_FACTOR = 3.0
# A channel that is nearly constant over the images of the initialisation must not be blown up to unit variance.
MIN_INITIAL_SPREAD = 1e-2


_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {2: functional.conv2d, 3: functional.conv3d}


def sites(x: Tensor) -> int:
    """Return the number of pixels or voxels of each channel."""
    return math.prod(x.shape[2:])


def total(x: Tensor) -> Tensor:
    """Return each image's sum in float64, shape (N,)."""
    return x.flatten(1).sum(1, dtype=torch.float64)


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    """Return the sum of at least one tensor."""
    return functools.reduce(torch.add, tensors)


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.view(1, -1, *(1,) * (x.dim() - 2))


class ActNorm(nn.Module):
    """Per-channel shift and scale, z = (x + b) exp(3 logs)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.logs = nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def initialise(self, batches: Iterable[Tensor]) -> None:
        """Set b and logs so that ``batches`` come out with mean 0 and variance 1 per channel (data-dependent)."""
        counts, means, variances = [], [], []
        for x in batches:
            axes = [0, *range(2, x.dim())]
            counts.append(len(x))
            means.append(x.double().mean(axes))
            variances.append(x.double().var(axes, correction=0))
        shares = [count / sum(counts) for count in counts]
        mean = _sum(w * m for w, m in zip(shares, means, strict=True))
        variance = _sum(w * (v + (m - mean) ** 2) for w, m, v in zip(shares, means, variances, strict=True))
        spread = variance.sqrt().clamp_min(MIN_INITIAL_SPREAD)
        self.bias.copy_(-mean)
        self.logs.copy_(-torch.log(spread + 1e-6) / LOG_SCALE_FACTOR)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z, ladj)."""
        ladj = sites(x) * LOG_SCALE_FACTOR * self.logs.sum(dtype=torch.float64)
        z = (x + _per_channel(self.bias, x)) * _per_channel(torch.exp(LOG_SCALE_FACTOR * self.logs), x)
        return z, ladj.expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        """Return x."""
        return z * _per_channel(torch.exp(-LOG_SCALE_FACTOR * self.logs), z) - _per_channel(self.bias, z)


class InvertibleConvolution(nn.Module):
    """1x1(x1) convolution, initially a random rotation: z = W x at every site (paper, equations B.1 to B.3).

    Subclasses say how W is kept.
    """

    def weight(self) -> Tensor:
        """Return W, shape (C, C), float64 (it is small, and its inverse is needed)."""
        raise NotImplementedError

    def ladj_per_site(self) -> Tensor:
        """Return ln |det W|, float64, nats."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z, ladj)."""
        return _mix_channels(x, self.weight()), (sites(x) * self.ladj_per_site()).expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        """Return x."""
        return _mix_channels(z, torch.linalg.inv(self.weight()))


def _random_rotation(channels: int, generator: torch.Generator) -> Tensor:
    noise = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    rotation: Tensor = torch.linalg.qr(noise)[0]
    return rotation


class LUConvolution(InvertibleConvolution):
    """W = P L (U + diag(sign exp(log_s))), so that ln |det W| is a sum (arXiv:1807.03039, section 3.2)."""

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        permutation, lower, upper = torch.linalg.lu(_random_rotation(channels, generator))
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign", diagonal.sign().float())
        self.lower = nn.Parameter(lower.tril(-1).float())
        self.upper = nn.Parameter(upper.triu(1).float())
        self.log_s = nn.Parameter(diagonal.abs().log().float())

    def weight(self) -> Tensor:
        """Return W, shape (C, C), float64."""
        eye = torch.eye(len(self.log_s), dtype=torch.float64, device=self.log_s.device)
        lower = self.lower.double().tril(-1) + eye
        upper = self.upper.double().triu(1) + torch.diag(self.sign.double() * self.log_s.double().exp())
        return self.permutation.double() @ lower @ upper

    def ladj_per_site(self) -> Tensor:
        """Return ln |det W|, float64, nats."""
        return self.log_s.sum(dtype=torch.float64)


class PlainConvolution(InvertibleConvolution):
    """W itself, its determinant in float64: what the released code runs (its LU form is behind ``if True``)."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.matrix = nn.Parameter(_random_rotation(channels, generator).float())

    def weight(self) -> Tensor:
        """Return W, shape (C, C), float64."""
        return self.matrix.double()

    def ladj_per_site(self) -> Tensor:
        """Return ln |det W|, float64, nats."""
        ladj: Tensor = torch.linalg.slogdet(self.weight())[1]
        return ladj


CONVOLUTIONS: dict[Convolution, type[LUConvolution | PlainConvolution]] = {
    "lu": LUConvolution,
    "plain": PlainConvolution,
}


def _mix_channels(x: Tensor, weight: Tensor) -> Tensor:
    kernel = weight.to(x.dtype).view(*weight.shape, *(1,) * (x.dim() - 2))
    z: Tensor = _CONVOLUTIONS[x.dim() - 2](x, kernel)
    return z


class EdgeConvolution(nn.Module):
    """3x3(x3) convolution that sees where the image ends: a channel that is 1 on the padding and 0 inside.

    Without ``edge`` it is a plain zero-padded convolution.
    """

    def __init__(
        self, dim: int, channels_in: int, channels_out: int, generator: torch.Generator | None, *, edge: bool = True
    ) -> None:
        super().__init__()
        self.edge = edge
        shape = (channels_out, channels_in + edge, *(3,) * dim)
        weight = torch.zeros(shape) if generator is None else 0.05 * torch.randn(shape, generator=generator)
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved image, of the same size."""
        convolve = _CONVOLUTIONS[x.dim() - 2]
        if not self.edge:
            return convolve(x, self.weight, padding=1)
        inner, edge = self.weight[:, :-1], self.weight[:, -1:]
        # The edge channel is the same for every image: convolve it once, and add.
        margin = functional.pad(x.new_zeros(1, 1, *x.shape[2:]), (1, 1) * (x.dim() - 2), value=1.0)
        return convolve(x, inner, padding=1) + convolve(margin, edge)


class ZeroConvolution(nn.Module):
    """3x3(x3) convolution that starts at zero, h = (conv3 x + bias) exp(3 logs)."""

    def __init__(self, dim: int, channels_in: int, channels_out: int, *, edge: bool = True) -> None:
        super().__init__()
        self.conv = EdgeConvolution(dim, channels_in, channels_out, None, edge=edge)
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.logs = nn.Parameter(torch.zeros(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """Return h, shape (N, channels_out, …)."""
        h = self.conv(x) + _per_channel(self.bias, x)
        scaled: Tensor = h * _per_channel(torch.exp(LOG_SCALE_FACTOR * self.logs), x)
        return scaled


class CouplingNet(nn.Module):
    """The couplings' network: conv3, actnorm, relu, conv1, actnorm, relu, conv3 that starts at zero."""

    def __init__(
        self,
        dim: int,
        channels_in: int,
        channels_out: int,
        width: int,
        generator: torch.Generator,
        *,
        edge: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = EdgeConvolution(dim, channels_in, width, generator, edge=edge)
        self.norm1 = ActNorm(width)
        self.conv2 = nn.Parameter(0.05 * torch.randn(width, width, *(1,) * dim, generator=generator))
        self.norm2 = ActNorm(width)
        self.conv3 = EdgeConvolution(dim, width, channels_out, None, edge=edge)
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.logs = nn.Parameter(torch.zeros(channels_out))

    def initialise(self, batches: Sequence[Tensor]) -> None:
        """Set both actnorms by what reaches them of ``batches``; hidden maps of one batch at a time are in memory."""
        self.norm1.initialise(self.conv1(x) for x in batches)
        self.norm2.initialise(self._second(x) for x in batches)

    def _second(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norm1(self.conv1(x))[0])
        second: Tensor = _CONVOLUTIONS[x.dim() - 2](h, self.conv2)
        return second

    def forward(self, x: Tensor) -> Tensor:
        """Return h, shape (N, channels_out, …)."""
        h = functional.relu(self.norm2(self._second(x))[0])
        h = self.conv3(h) + _per_channel(self.bias, x)
        scaled: Tensor = h * _per_channel(torch.exp(LOG_SCALE_FACTOR * self.logs), x)
        return scaled


def scale_and_log(a: Tensor, kind: Scale) -> tuple[Tensor, Tensor]:
    """Return a coupling's scale s and ln s; see `triage.manifest.Architecture.scale`."""
    if kind == "openai":
        return torch.sigmoid(a + 2.0), functional.logsigmoid(a + 2.0)
    scale = torch.sigmoid(a - 0.1) + 0.6
    return scale, torch.log(scale)


class AffineCoupling(nn.Module):
    """z2 = (x2 + t(x1)) s(x1), z1 = x1, the halves as in the paper's equations B.4 to B.7."""

    def __init__(
        self,
        dim: int,
        channels: int,
        width: int,
        generator: torch.Generator,
        *,
        scale: Scale = "paper",
        edge: bool = True,
    ) -> None:
        super().__init__()
        first = channels // 2
        self.scale = scale
        self.net = CouplingNet(dim, first, 2 * (channels - first), width, generator, edge=edge)

    def _shift_and_scale(self, x1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.net(x1)
        return h[:, 0::2], *scale_and_log(h[:, 1::2], self.scale)

    def by_place(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z, and ln s of every channel and place: their sum is ladj."""
        first = x.shape[1] // 2
        x1, x2 = x[:, :first], x[:, first:]
        shift, scale, log_scale = self._shift_and_scale(x1)
        return torch.cat([x1, (x2 + shift) * scale], dim=1), log_scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z, ladj)."""
        z, log_scale = self.by_place(x)
        return z, total(log_scale)

    def inverse(self, z: Tensor) -> Tensor:
        """Return x."""
        first = z.shape[1] // 2
        z1, z2 = z[:, :first], z[:, first:]
        shift, scale, _ = self._shift_and_scale(z1)
        return torch.cat([z1, z2 / scale - shift], dim=1)


class SplitPrior(nn.Module):
    """A learned prior of the half that is split off: z2 ~ N(mean(z1), exp(logs(z1))), brought to N(0, 1).

    Written as one more bijection, so that every level's latents are N(0, 1) whatever the prior.
    """

    def __init__(self, dim: int, channels: int, *, edge: bool = True) -> None:
        super().__init__()
        self.net = ZeroConvolution(dim, channels, 2 * channels, edge=edge)

    def forward(self, z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
        """Return (latent, ladj)."""
        h = self.net(z1)
        mean, logs = h[:, 0::2], h[:, 1::2]
        return (z2 - mean) * torch.exp(-logs), -total(logs)

    def inverse(self, z1: Tensor, latent: Tensor) -> Tensor:
        """Return z2."""
        h = self.net(z1)
        z2: Tensor = latent * torch.exp(h[:, 1::2]) + h[:, 0::2]
        return z2


class Squeeze(nn.Module):
    """Blocks of 2x2(x2) become channels, in the order (c, dz, dy, dx); volume preserving."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (z, ladj); z is (N, 2^d C, …/2)."""
        d = x.dim() - 2
        n, c, *size = x.shape
        blocks = x.reshape(n, c, *(m for s in size for m in (s // 2, 2)))  # (N, C, H/2, 2, W/2, 2)
        order = [0, 1, *range(3, 3 + 2 * d, 2), *range(2, 2 + 2 * d, 2)]
        z = blocks.permute(order).reshape(n, c * 2**d, *(s // 2 for s in size))
        return z, x.new_zeros(n, dtype=torch.float64)

    def inverse(self, z: Tensor) -> Tensor:
        """Return x."""
        d = z.dim() - 2
        n, c, *size = z.shape
        blocks = z.reshape(n, c // 2**d, *(2,) * d, *size)  # (N, C, 2, 2, H/2, W/2)
        order = [0, 1, *(axis for k in range(d) for axis in (2 + d + k, 2 + k))]
        return blocks.permute(order).reshape(n, c // 2**d, *(2 * s for s in size))
