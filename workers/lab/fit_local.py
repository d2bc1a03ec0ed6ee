"""Trains the local classifier: what was planted into normal and unlabelled images, and where; and which set is whose.

Every step sees images in pairs, as they are and with something planted into them (`workers.lab.planted`), both altered
alike: brightness, shading, sharpness, noise, place, size and tilt. So nothing but what was planted tells the two of a
pair apart, and no machine is learned by it. A second output of the same network tells the normal set from the mixture.
The same images and seed give the same weights on one device with one thread.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import Self

import numpy as np
import numpy.typing as npt
import structlog
import torch
from torch import Tensor, nn
from torch.nn import functional

from triage.manifest import Local
from workers.flows.local_classifier import (
    STRIDE,
    ExpectedSlices,
    LocalClassifier,
    channels,
    convolutions,
    planes,
    pyramid,
    standardised,
)
from workers.lab.alterations import moved, moves, recoloured
from workers.lab.heads import Heads, folds, slice_standard, without
from workers.lab.image_set import ImageSet, Pixels
from workers.lab.planted import with_place
from workers.lab.presets import LocalRecipe

log = structlog.get_logger(__name__)

Report = Callable[[int, int], None]

_WARMUP = 60
_CLIP = 2.0
_DROPOUT = 0.2
_RARE = -3.0  # the map's bias at first: few places hold anything
_PLACE_WEIGHT, _POSITIVE = 3.0, 3.0
_SOFT_MAXIMUM = math.log(10.0)
_COVERED = 0.4
_NORMALS = 300
_LEAST_AWAY = 0.3
_STANDING = 0.7  # how far patients stand from upright, as a share of the largest move


class _Layer(nn.Module):
    """A convolution, its batch norm and a rectifier."""

    def __init__(self, entering: int, leaving: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(entering, leaving, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(leaving)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.convolution(x)))

    def folded(self) -> dict[str, Tensor]:
        """Return weight and bias of the convolution that the two are in evaluation."""
        norm = {name: tensor.double() for name, tensor in self.norm.state_dict().items()}
        scale = norm["weight"] / (norm["running_var"] + self.norm.eps).sqrt()
        weight = self.convolution.weight.detach().double() * scale.view(-1, 1, 1, 1)
        return {"weight": weight.float(), "bias": (norm["bias"] - norm["running_mean"] * scale).float()}


class Network(nn.Module):
    """A network in training; `folded` gives what `workers.flows.local_classifier` computes with."""

    def __init__(self, spec: Local) -> None:
        super().__init__()
        self.layers = {name: _Layer(*shape) for name, shape in convolutions(spec).items()}
        for name, layer in self.layers.items():
            self.add_module(name.replace(".", "_"), layer)
        self.map = nn.Conv2d(spec.widths[1], 1, 1)
        self.head = nn.Linear(2 * spec.widths[3], 2)
        self.dropout = nn.Dropout(_DROPOUT)
        nn.init.constant_(self.map.get_parameter("bias"), _RARE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits by place, (N, h, w), and of whole images, (N, 2)."""
        maps, pooled = pyramid(x, lambda name, x: self.layers[name](x))
        return self.map(maps)[:, 0], self.head(self.dropout(pooled))

    @torch.no_grad()
    def follow(self, other: Self, decay: float) -> None:
        """Move towards another network's weights and statistics, by 1 - ``decay`` of the way."""
        for own, its in zip(self.state_dict().values(), other.state_dict().values(), strict=True):
            if own.is_floating_point():
                own.lerp_(its, 1 - decay)

    def folded(self) -> dict[str, Tensor]:
        """Return the tensors by name, on the CPU."""
        parts = {name: layer.folded() for name, layer in self.layers.items()}
        parts |= {"map": self.map.state_dict(), "head": self.head.state_dict()}
        return {
            f"{name}.{kind}": tensor.detach().cpu().contiguous()
            for name, tensors in parts.items()
            for kind, tensor in tensors.items()
        }


@dataclass(frozen=True)
class _Pairs:
    """Images as the network sees them, before alteration: (N, 2 k + 1, h, w); and where something was planted."""

    clean: Tensor
    planted: Tensor
    place: Tensor
    of_mixture: Tensor


