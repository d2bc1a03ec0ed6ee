"""How a gate's small network learns, with torch; what it learned looks without (`workers.images.small_network`)."""

from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import structlog
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from triage.errors import NotScoredError
from workers.images.small_network import Floats, Layers, SmallNetwork

log = structlog.get_logger(__name__)

DROPPED = 0.3
#: Nothing is surer than this.
SURE = 0.99

T = TypeVar("T")
Examples = npt.NDArray[np.uint8]
Seen = Callable[[Examples, np.random.Generator], Floats]


def taken(things: Iterator[T], as_example: Callable[[T], Examples], count: int) -> Examples:
    """Return so many examples, uint8 (N, …), of what comes; what can't be made one is left out."""
    found: list[Examples] = []
    while len(found) < count:
        try:
            found.append(as_example(next(things)))
        except NotScoredError:
            continue
        if len(found) % 2000 == 0:
            log.info("made", examples=len(found), of=count)
    return np.stack(found)


class Learner(nn.Module):
    """The network while it learns: normalised by batch after every convolution but the first and the last.

    Parameters
    ----------
    layers : tuple
        As `SmallNetwork` has them.
    inputs : int
        Channels of what it sees.
    size : tuple of int
        (D, H, W) of what it sees.
    """

    def __init__(self, layers: Layers, inputs: int, size: tuple[int, ...]) -> None:
        super().__init__()
        self.plan, modules, rest = layers, [], np.array(size)
        for number, (outer, kernel, stride) in enumerate(layers):
            d, h, w = (n // 2 for n in kernel)
            convolution = nn.Conv3d(inputs, outer, kernel, stride, padding=(d, h, w))
            plain = number in {0, len(layers) - 1}
            modules.append(nn.Sequential(convolution, nn.Identity() if plain else nn.BatchNorm3d(outer), nn.ReLU()))
            inputs, rest = outer, -(-rest // stride)
        self.layers = nn.Sequential(*modules)
        self.places = nn.Linear(inputs * int(rest.prod()), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N,), of what is seen, (N, I, D, H, W)."""
        found = functional.dropout(self.layers(x).flatten(1), DROPPED, self.training)
        logits: Tensor = self.places(found)[:, 0]
        return logits

    @torch.no_grad()
    def learned(self) -> SmallNetwork:
        """Return what it learned: the normalisation is a part of the weights."""
        weights, biases = [], []
        for layer in self.layers:
            convolution, norm = cast("tuple[nn.Conv3d, nn.Module]", tuple(layer.children())[:2])
            # In evaluation, a normalisation is another weight and bias.
            fused = fuse_conv_bn_eval(convolution, norm) if isinstance(norm, nn.BatchNorm3d) else convolution
            weights.append(fused.weight.numpy().copy())
            biases.append(cast("Tensor", fused.bias).numpy().copy())
        places = self.places.weight[0].numpy().copy()
        return SmallNetwork(self.plan, tuple(weights), tuple(biases), places, float(self.places.bias))


def fit(
    learner: Learner,
    wanted: Examples,
    others: Examples,
    seen: Seen,
    *,
    batch: tuple[int, int],
    rate: float,
    epochs: int,
) -> SmallNetwork:
    """Train a network on what its gate is for and on what is none.

    Parameters
    ----------
    learner : Learner
        With its first weights.
    wanted, others : numpy.ndarray
        uint8, (N, …).
    seen : callable
        Makes of some of them, (B, …), each varied a little, what the network sees, float32 (I, B, …).
    batch : tuple of int
        How many of both are seen at once.
    rate : float
        The greatest learning rate: the first is a 25th of it, and the last hardly any.
    epochs : int
        How often all others are seen.
    """
    rng = np.random.default_rng(0)
    optimiser = torch.optim.AdamW(learner.parameters(), rate, weight_decay=1e-2)
    batches = len(others) // batch[1]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * batches)
    target = torch.cat([torch.full((batch[0],), SURE), torch.full((batch[1],), 1 - SURE)])
    for epoch in range(epochs):
        losses = []
        order = rng.permutation(len(others))
        for number in range(batches):
            some = wanted[rng.integers(0, len(wanted), batch[0])], others[order[number * batch[1] :][: batch[1]]]
            x = torch.from_numpy(seen(np.concatenate(some), rng)).transpose(0, 1)
            loss = functional.binary_cross_entropy_with_logits(learner(x), target)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        log.info("epoch_ended", epoch=epoch + 1, of=epochs, loss=round(float(np.mean(losses)), 4))
    return learner.eval().learned()
