"""Learning curves: what every epoch of every stage came to, as a table and as a plot beside the bundle."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

mpl.use("Agg")

TABLE, PLOT = "curves.csv", "curves.png"


@dataclass(frozen=True)
class Epoch:
    """One epoch: bits per dimension in all and by level (finest first, each per its own latent dimensions)."""

    epoch: int
    step: int
    train_bpd: float
    valid_bpd: float
    train_levels: tuple[float, ...]
    valid_levels: tuple[float, ...]
    skipped: int


@dataclass(frozen=True)
class StageRecord:
    """What became of a stage.

    Attributes
    ----------
    name : str
        ``"base"``, ``"normal"``, ``"mixture"``.
    images, images_valid : int
        Trained and validated on.
    steps_planned, steps, skipped : int
        Of the schedule, taken until the stage ended, and left out because they would have derailed it.
    kept_epoch, kept_step : int
        Where the averaged weights that were kept come from.
    level_dimensions : tuple of int
        Latent dimensions of every level.
    epochs : tuple of Epoch
        The curve.
    """

    name: str
    images: int
    images_valid: int
    steps_planned: int
    steps: int
    skipped: int
    kept_epoch: int
    kept_step: int
    level_dimensions: tuple[int, ...]
    epochs: tuple[Epoch, ...]


def write_curves(folder: Path, records: Sequence[StageRecord]) -> None:
    """Write ``curves.csv`` and ``curves.png`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        levels = len(records[0].level_dimensions) if records else 0
        names = [f"{kind}_level{number}" for kind in ("train", "valid") for number in range(1, levels + 1)]
        table.writerow(["stage", "epoch", "step", "train_bpd", "valid_bpd", *names, "skipped_steps", "kept"])
        for record in records:
            for row in record.epochs:
                numbers = (row.train_bpd, row.valid_bpd, *row.train_levels, *row.valid_levels)
                kept = int(row.epoch == record.kept_epoch)
                table.writerow([record.name, row.epoch, row.step, *(f"{n:.6f}" for n in numbers), row.skipped, kept])
    _plot(records).savefig(folder / PLOT, format="png", dpi=110, metadata={"Software": None})


def _plot(records: Sequence[StageRecord]) -> Figure:
    """Draw total bits/dim above, and every level's below: training dashed, validation solid, kept weights dotted."""
    figure = Figure(figsize=(4.6 * max(1, len(records)), 6.4), layout="constrained")
    grid = figure.subplots(2, max(1, len(records)), squeeze=False)
    for column, record in enumerate(records):
        epochs = [row.epoch for row in record.epochs]
        above, below = grid[0, column], grid[1, column]
        above.plot(epochs, [row.train_bpd for row in record.epochs], "--", color="#3b7dd8", label="training")
        above.plot(epochs, [row.valid_bpd for row in record.epochs], "-", color="#d55e00", label="validation")
        above.set(title=f"{record.name} ({record.images} images)", ylabel="bits/dim")
        for level in range(len(record.level_dimensions)):
            line = f"C{level}"
            below.plot(epochs, [row.train_levels[level] for row in record.epochs], "--", color=line)
            below.plot(
                epochs, [row.valid_levels[level] for row in record.epochs], color=line, label=f"level {level + 1}"
            )
        below.set(xlabel="epoch", ylabel="bits/dim of the level's latents")
        for axes in (above, below):
            axes.axvline(record.kept_epoch, color="#777777", ls=":", lw=1)
            axes.legend(fontsize=8)
            axes.grid(visible=True, lw=0.4, alpha=0.5)
            axes.spines[["top", "right"]].set_visible(False)
    return figure
