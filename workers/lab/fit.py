"""One stage of training: a flow, its images, its schedule; it can be stopped anywhere and goes on bit for bit.

Order, shifts and noise are functions of (seed, stage, epoch or step), never of a generator's running state, so a
checkpoint needs only the weights, the optimiser's moments and a few counters.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from torch import Tensor

from triage.errors import ConfigurationError
from triage.manifest import Architecture, InputTransform
from workers.flows.glow import Glow, dequantise
from workers.flows.transform import to_flow_grid
from workers.lab.image_set import ImageSet, Pixels, share
from workers.lab.presets import Schedule

log = structlog.get_logger(__name__)

SKIP_FACTOR = 10.0  # a step whose gradient is so many times the usual one would undo hours of training
NORM_MEMORY = 0.95


@dataclass(frozen=True)
class Progress:
    """Where a stage stands; bits/dim are NaN until known."""

    stage: str
    step: int
    steps: int
    train_bpd: float
    valid_bpd: float


@dataclass(frozen=True)
class FlowGrid:
    """How images on the bundle's grid become the flows' integers."""

    transform: InputTransform
    architecture: Architecture
    grey_levels: int

    def __call__(self, pixels: Pixels) -> Pixels:
        """Return (N, …) on the flows' grid."""
        grids = [to_flow_grid(image, self.transform, self.architecture, self.grey_levels) for image in pixels]
        return np.stack(grids)


@dataclass
class _State:
    """What changes while a stage runs, apart from weights."""

    step: int = 0
    best_bpd: float = math.inf
    best_epoch: int = -1
    usual_norm: float = 0.0
    skipped: int = 0
    train_bpd: float = math.nan
    valid_bpd: float = math.nan
    done: bool = False
    best: dict[str, Tensor] = field(default_factory=dict)


def _seed(*parts: object) -> int:
    return int(share("/".join(map(str, parts)), "seed") * 2**48)


def bits_per_dim(flow: Glow, grey: Pixels, *, batch: int) -> float:
    """Return the mean of -log2 P(x) / D over ``grey``, (N, …) on the flow's grid."""
    device = next(flow.parameters()).device
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(grey), batch):
            v = torch.from_numpy(grey[start : start + batch]).to(device).unsqueeze(1).float()
            total += float(flow.log_prob(dequantise(v, flow.architecture.grey_levels)).sum())
    return -total / len(grey) / flow.architecture.dimensions / math.log(2)


