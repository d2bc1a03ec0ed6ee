"""The head gate's network: what looks is what learned, and the file that comes with the package is of its shape."""

import numpy as np
import torch
from torch import nn

from workers.images.gate_bct import COARSE, _learned
from workers.images.head_network import LAYERS, HeadNetwork, channels
from workers.lab.gates.head import Learner


def test_it_looks_without_torch_as_it_learned_with_it() -> None:
    torch.manual_seed(0)
    learner = Learner().eval()
    for norm in (module for module in learner.modules() if isinstance(module, nn.BatchNorm3d)):
        nn.init.normal_(norm.weight)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    heads = np.random.default_rng(0).uniform(0, 127, (3, *COARSE.size)).astype(np.float32)
    with torch.inference_mode():
        wanted = learner(torch.from_numpy(channels(heads)).transpose(0, 1)).numpy()
    network = learner.learned()
    assert np.allclose([network.logit(head) for head in heads], wanted, atol=1e-4)
    kept = HeadNetwork.of(network.numbers())
    assert np.allclose([kept.logit(head) for head in heads], wanted, atol=1e-2)


def test_the_packages_own_numbers_fit() -> None:
    mean, network = _learned()
    assert mean.shape == COARSE.size
    assert [weight.shape[0] for weight in network.weights] == [outer for outer, _, _ in LAYERS]
    assert network.logit(mean) > network.logit(mean[:, ::-1])