class _Hosts:
    """Draws pairs from the two sets alike, however many images they hold."""

    def __init__(self, recipe: LocalRecipe, normal: ImageSet, mixture: ImageSet, rng: np.random.Generator) -> None:
        self.recipe, self.rng = recipe, rng
        self.sets = [[_small(image, recipe) for image in images.pixels] for images in (normal, mixture)]

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rng, recipe = self.rng, self.recipe
        sides = rng.uniform(size=count) < 0.5
        rows: tuple[list[Tensor], ...] = ([], [], [])
        for side in sides:
            images = self.sets[int(side)]
            image = images[rng.integers(len(images))]
            made, place = with_place(image, rng, faint=recipe.faint, plain=recipe.plain)
            for found, values in zip(rows, (image, made, place), strict=True):
                found.append(torch.from_numpy(values.astype(np.float32)).unsqueeze(0))
        clean, planted, place_of = (torch.stack(found) for found in rows)
        return clean, planted, place_of, torch.from_numpy(sides).float()


def _small(pixels: Pixels, recipe: LocalRecipe) -> npt.NDArray[np.float32]:
    small: npt.NDArray[np.float32] = planes(pixels, recipe.spec, torch.device("cpu"))[0, 0].numpy()
    return small


def fit_local(
    recipe: LocalRecipe,
    normal: ImageSet,
    mixture: ImageSet,
    *,
    seed: int,
    device: torch.device,
    report: Report = lambda done, of: None,
) -> dict[str, Tensor]:
    """Return the tensors of ``local.safetensors``.

    Parameters
    ----------
    recipe : LocalRecipe
        The preset's.
    normal, mixture : ImageSet
        On the bundle's grid, of training patients; they may share images. Something is planted into both.
    seed : int
        Of everything random.
    device : torch.device
        Where to train.
    report : callable
        Gets how many steps were made, and of how many.
    """
    recipe = _fitting(recipe, normal, mixture)
    spec = recipe.spec
    expected = _expected(recipe, normal, torch.Generator().manual_seed(seed)) if spec.components else None
    tensors: dict[str, Tensor] = {}
    if expected is not None:
        kept = vars(expected) | {"basis": expected.basis.half()}
        tensors = {f"expected.{name}": tensor.contiguous() for name, tensor in kept.items()}
    volumes = normal.pixels.ndim == 4
    left_out = folds(normal, mixture, spec) if volumes else {}
    steps, total = count(1), spec.members * (recipe.rehearsal + recipe.steps)
    for member in range(spec.members):
        network = _trained(
            recipe,
            without(normal, member, left_out),
            without(mixture, member, left_out),
            expected,
            seed=seed * spec.members + member,
            device=device,
            tick=lambda: report(next(steps), total),
        )
        # Half precision halves the file; what is usual of normals is measured by what will be loaded.
        tensors |= {f"{member}.{name}": tensor.half() for name, tensor in network.folded().items()}
    plain = {"statistic.centre": torch.zeros(3, dtype=torch.float64), "statistic.scale": torch.ones(3).double()}
    if volumes:
        return tensors | plain | slice_standard(spec, tensors | plain, normal, left_out, device).tensors()
    measure = LocalClassifier(spec, tensors | plain, device)
    found = np.stack([measure.statistics(image) for image in normal.pixels[:_NORMALS]])
    return tensors | {
        "statistic.centre": torch.from_numpy(found.mean(0)),
        "statistic.scale": torch.from_numpy(np.maximum(found.std(0), 1e-6)),
    }