class Stage:
    """A flow on its way from one set of weights to better ones.

    Parameters
    ----------
    name : str
        Of the stage; with ``seed`` it determines all randomness.
    flow : Glow
        Trained in place.
    train, valid : ImageSet
        On the bundle's grid; disjoint patients.
    grid : FlowGrid
        From there to the flows' integers.
    schedule : Schedule
        How to optimise.
    seed : int
        Of the whole run.
    checkpoint : Path
        Written at the end of every epoch and read by ``resume``.
    fingerprint : str
        Of the run's preset, images and seed: a checkpoint of another run is refused.
    """

    def __init__(
        self,
        *,
        name: str,
        flow: Glow,
        train: ImageSet,
        valid: ImageSet,
        grid: FlowGrid,
        schedule: Schedule,
        seed: int,
        checkpoint: Path,
        fingerprint: str,
    ) -> None:
        self.name, self.flow, self.train, self.grid = name, flow, train, grid
        self.schedule, self.seed, self.checkpoint, self.fingerprint = schedule, seed, checkpoint, fingerprint
        self.valid_grey = grid(valid.pixels)
        self.device = next(flow.parameters()).device
        self.steps_per_epoch = max(1, len(train) // schedule.batch)
        self.steps = schedule.epochs * self.steps_per_epoch
        self.trainable = self._freeze()
        self.average = deepcopy(flow).requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.trainable, lr=schedule.learning_rate)
        self.state = _State()

    def _freeze(self) -> list[torch.nn.Parameter]:
        self.flow.requires_grad_(False)
        trainable = [p for level in list(self.flow.levels)[self.schedule.frozen_levels :] for p in level.parameters()]
        for parameter in trainable:
            parameter.requires_grad_(True)
        return trainable

    def run(self, report: Callable[[Progress], None], *, stop_after: int | None = None) -> float:
        """Train to the end and leave the best averaged weights in the flow; return their validation bits/dim.

        ``stop_after`` leaves off after so many steps, as an interruption would.
        """
        state = self.state
        while not state.done and state.step < self.steps:
            self._step()
            if state.step % self.steps_per_epoch == 0:
                self._end_epoch()
            report(Progress(self.name, state.step, self.steps, state.train_bpd, state.valid_bpd))
            if stop_after is not None and state.step >= stop_after:
                return state.best_bpd
        if state.best:
            self.flow.load_state_dict(state.best)
        self.flow.requires_grad_(False)
        return state.best_bpd

    def _step(self) -> None:
        schedule, state = self.schedule, self.state
        for group in self.optimiser.param_groups:
            group["lr"] = schedule.learning_rate * self._rate(state.step)
        self.optimiser.zero_grad(set_to_none=True)
        grey = self._batch(state.step)
        loss = 0.0
        noise = torch.rand(grey.shape, generator=self._generator("noise", state.step))
        for v, u in zip(torch.split(grey, schedule.micro_batch), torch.split(noise, schedule.micro_batch), strict=True):
            x = dequantise(v, self.flow.architecture.grey_levels, u).to(self.device)
            nats = -self.flow.log_prob(x).sum() / (len(grey) * self.flow.architecture.dimensions)
            nats.backward()  # type: ignore[no-untyped-call]
            loss += float(nats.detach())
        norm = float(torch.nn.utils.clip_grad_norm_(self.trainable, schedule.clip_norm))
        self._update(loss, norm)
        state.step += 1

    def _update(self, loss: float, norm: float) -> None:
        state = self.state
        if not (math.isfinite(loss) and math.isfinite(norm)) or (
            state.step >= self.schedule.warmup_steps and norm > SKIP_FACTOR * state.usual_norm
        ):
            state.skipped += 1
            log.warning("step_skipped", stage=self.name, step=state.step, loss=loss, norm=norm)
            return
        self.optimiser.step()
        memory = min(NORM_MEMORY, state.step / (state.step + 1.0))
        state.usual_norm = memory * state.usual_norm + (1 - memory) * norm
        bpd = loss / math.log(2)
        state.train_bpd = (
            bpd if math.isnan(state.train_bpd) else NORM_MEMORY * state.train_bpd + (1 - NORM_MEMORY) * bpd
        )
        decay = min(self.schedule.average, (1 + state.step) / (10 + state.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.flow.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)

    def _rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / self.schedule.warmup_steps)
        return warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def _generator(self, *what: object) -> torch.Generator:
        return torch.Generator().manual_seed(_seed(self.seed, self.name, *what))

    def _batch(self, step: int) -> Tensor:
        """Return the step's integers, (B, 1, …) float32 on the CPU."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.train), generator=self._generator("order", epoch)).numpy()
        chosen = order[number * self.schedule.batch : (number + 1) * self.schedule.batch]
        images = self.train.pixels[chosen]
        if self.schedule.shift:
            images = shifted(
                images, self.schedule.shift, np.random.default_rng(_seed(self.seed, self.name, "shift", step))
            )
        return torch.from_numpy(self.grid(images)).unsqueeze(1).float()

    def _end_epoch(self) -> None:
        state = self.state
        epoch = state.step // self.steps_per_epoch
        state.valid_bpd = bits_per_dim(self.average, self.valid_grey, batch=self.schedule.micro_batch)
        if state.valid_bpd < state.best_bpd:
            state.best_bpd, state.best_epoch = state.valid_bpd, epoch
            state.best = {name: value.clone() for name, value in self.average.state_dict().items()}
        state.done = state.step >= self.steps or epoch - state.best_epoch >= self.schedule.patience
        log.info(
            "epoch_ended", stage=self.name, epoch=epoch, train_bpd=state.train_bpd, valid_bpd=state.valid_bpd,
            skipped=state.skipped,
        )  # fmt: skip
        self.save()

    def save(self) -> None:
        """Write the checkpoint; a reader sees the old one or the new one, never half of one."""
        record = {
            "fingerprint": self.fingerprint,
            "flow": self.flow.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "state": vars(self.state),
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(record, partial)
        partial.replace(self.checkpoint)

    def resume(self) -> bool:
        """Go back to the checkpoint, if there is one; return whether there was.

        Raises
        ------
        ConfigurationError
            If the checkpoint is of another run.
        """
        if not self.checkpoint.exists():
            return False
        record: dict[str, Any] = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if record["fingerprint"] != self.fingerprint:
            raise ConfigurationError(
                f"{self.checkpoint.parent.name} holds a run of other images, seed or preset",
                remedy="run without --resume to start anew",
            )
        self.flow.load_state_dict(record["flow"])
        self.average.load_state_dict(record["average"])
        self.optimiser.load_state_dict(record["optimiser"])
        self.state = _State(**record["state"])
        return True


def shifted(images: Pixels, most: int, rng: np.random.Generator) -> Pixels:
    """Shift every image by up to ``most`` pixels along each axis, repeating its edges."""
    size = images.shape[1:]
    padded = np.pad(images, [(0, 0), *(((most, most),) * len(size))], mode="edge")
    out = np.empty_like(images)
    for number, offsets in enumerate(rng.integers(0, 2 * most + 1, (len(images), len(size)))):
        window = tuple(slice(int(start), int(start) + n) for start, n in zip(offsets, size, strict=True))
        out[number] = padded[number][window]
    return out
