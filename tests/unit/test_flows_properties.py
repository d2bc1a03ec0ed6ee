"""What holds for every flow, whatever its options, size and weights: property tests in float64."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.flows import perturbed
from triage.bundles import Bundle
from triage.manifest import Architecture
from triage.messages import ModelInput
from workers.flows.classifiers import classifier_values
from workers.flows.engine import Engine
from workers.flows.fused import FusedFlows
from workers.flows.glow import Glow
from workers.flows.golden_check import LOGIT_TOLERANCE
from workers.flows.golden_input import GoldenInput
from workers.flows.local_volume import NOTHING

STARTERS = Path(__file__).parents[2] / "workers" / "models"
PROPERTY = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    levels = draw(st.integers(1, 2))
    dim = draw(st.sampled_from([2, 3]))
    size = tuple(2**levels * draw(st.integers(1, 2 if dim == 2 else 1)) for _ in range(dim))
    return Architecture(
        size=size,
        grey_levels=16,
        depth=draw(st.integers(1, 2)),
        widths=tuple(draw(st.integers(1, 5)) for _ in range(levels)),
        prior=draw(st.sampled_from(["fixed", "learned"])),
        scale=draw(st.sampled_from(["paper", "openai"])),
        convolution=draw(st.sampled_from(["lu", "plain"])),
        edge=draw(st.booleans()),
    )


def flow_and_images(architecture: Architecture, seed: int, count: int) -> tuple[Glow, torch.Tensor]:
    flow = perturbed(Glow(architecture, seed=seed), seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    return flow, torch.rand(count, 1, *architecture.size, generator=generator, dtype=torch.float64) - 0.5


@PROPERTY
@given(architectures(), st.integers(0, 2**20))
def test_decoding_undoes_encoding_and_the_engine_agrees(architecture: Architecture, seed: int) -> None:
    flow, x = flow_and_images(architecture, seed, 2)
    with torch.inference_mode():
        latents, _ = flow.encode(x)
        assert torch.allclose(flow.inverse(latents), x, atol=1e-8)
        assert [tuple(z.shape[1:]) for z in latents] == flow.latent_shapes
        expected = flow.level_parts(x)
    found = FusedFlows([flow], dtype=torch.float64).parts(x).log_density[0]
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-9)


@PROPERTY
@given(architectures(), st.integers(0, 2**20))
def test_the_log_determinant_is_the_jacobian_s(architecture: Architecture, seed: int) -> None:
    flow, x = flow_and_images(architecture, seed, 1)

    def latents(flat: torch.Tensor) -> torch.Tensor:
        return torch.cat([z.flatten() for z in flow.encode(flat.view(1, 1, *architecture.size))[0]])

    jacobian = torch.autograd.functional.jacobian(latents, x.flatten())
    expected = torch.linalg.slogdet(jacobian)[1].item()
    assert flow.encode(x)[1].sum().item() == pytest.approx(expected, abs=1e-8)


def test_total_probability_is_one_with_the_released_code_s_options() -> None:
    """By the trapezium rule over all of R^4: the density of 2 x 2 images falls off as a Gaussian does."""
    architecture = Architecture(
        size=(2, 2), grey_levels=16, depth=2, widths=(4,), scale="openai", convolution="plain", edge=False
    )
    flow = perturbed(Glow(architecture, seed=1), scale=0.05, seed=1).double()
    with torch.no_grad():  # a standard deviation of about 1, whatever the scale's start
        for step in flow.levels[0].steps:
            step.actnorm.logs.copy_(torch.full_like(step.actnorm.logs, 0.05))
    step = 0.7
    axis = torch.arange(-10, 10 + step / 2, step, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis, axis, axis).view(-1, 1, 2, 2)
    with torch.inference_mode():
        total = math.fsum(float(flow.level_parts(part).sum(1).exp().sum()) for part in points.split(100_000))
    assert total * step**4 == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("prior", ["fixed", "learned"])
def test_samples_have_standard_normal_latents_and_are_as_probable_as_the_flow_says(prior: str) -> None:
    architecture = Architecture(size=(4, 4), grey_levels=16, depth=2, widths=(6, 6), prior=prior)
    flow = perturbed(Glow(architecture, seed=2), scale=0.05, seed=2).double()
    with torch.inference_mode():
        x = flow.sample(4000, generator=torch.Generator().manual_seed(0))
        latents, ladj = flow.encode(x)
        z = torch.cat([latent.flatten(1) for latent in latents], 1)
        log_prob = flow.level_parts(x).sum(1)
    # Sampling errors: 1/sqrt(4000) of a mean, 1/sqrt(2000) of a spread, and 16 pixels are looked at.
    assert z.mean(0).abs().max() < 5 / math.sqrt(4000)
    assert (z.std(0) - 1).abs().max() < 5 / math.sqrt(8000)
    entropy = 0.5 * z.shape[1] * (1 + math.log(2 * math.pi)) - float(ladj.sum(1).mean())
    assert float(-log_prob.mean()) == pytest.approx(entropy, abs=5 * math.sqrt(z.shape[1] / 2 / 4000))


def test_a_lower_temperature_stays_nearer_to_the_mode() -> None:
    flow = perturbed(Glow(Architecture(size=(8, 8), grey_levels=16, depth=1, widths=(4, 4))), seed=3)
    spreads = []
    for temperature in (0.3, 1.0):
        sample = flow.sample(64, generator=torch.Generator().manual_seed(0), temperature=temperature)
        with torch.inference_mode():
            spreads.append(float(torch.cat([z.flatten() for z in flow.encode(sample)[0]]).std()))
    assert spreads == pytest.approx([0.3, 1.0], rel=0.05)


@pytest.mark.parametrize("options", [{}, {"prior": "learned", "scale": "openai", "convolution": "plain"}], ids=str)
def test_a_3d_flow_that_is_blind_across_slices_is_the_2d_flow_slice_by_slice(options: dict[str, object]) -> None:
    """What equals what on a depth of one.

    A squeeze halves the depth, so a volume that is one slice deep exists inside a level only: the steps of a 3-D level
    whose grid is one slice deep, with kernels whose outer planes are zero, are those of a 2-D level with as many
    channels. Here they are compared so, over a whole level and its split's learned prior.
    """
    dim3 = Architecture(size=(2, 8, 8), grey_levels=16, depth=2, widths=(5,), **options)
    deep = perturbed(Glow(dim3, seed=4), seed=4).double().levels[0]
    from workers.flows.levels import Options, Step

    kinds = Options(dim3.scale, dim3.convolution, dim3.edge)
    flat = [Step(2, 8, 5, torch.Generator().manual_seed(0), options=kinds).double() for _ in deep.steps]
    with torch.no_grad():
        for deep_step, flat_step in zip(deep.steps, flat, strict=True):
            state = {}
            for name, value in deep_step.state_dict().items():
                if value.dim() == 5 and value.shape[2] == 3:
                    value[:, :, 0] = value[:, :, 2] = 0
                state[name] = value[:, :, value.shape[2] // 2] if value.dim() == 5 else value
            flat_step.load_state_dict(state)
    x = torch.rand(3, 1, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    with torch.inference_mode():
        z3, ladj3 = deep(x)
        z2, ladj2 = deep.squeeze(x)[0].squeeze(2), torch.zeros(3, dtype=torch.float64)
        for step in flat:
            z2, part = step(z2)
            ladj2 = ladj2 + part
    assert torch.allclose(z3.squeeze(2), z2)
    assert torch.allclose(ladj3, ladj2)


def test_appendix_b_s_forms_hold_site_by_site() -> None:
    """B.2: the 1x1x1 convolution by its sum; B.3: its log-determinant; B.6 and B.7: the halves that couple."""
    architecture = Architecture(size=(4, 4, 6), grey_levels=16, depth=1, widths=(3,))
    step = perturbed(Glow(architecture, seed=5), seed=5).double().levels[0].steps[0]
    x = torch.randn(1, 8, 2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        z, ladj = step.convolution(x)
        weight = step.convolution.weight()
        for c, d, h, w in itertools.product(range(8), range(2), range(2), range(3)):
            assert z[0, c, d, h, w].item() == pytest.approx(float((weight[c] * x[0, :, d, h, w]).sum()))
        assert float(ladj) == pytest.approx(2 * 2 * 3 * float(torch.linalg.slogdet(weight)[1]))
        coupled, _ = step.coupling(x)
        assert torch.equal(coupled[:, :4], x[:, :4])
        other = x.clone()
        other[:, 4:] += 1
        moved, _ = step.coupling(other)
        ratio = (moved - coupled)[:, 4:]
        assert (ratio > 0.6).all()
        assert (ratio < 1.6).all()


@pytest.mark.parametrize("name", ["cxr-starter", "bct-starter"])
def test_shipped_bundles_still_give_their_golden_scores(name: str) -> None:
    bundle = Bundle.open(STARTERS / name)
    golden = GoldenInput.load(bundle)
    score = Engine(bundle, "cpu").score(ModelInput(modality=bundle.modality, pixels=golden.pixels))
    assert np.allclose([score.levels_normal, score.levels_mixture], golden.levels, atol=0.01)
    normal, mixture = golden.levels
    assert score.log_posterior == pytest.approx(float((normal - mixture).sum()), abs=0.02)
    values = classifier_values(score)
    assert len(values) == 2
    for of, value in values.items():
        assert value == pytest.approx(golden.values[of], abs=LOGIT_TOLERANCE)
        assert value > NOTHING  # it did look
