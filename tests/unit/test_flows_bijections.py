"""Every bijection: its inverse, and its ladj against autograd's Jacobian, in two and three dimensions."""

import numpy as np
import pytest
import torch
from torch import nn

from workers.flows.bijections import ActNorm, AffineCoupling, EdgeConvolution, LUConvolution, PlainConvolution, Squeeze
from workers.flows.levels import Level, Options, Step

KINDS = [
    "actnorm", "convolution", "plain convolution", "coupling", "openai coupling", "squeeze", "step", "openai step",
    "level",
]  # fmt: skip
OPENAI = Options(scale="openai", convolution="plain", edge=False)
SIZES = {2: (4, 6), 3: (2, 4, 2)}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def bijection(kind: str, dim: int) -> nn.Module:
    made = {
        "actnorm": lambda: ActNorm(4),
        "convolution": lambda: LUConvolution(4, generator()),
        "plain convolution": lambda: PlainConvolution(4, generator()),
        "coupling": lambda: AffineCoupling(dim, 4, 5, generator()),
        "squeeze": Squeeze,
        "openai coupling": lambda: AffineCoupling(dim, 4, 5, generator(), scale="openai", edge=False),
        "step": lambda: Step(dim, 4, 5, generator()),
        "openai step": lambda: Step(dim, 4, 5, generator(), options=OPENAI),
        "level": lambda: Level(dim, 4 * 2**dim, 5, 2, generator()),
    }[kind]()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator()))
    return made.double()


def images(dim: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, *SIZES[dim], generator=generator(), dtype=torch.float64)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
class TestContract:
    def test_inverse_undoes_forward(self, kind: str, dim: int) -> None:
        b, x = bijection(kind, dim), images(dim)
        assert torch.allclose(b.inverse(b(x)[0]), x, atol=1e-11)

    def test_ladj_is_the_jacobian_s_log_determinant(self, kind: str, dim: int) -> None:
        b, x = bijection(kind, dim), images(dim)
        _, ladj = b(x)
        assert ladj.shape == (2,)
        assert ladj.dtype == torch.float64
        for image, found in zip(x, ladj, strict=True):
            jacobian = torch.autograd.functional.jacobian(
                lambda flat, shape=image.shape: b(flat.view(1, *shape))[0].flatten(), image.flatten()
            )
            assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(found.item(), abs=1e-10)

    def test_ladj_is_float64_even_of_float32_images(self, kind: str, dim: int) -> None:
        assert bijection(kind, dim).float()(images(dim).float())[1].dtype == torch.float64


@pytest.mark.parametrize("dim", [2, 3])
def test_actnorm_s_initialisation_gives_zero_mean_and_unit_variance(dim: int) -> None:
    norm = ActNorm(4).double()
    x = 5 * images(dim, 64) + 3
    norm.initialise([x])
    z, _ = norm(x)
    axes = [0, *range(2, z.dim())]
    assert torch.allclose(z.mean(axes), torch.zeros(4, dtype=z.dtype), atol=1e-5)
    assert torch.allclose(z.var(axes, correction=0), torch.ones(4, dtype=z.dtype), atol=1e-4)


def test_a_constant_channel_is_not_blown_up() -> None:
    norm = ActNorm(1)
    norm.initialise([torch.zeros(64, 1, 2, 2)])
    assert norm(torch.full((1, 1, 2, 2), 0.01))[0].abs().max() < 1.01


@pytest.mark.parametrize("dim", [2, 3])
def test_the_coupling_s_scale_stays_between_0_6_and_1_6_and_starts_as_the_paper_s(dim: int) -> None:
    x = images(dim)
    fresh = AffineCoupling(dim, 4, 5, generator()).double()
    start = torch.sigmoid(torch.tensor(-0.1, dtype=torch.float64)) + 0.6
    assert torch.allclose(fresh(x)[0][:, 2:], x[:, 2:] * start)
    wild = AffineCoupling(dim, 4, 5, generator()).double()
    with torch.no_grad():
        wild.net.bias.copy_(torch.tensor([0.0, 1e3, 0.0, -1e3]))
    ratio = wild(x)[0][:, 2:] / x[:, 2:]
    assert torch.allclose(ratio[:, 0], torch.full_like(ratio[:, 0], 1.6))
    assert torch.allclose(ratio[:, 1], torch.full_like(ratio[:, 1], 0.6))


def test_shift_comes_before_scale_and_channels_are_interleaved() -> None:
    coupling = AffineCoupling(2, 4, 5, generator()).double()
    with torch.no_grad():
        coupling.net.bias.copy_(torch.tensor([1.0, 0.1, 2.0, 0.1]))  # shifts 1 and 2, both scales 1.1
    z, _ = coupling(torch.zeros(1, 4, 2, 2, dtype=torch.float64))
    assert z[0, :, 0, 0].tolist() == pytest.approx([0, 0, 1.1, 2.2])


def test_squeeze_orders_channels_by_channel_then_rows_then_columns() -> None:
    x = torch.arange(2 * 4).view(1, 2, 2, 2).float()
    assert Squeeze()(x)[0].flatten().tolist() == list(range(8))
    volume = torch.arange(8).view(1, 1, 2, 2, 2).float()
    assert Squeeze()(volume)[0].flatten().tolist() == list(range(8))
    wide = torch.arange(16).view(1, 1, 4, 4).float()
    assert Squeeze()(wide)[0][0, :, 0, 1].tolist() == [2, 3, 6, 7]


@pytest.mark.parametrize("dim", [2, 3])
def test_the_edge_channel_is_one_on_the_padding_and_zero_inside(dim: int) -> None:
    layer = EdgeConvolution(dim, 4, 3, generator()).double()
    x = images(dim)
    padded = nn.functional.pad(x, (1, 1) * dim)
    edge = nn.functional.pad(torch.zeros(2, 1, *SIZES[dim], dtype=x.dtype), (1, 1) * dim, value=1.0)
    convolve = nn.functional.conv2d if dim == 2 else nn.functional.conv3d
    assert torch.allclose(layer(x), convolve(torch.cat([padded, edge], 1), layer.weight))


def test_the_convolution_starts_as_a_rotation() -> None:
    for convolution in (LUConvolution, PlainConvolution):
        weight = convolution(6, generator()).weight().detach().numpy()
        assert np.allclose(weight @ weight.T, np.eye(6), atol=1e-6)
