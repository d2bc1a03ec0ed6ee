"""The whole flow: density, inverse, latents, samples."""

import itertools
import math

import numpy as np
import pytest
import torch

from tests.support.flows import perturbed
from triage.manifest import Architecture
from workers.flows import glow
from workers.flows.glow import Glow, dequantise, quantise
from workers.flows.posterior import Posterior

SIZES = [(8, 8), (8, 4, 8)]


def flow(size: tuple[int, ...], *, widths: tuple[int, ...] = (6, 5), depth: int = 2) -> Glow:
    return perturbed(Glow(Architecture(size=size, grey_levels=16, depth=depth, widths=widths), seed=1))


def images(size: tuple[int, ...], count: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, *size, generator=generator, dtype=dtype) - 0.5


@pytest.mark.parametrize("size", SIZES)
def test_the_levels_parts_and_a_grey_level_s_cell_make_up_the_log_density(size: tuple[int, ...]) -> None:
    g, x = flow(size).double(), images(size, 3)
    latents, ladj = g.encode(x)
    gaussian = sum(torch.distributions.Normal(0, 1).log_prob(z).flatten(1).sum(1) for z in latents)
    expected = ladj.sum(1) + gaussian - math.prod(size) * math.log(16)
    assert torch.allclose(g.log_prob(x), expected)
    assert torch.allclose(g.level_parts(x).sum(1) + g.cell, expected)


def test_total_probability_is_one() -> None:
    g = flow((2, 2), widths=(4,)).double()
    step = 2 / 3
    axis = torch.arange(-8, 8 + step / 2, step, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis, axis, axis).view(-1, 1, 2, 2)
    with torch.inference_mode():
        densities = [g.level_parts(part).sum(1).exp().sum() for part in points.split(50_000)]
    assert float(sum(densities)) * step**4 == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("size", [(16, 16), (8, 8, 8)])
def test_initialisation_normalises_every_level_s_latents(size: tuple[int, ...]) -> None:
    g = Glow(Architecture(size=size, grey_levels=16, depth=2, widths=(8, 8)))
    x = 0.1 * images(size, 256, torch.float32) + 0.2
    g.initialise(x)
    for z in (z.detach() for z in g.encode(x)[0]):
        assert abs(float(z.mean())) < 0.2
        assert 0.7 < float(z.std()) < 1.4


@pytest.mark.parametrize("size", [(16, 16), (8, 8, 8)])
def test_initialisation_takes_a_few_images_at_a_time_and_counts_all(
    size: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = Architecture(size=size, grey_levels=16, depth=2, widths=(8, 6))
    x = 0.1 * images(size, 70, torch.float32) + 0.2
    whole, parted = Glow(architecture), Glow(architecture)
    whole.initialise(x)
    seen: list[int] = []
    for level in parted.levels:
        for step in level.steps:
            step.coupling.net.conv1.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    monkeypatch.setattr(glow, "HIDDEN_VALUES", 32 * glow.hidden_values(architecture))
    parted.initialise(x)
    assert max(seen) == 32
    assert min(seen) == 6
    for name, value in whole.state_dict().items():
        assert torch.allclose(parted.state_dict()[name], value, atol=1e-4), name


def test_sampling_is_reproducible_and_lands_where_density_is() -> None:
    g = flow((8, 8))
    first, second = (g.sample(2, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    latents, _ = g.encode(first)
    assert max(float(z.detach().abs().max()) for z in latents) < 5


def test_every_grey_level_s_cell_is_hit_in_its_middle() -> None:
    v = torch.arange(16, dtype=torch.float32)
    x = dequantise(v, 16)
    assert x[0].item() == -0.5 + 1 / 32
    assert torch.equal(quantise(x, 16), v.to(torch.uint8))
    assert torch.equal(quantise(dequantise(v, 16, torch.full_like(v, 0.999)), 16), v.to(torch.uint8))


def test_the_same_seed_makes_the_same_flow() -> None:
    one, same, other = (
        Glow(Architecture(size=(8, 8), grey_levels=16, depth=1, widths=(4,)), seed=s) for s in (1, 1, 2)
    )
    pairs = list(itertools.pairwise([one, same, other]))
    equal = [all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True)) for a, b in pairs]
    assert equal == [True, False]


def test_two_equal_flows_cancel_to_exactly_zero() -> None:
    g = flow((8, 8))
    normal, mixture = Posterior(g, g).level_parts(np.zeros((2, 8, 8), np.uint8))
    assert (normal - mixture == 0).all()