def _fitting(recipe: LocalRecipe, normal: ImageSet, mixture: ImageSet) -> LocalRecipe:
    """Return the recipe with as many steps as there are images for."""
    pixels = ImageSet.union([normal, mixture]).pixels
    slices = len(pixels) * (pixels.shape[1] if pixels.ndim == 4 else 1)
    steps = max(1, min(recipe.steps, recipe.passes * slices // recipe.pairs))
    return recipe.model_copy(update={"steps": steps, "rehearsal": recipe.rehearsal * steps // recipe.steps})


@dataclass(frozen=True)
class _Batch:
    """What the network sees of N pairs, and the truth: (2 N, C, h, w), (N, h/2, w/2), (N,)."""

    x: Tensor
    covered: Tensor
    of_mixture: Tensor


def _trained(
    recipe: LocalRecipe,
    normal: ImageSet,
    mixture: ImageSet,
    expected: ExpectedSlices | None,
    *,
    seed: int,
    device: torch.device,
    tick: Callable[[], None],
) -> Network:
    hosts = (Heads if normal.pixels.ndim == 4 else _Hosts)(recipe, normal, mixture, np.random.default_rng(seed))
    generator = torch.Generator().manual_seed(seed)

    def draw() -> _Batch:
        return _seen(_Pairs(*hosts.draw(recipe.pairs)), recipe, expected, generator)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(recipe.spec).to(device)
        if recipe.rehearsal:
            alone = recipe.model_copy(update={"steps": recipe.rehearsal, "set_weight": 0.0})
            network = _stage(network, draw, alone, device, tick)
        return _stage(network, draw, recipe, device, tick)


def _stage(
    network: Network, draw: Callable[[], _Batch], recipe: LocalRecipe, device: torch.device, tick: Callable[[], None]
) -> Network:
    """Train a network further, by one round of the schedule; return the moving average of its weights.

    ``tick`` is called after every step.
    """
    average = deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    for step in range(recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe.steps)
        loss = _loss(network, draw(), recipe, device)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), _CLIP)
        optimiser.step()
        average.follow(network, min(recipe.average, (step + 1) / (step + 10)))
        tick()
    log.info("local_classifier_trained", steps=recipe.steps, loss=round(float(loss.detach()), 4))
    return average


def _schedule(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / _WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _seen(pairs: _Pairs, recipe: LocalRecipe, expected: ExpectedSlices | None, generator: torch.Generator) -> _Batch:
    """Alter pairs and bring them into the network's channels."""
    both, place = recoloured(torch.cat([pairs.clean, pairs.planted]), recipe, generator), pairs.place
    if expected is not None:  # what it doesn't expect of an image that is a little turned or aside means nothing
        standing = moves(len(place), _STANDING * recipe.strength, generator, mirrored=False)
        both, place = moved(both, standing), moved(place, standing[len(place) :], outside="zeros")
    ways = moves(len(place), recipe.strength, generator)
    x, place = moved(channels(both, recipe.spec, expected), ways), moved(place, ways[len(place) :], outside="zeros")
    covered = (functional.avg_pool2d(place, STRIDE)[:, 0] > _COVERED).float()
    return _Batch(x, covered, pairs.of_mixture)


def _loss(network: Network, batch: _Batch, recipe: LocalRecipe, device: torch.device) -> Tensor:
    """Return the loss of one step: by place, by image, within a pair, and between the sets."""
    count, covered = len(batch.covered), batch.covered.to(device)
    truth = torch.cat([torch.zeros_like(covered), covered])
    logits, heads = network(batch.x.to(device).contiguous(memory_format=torch.channels_last))
    bce = functional.binary_cross_entropy_with_logits
    by_place = bce(logits, truth, pos_weight=torch.tensor(_POSITIVE, device=device))
    is_planted = torch.arange(2 * count, device=device) >= count
    by_image = bce(heads[:, 0], is_planted.float())
    highest = torch.logsumexp(logits.flatten(1), 1) - _SOFT_MAXIMUM
    in_pair = functional.softplus(highest[:count] - highest[count:]).mean()
    loss: Tensor = _PLACE_WEIGHT * by_place + recipe.image_weight * (by_image + in_pair)
    if recipe.set_weight:
        loss = loss + recipe.set_weight * bce(heads[:count, 1], batch.of_mixture.to(device))
    return loss


def _expected(recipe: LocalRecipe, normal: ImageSet, generator: torch.Generator) -> ExpectedSlices:
    """Fit the linear model to images and moved copies of them.

    How far normals are from it is judged on those of the second half by the first half's.
    """
    cpu, spec = torch.device("cpu"), recipe.spec
    slices = torch.cat([planes(image, spec, cpu) for image in normal.pixels])
    slices = slices[: len(slices) // 2 * 2]
    copies = moved(slices, moves(len(slices) // 2, _STANDING * recipe.strength, generator, mirrored=False))
    x = standardised(torch.stack([slices, copies], 1).flatten(0, 1), spec.model_copy(update={"neighbours": 0}))
    half = len(x) // 2
    first = _components(x[:half], spec.components)
    away = first.surprise(x[half:])[:, 0].std(0)
    whole = _components(x, spec.components)
    return ExpectedSlices(whole.centre, whole.basis, away + _LEAST_AWAY * away.median())


def _components(x: Tensor, count: int) -> ExpectedSlices:
    centre = x.mean(0)[0]
    flat = (x[:, 0] - centre).flatten(1)
    basis = torch.linalg.svd(flat, full_matrices=False)[2][:count]
    short = count - len(basis)  # fewer images than components: the rest explain nothing
    basis = torch.cat([basis, torch.zeros(short, basis.shape[1])]) if short else basis
    # As they will be kept, so that training sees what scoring will see.
    return ExpectedSlices(centre, basis.view(count, *centre.shape).half().float(), torch.ones_like(centre))
