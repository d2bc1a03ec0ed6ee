"""The gates' networks: what looks is what learned, and the files that come with the package are of their shape."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.peers import shared
from workers.images import gate_bct, gate_cxr
from workers.images.small_network import Layers, SmallNetwork
from workers.lab.gates.learner import Learner

CHEST = (1, gate_cxr.SIDE, gate_cxr.SIDE)


@pytest.mark.parametrize(
    ("layers", "inputs", "size"),
    [(gate_bct.LAYERS, 2, gate_bct.COARSE.size), (gate_cxr.LAYERS, 1, CHEST)],
    ids=["head", "chest"],
)
def test_it_looks_without_torch_as_it_learned_with_it(layers: Layers, inputs: int, size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    learner = Learner(layers, inputs, size).eval()
    for norm in (module for module in learner.modules() if isinstance(module, nn.BatchNorm3d)):
        nn.init.normal_(norm.weight)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = np.random.default_rng(0).uniform(-1, 1, (3, inputs, *size)).astype(np.float32)
    with torch.inference_mode():
        wanted = learner(torch.from_numpy(x)).numpy()
    network = learner.learned()
    assert np.allclose([network.logit(one) for one in x], wanted, atol=1e-4)
    kept = SmallNetwork.of(layers, network.numbers())
    assert np.allclose([kept.logit(one) for one in x], wanted, atol=1e-2)


def test_the_packages_own_numbers_of_heads_fit() -> None:
    mean, network = gate_bct._learned()
    assert mean.shape == gate_bct.COARSE.size
    assert [weight.shape[0] for weight in network.weights] == [outer for outer, _, _ in gate_bct.LAYERS]
    assert network.logit(gate_bct.channels(mean)) > network.logit(gate_bct.channels(mean[:, ::-1]))


def test_the_packages_own_numbers_of_chests_fit() -> None:
    assert [weight.shape[0] for weight in gate_cxr._learned().weights] == [outer for outer, _, _ in gate_cxr.LAYERS]
    with np.load(shared("data", "cxr_adult.npz"), allow_pickle=False) as arrays:
        chest = arrays["x"][0]
    assert gate_cxr.chest_logit(chest) > gate_cxr.MIN_LOGIT > gate_cxr.chest_logit(chest[::-1])
