"""One stage of training: a flow, its images, its schedule; it can be stopped anywhere and goes on bit for bit.

Order, shifts and noise are functions of (seed, stage, epoch or step), never of a generator's running state, so a
checkpoint needs only the weights, the optimiser's moments and a few counters.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import structlog
import torch
from torch import Tensor

from triage.durable import replacing
from triage.errors import ConfigurationError
from workers.flows.glow import Glow, dequantise
from workers.flows.transform import FlowGrid
from workers.lab.curves import Epoch, StageRecord
from workers.lab.image_set import ImageSet, Pixels, share
from workers.lab.parallel import Group, current
from workers.lab.presets import Schedule

log = structlog.get_logger(__name__)

SKIP_FACTOR = 10.0  # a step whose gradient is so many times the usual one would undo hours of training
# What loading a file that is no checkpoint of ours raises.
_DAMAGED = (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError)
NORM_MEMORY = 0.95


@dataclass(frozen=True)
class Progress:
    """Where a stage stands; bits/dim are NaN until known, and of levels (finest first) per their own latents."""

    stage: str
    step: int
    steps: int
    train_bpd: float = math.nan
    valid_bpd: float = math.nan
    train_levels: tuple[float, ...] = ()
    valid_levels: tuple[float, ...] = ()
    skipped: int = 0


@dataclass
class _State:
    """What changes while a stage runs, apart from weights."""

    step: int = 0
    best_bpd: float = math.inf
    best_epoch: int = -1
    best_step: int = 0
    usual_norm: float = 0.0
    skipped: int = 0
    train_bpd: float = math.nan
    valid_bpd: float = math.nan
    train_levels: list[float] = field(default_factory=list)
    valid_levels: list[float] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False
    best: dict[str, Tensor] = field(default_factory=dict)


def _seed(*parts: object) -> int:
    return int(share("/".join(map(str, parts)), "seed") * 2**48)


def level_dimensions(flow: Glow) -> tuple[int, ...]:
    """Return the number of every level's latents; they add up to the image's dimensions."""
    return tuple(math.prod(shape) for shape in flow.latent_shapes)


def level_bits(flow: Glow, parts: Tensor) -> list[float]:
    """Return every level's bits per latent dimension from the mean of its parts, (L,), nats.

    The cell of a grey level is shared out by latents, so that the levels' bits, weighted by their latents, add up to
    the image's.
    """
    cell = math.log(flow.architecture.grey_levels)
    pairs = zip(parts.tolist(), level_dimensions(flow), strict=True)
    return [(cell - part / dimensions) / math.log(2) for part, dimensions in pairs]


def bits_per_dim(flow: Glow, grey: Pixels, *, batch: int, group: Group | None = None) -> tuple[float, list[float]]:
    """Return the mean of -log2 P(x) / D over ``grey``, (N, …) on the flow's grid, and every level's share of it."""
    group = group or Group()
    device = next(flow.parameters()).device
    own = grey[group.rank :: group.size]
    total = torch.zeros(1 + flow.architecture.levels, dtype=torch.float64)
    with torch.inference_mode():
        for start in range(0, len(own), batch):
            v = torch.from_numpy(own[start : start + batch]).to(device).unsqueeze(1).float()
            parts = flow.level_parts(dequantise(v, flow.architecture.grey_levels))
            total[0] += (parts.sum(1) + flow.cell).sum().cpu()
            total[1:] += parts.sum(0).cpu()
    total = total.to(device)
    group.add([total])
    bpd = -float(total[0]) / len(grey) / flow.architecture.dimensions / math.log(2)
    return bpd, level_bits(flow, total[1:] / len(grey))


def _optimiser(parameters: list[torch.nn.Parameter], schedule: Schedule, steps: int) -> torch.optim.Optimizer:
    """Return the schedule's optimiser, for epochs of so many steps."""
    if schedule.optimiser == "adamax":
        return torch.optim.Adamax(parameters, lr=schedule.learning_rate, betas=(0.9, 1 - 1 / max(steps, 2)))
    return torch.optim.Adam(parameters, lr=schedule.learning_rate)


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
        self.group = current()
        if min(len(train), schedule.batch) < self.group.size:
            raise ConfigurationError(
                f"batches of {min(len(train), schedule.batch)} are too small for {self.group.size} processes",
                remedy="start fewer processes, or use a preset with larger batches",
            )
        self.steps_per_epoch = max(1, len(train) // schedule.batch)
        self.steps = schedule.epochs * self.steps_per_epoch
        self.trainable = self._freeze()
        self.average = deepcopy(flow).requires_grad_(False)
        flow.use_checkpointing(schedule.checkpointing)
        self.optimiser = _optimiser(self.trainable, schedule, self.steps_per_epoch)
        self.state = _State()

    def _freeze(self) -> list[torch.nn.Parameter]:
        self.flow.requires_grad_(False)
        free = slice(self.schedule.frozen_levels, None)
        parts = [*list(self.flow.levels)[free], *list(self.flow.priors)[free]]
        trainable = [parameter for part in parts for parameter in part.parameters()]
        for parameter in trainable:
            parameter.requires_grad_(True)
        return trainable

    def run(self, report: Callable[[Progress], None], *, stop_after: int | None = None) -> float:
        """Train to the end and leave the best averaged weights in the flow; return their validation bits/dim.

        ``stop_after`` leaves off after so many steps, as an interruption would.
        """
        state = self.state
        self.group.share([*self.flow.state_dict().values(), *self.average.state_dict().values()])
        while not state.done and state.step < self.steps:
            self._step()
            if state.step % self.steps_per_epoch == 0:
                self._end_epoch()
            report(self._progress())
            if stop_after is not None and state.step >= stop_after:
                return state.best_bpd
        if state.best:
            self.flow.load_state_dict(state.best)
        self.flow.requires_grad_(False)
        return state.best_bpd

    def _progress(self) -> Progress:
        state = self.state
        levels = tuple(state.train_levels), tuple(state.valid_levels)
        return Progress(
            self.name, state.step, self.steps, state.train_bpd, state.valid_bpd, *levels, skipped=state.skipped
        )

    @property
    def record(self) -> StageRecord:
        """What became of the stage so far."""
        state = self.state
        epochs = tuple(
            Epoch(**row | {"train_levels": tuple(row["train_levels"]), "valid_levels": tuple(row["valid_levels"])})
            for row in state.epochs
        )
        return StageRecord(
            name=self.name,
            images=len(self.train),
            images_valid=len(self.valid_grey),
            steps_planned=self.steps,
            steps=state.step,
            skipped=state.skipped,
            kept_epoch=state.best_epoch,
            kept_step=state.best_step,
            level_dimensions=level_dimensions(self.flow),
            epochs=epochs,
        )

    def _step(self) -> None:
        schedule, state = self.schedule, self.state
        for group in self.optimiser.param_groups:
            group["lr"] = schedule.learning_rate * self._rate(state.step)
        self.optimiser.zero_grad(set_to_none=True)
        grey = self._batch(state.step)
        count = len(grey)
        noise = torch.rand(grey.shape, generator=self._generator("noise", state.step))
        mine = slice(self.group.rank, None, self.group.size)  # of the group's one batch
        sums = torch.zeros(1 + self.flow.architecture.levels, dtype=torch.float64)  # loss, every level's mean part
        pairs = zip(*(torch.split(whole[mine], schedule.micro_batch) for whole in (grey, noise)), strict=True)
        for v, u in pairs:
            x = dequantise(v, self.flow.architecture.grey_levels, u).to(self.device)
            parts = self.flow.level_parts(x)
            nats = -(parts.sum(1) + self.flow.cell).sum() / (count * self.flow.architecture.dimensions)
            nats.backward()  # type: ignore[no-untyped-call]
            sums[0] += nats.detach().cpu()
            sums[1:] += parts.detach().sum(0).cpu() / count
        sums = sums.to(self.device)
        self.group.add([sums])
        self.group.add(parameter.grad for parameter in self.trainable if parameter.grad is not None)
        norm = float(torch.nn.utils.clip_grad_norm_(self.trainable, schedule.clip_norm))
        self._update(float(sums[0]), norm, level_bits(self.flow, sums[1:]))
        state.step += 1

    def _update(self, loss: float, norm: float, levels: list[float]) -> None:
        state = self.state
        most = SKIP_FACTOR * state.usual_norm if state.step >= self.schedule.warmup_steps else 0.0
        is_finite = math.isfinite(loss) and math.isfinite(norm)
        if not is_finite or norm > most > 0:
            if is_finite:  # gradients that stay large become usual; one that explodes is soon forgotten
                state.usual_norm = NORM_MEMORY * state.usual_norm + (1 - NORM_MEMORY) * most
            state.skipped += 1
            log.warning("step_skipped", stage=self.name, step=state.step, loss=loss, norm=norm)
            return
        self.optimiser.step()
        memory = min(NORM_MEMORY, state.step / (state.step + 1.0))
        state.usual_norm = memory * state.usual_norm + (1 - memory) * norm
        before = [state.train_bpd, *state.train_levels] if state.train_levels else [math.nan] * (1 + len(levels))
        state.train_bpd, *state.train_levels = map(_smoothed, before, [loss / math.log(2), *levels])
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
        state.valid_bpd, state.valid_levels = bits_per_dim(
            self.average, self.valid_grey, batch=self.schedule.micro_batch, group=self.group
        )
        if state.valid_bpd < state.best_bpd:
            state.best_bpd, state.best_epoch, state.best_step = state.valid_bpd, epoch, state.step
            state.best = {name: value.clone() for name, value in self.average.state_dict().items()}
        state.done = state.step >= self.steps or epoch - state.best_epoch >= self.schedule.patience
        state.epochs.append(
            asdict(
                Epoch(epoch, state.step, state.train_bpd, state.valid_bpd, tuple(state.train_levels),
                      tuple(state.valid_levels), state.skipped)
            )
        )  # fmt: skip
        log.debug(
            "epoch_ended", stage=self.name, epoch=epoch, train_bpd=state.train_bpd, valid_bpd=state.valid_bpd,
            skipped=state.skipped,
        )  # fmt: skip
        if self.group.leads:
            self.save()
        self.group.wait()

    def save(self) -> None:
        """Write the checkpoint; a reader sees the old one or the new one, never half of one."""
        record = {
            "fingerprint": self.fingerprint,
            "flow": self.flow.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "state": vars(self.state),
        }
        with replacing(self.checkpoint) as draft:
            torch.save(record, draft)

    def resume(self) -> bool:
        """Go back to the checkpoint, if there is one; return whether there was.

        Raises
        ------
        ConfigurationError
            If the checkpoint is of another run, or damaged.
        """
        if not self.checkpoint.exists():
            return False
        try:
            # What is loaded goes to where the flow is; an optimiser's counters stay on the CPU, as they were.
            record: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            if record["fingerprint"] == self.fingerprint:
                self.flow.load_state_dict(record["flow"])
                self.average.load_state_dict(record["average"])
                self.optimiser.load_state_dict(record["optimiser"])
                self.state = _State(**record["state"])
                return True
        except torch.OutOfMemoryError:
            raise
        except (*_DAMAGED, UnpicklingError) as exc:
            raise ConfigurationError(
                f"{self.checkpoint} is damaged", remedy="delete it: training goes on from the stage before"
            ) from exc
        raise ConfigurationError(
            f"{self.checkpoint.parent.name} holds a run of other images, seed or preset",
            remedy=f"delete {self.checkpoint.parent} to start anew",
        )


def _smoothed(before: float, now: float) -> float:
    return now if math.isnan(before) else NORM_MEMORY * before + (1 - NORM_MEMORY) * now


def shifted(images: Pixels, most: int, rng: np.random.Generator) -> Pixels:
    """Shift every image by up to ``most`` pixels along each axis, repeating its edges."""
    size = images.shape[1:]
    padded = np.pad(images, [(0, 0), *(((most, most),) * len(size))], mode="edge")
    out = np.empty_like(images)
    for number, offsets in enumerate(rng.integers(0, 2 * most + 1, (len(images), len(size)))):
        window = tuple(slice(int(start), int(start) + n) for start, n in zip(offsets, size, strict=True))
        out[number] = padded[number][window]
    return out
