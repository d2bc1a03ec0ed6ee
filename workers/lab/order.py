"""A training run as it was ordered on the command line: sets, probe, training, and what is said about them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import typer

from triage.errors import ConfigurationError
from triage.manifest import DataSource
from workers.lab import rsna as challenge
from workers.lab.acquisition import Loaded, Raw
from workers.lab.claim import check_place
from workers.lab.fit import Progress
from workers.lab.image_set import ImageSet, linked
from workers.lab.images import check_names, load, load_whole
from workers.lab.options import changed
from workers.lab.parallel import Group, join, leave
from workers.lab.presets import Preset, find_preset
from workers.lab.probe import MATCH, Acquisition, probe, probed
from workers.lab.progress import counting, show_progress
from workers.lab.rigour import read_record, update_record
from workers.lab.run import Run
from workers.lab.stopping import stoppable
from workers.lab.train import train as train_bundle


@dataclass(frozen=True, kw_only=True)
class Order:
    """The options of `triage-node train`."""

    preset: str
    modality: str
    normal: tuple[str, ...]
    mixture: tuple[str, ...]
    rsna: Path | None
    calibration: tuple[str, ...]
    exclude: tuple[str, ...]
    data: tuple[str, ...]
    settings: tuple[str, ...]
    out: Path
    seed: int
    device: str
    threads: int
    resume: bool
    probe: bool
    strict: bool

    def carry_out(self) -> None:
        """Train; every process of a group runs this, the one that leads talks.

        Raises
        ------
        ConfigurationError
            If options contradict, sets can't be used, or strictly matched sets aren't.
        """
        recipe = changed(find_preset(self.preset), self.settings)
        if self.modality and recipe.modality != self.modality.upper():
            raise ConfigurationError(f"preset {self.preset} is for {recipe.modality.lower()}, not {self.modality}")
        if self.rsna and (self.normal or self.mixture):
            raise ConfigurationError("--rsna makes both sets", remedy="leave out --normal and --mixture, or --rsna")
        data = self._data_sources()  # what is wrong is told before any image is read
        check_names([*self.normal, *self.mixture, *self.calibration, *self.exclude])
        check_place(self.out)
        if self.strict and not self.probe:
            raise ConfigurationError("--strict-acquisition needs the probe", remedy="leave out --no-probe")
        if self.threads:
            torch.set_num_threads(self.threads)
        group, place = join(self.device)
        try:
            with stoppable(self.out, tells=group.leads):
                self._train(recipe, data, group, place)
        finally:
            leave()

    def _data_sources(self) -> tuple[DataSource, ...]:
        """Return whose images these are."""
        sources = []
        for text in self.data:
            parts = [part.strip() for part in text.split(";")]
            if len(parts) != 3 or not all(part and part.isprintable() for part in parts):
                raise ConfigurationError(
                    f"--data {text!r} is not a name, a licence and a credit",
                    remedy="give --data 'NAME; LICENCE; CREDIT', each of printable characters",
                )
            sources.append(DataSource(name=parts[0], licence=parts[1], credit=parts[2]))
        return (*sources, *(challenge.SOURCES if self.rsna else ()))

    def _train(self, recipe: Preset, data: tuple[DataSource, ...], group: Group, place: torch.device) -> None:
        probing = self.probe and group.leads
        if self.rsna:
            sets = _rsna_sets(self.rsna, recipe, group)
        else:
            sets = _sets(self.normal, self.mixture, recipe, with_raw=probing)
        others = (_images(of, recipe) for of in (self.calibration, self.exclude))
        normal, mixture, own, kept_out = linked([*(one.images for one in sets), *others])
        excluded = frozenset(kept_out.patients)
        if group.leads and excluded:
            counts = [sum(patient in excluded for patient in images.patients) for images in (normal, mixture)]
            typer.echo(f"kept out: {counts[0]} normal and {counts[1]} mixture images of excluded patients", err=True)
        found = None
        if probing:
            raw = (_raw(one, images, excluded) for one, images in zip(sets, (normal, mixture), strict=True))
            found = look(*raw, seed=self.seed, strict=self.strict)
        del sets  # images as they came may be many times what they are on the grid
        run = Run(
            preset=recipe,
            normal=normal,
            mixture=mixture,
            calibration=own if len(own) else None,
            excluded=excluded,
            out=self.out.resolve(),
            data=data,
            seed=self.seed,
            device=place,
            acquisition_auc=round(found.auc, 4) if found and found.auc is not None else None,
        )
        with _shown(group) as report:
            bundle = train_bundle(run, report, resume=self.resume)
        if not group.leads:
            return
        if found:
            update_record(run.record, {"acquisition": found.as_dict()})
        for warning in read_record(run.record).get("warnings", []):
            typer.echo(f"warning: {warning}", err=True)
        typer.echo(f"made {bundle.name} {bundle.version} in {self.out}, digest {bundle.digest}")
        typer.echo(f"learning curves: {run.record}")


def _raw(loaded: Loaded, images: ImageSet, excluded: frozenset[str]) -> list[Raw]:
    """Return images as they came, each known by its look on the grid: a picture that was saved anew is the same."""
    each = zip(images.keys, images.looks, images.patients, strict=True)
    return [replace(loaded.raw[key], identity=look) for key, look, patient in each if patient not in excluded]


def _images(sources: Sequence[str], recipe: Preset) -> ImageSet:
    if not sources:
        return ImageSet(np.empty((0, *recipe.preprocessing.size), np.uint8), (), ())
    return load(sources, recipe.preprocessing, recipe.modality)


def _sets(normal: Sequence[str], mixture: Sequence[str], recipe: Preset, *, with_raw: bool) -> tuple[Loaded, Loaded]:
    if not normal or not mixture:
        raise ConfigurationError(
            "training needs a normal set and a mixture", remedy="give --normal DIR and --mixture DIR, or --rsna DIR"
        )

    def loaded(sources: Sequence[str]) -> Loaded:
        return load_whole(sources, recipe.preprocessing, recipe.modality, with_raw=with_raw)

    return loaded(normal), loaded(mixture)


def _rsna_sets(folder: Path, recipe: Preset, group: Group) -> tuple[Loaded, Loaded]:
    if recipe.modality != "CXR":
        raise ConfigurationError(f"--rsna holds chest radiographs; preset {recipe.name} is for {recipe.modality}")
    sets = challenge.divide(challenge.read_rsna(folder)).there()
    if group.leads:
        typer.echo(str(sets), err=True)
    images = len({*sets.normal, *sets.mixture})
    with counting("reading", images) if group.leads else nullcontext(lambda: None) as advance:
        return challenge.training_sets(sets, recipe.preprocessing, advance)


def look(normal: list[Raw], mixture: list[Raw], *, seed: int, strict: bool = False) -> Acquisition:
    """Run the acquisition probe with a progress bar and say what it found.

    Raises
    ------
    ConfigurationError
        If ``strict`` and the sets can be told apart by what isn't medicine.
    """
    with counting("probing", probed(normal, mixture, seed=seed)) as advance:
        found = probe(normal, mixture, seed=seed, advance=advance)
    if found.suspicious and strict:
        raise ConfigurationError(str(found), remedy=MATCH)
    typer.echo(f"{'warning: ' if found.suspicious else ''}{found}", err=True)
    if found.suspicious:
        typer.echo(f"  try: {MATCH}", err=True)
    return found


@contextmanager
def _shown(group: Group) -> Iterator[Callable[[Progress], None]]:
    if group.leads:
        with show_progress() as report:
            yield report
    else:
        yield lambda progress: None
