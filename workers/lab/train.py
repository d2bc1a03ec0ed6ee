"""From images to a bundle: base flow, normal flow, mixture flow, classifiers, calibration."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property

import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from triage.bundles import CLASSIFIER, GOLDEN, LOCAL, Bundle, made_beside, new_bundle_folder, write_bundle
from triage.calibration import Calibration
from triage.durable import replacing
from triage.errors import ConfigurationError, TrainingDivergedError
from triage.manifest import Manifest, Training
from workers.flows.classifiers import Classifiers
from workers.flows.glow import Glow, dequantise
from workers.flows.local_classifier import LocalClassifier
from workers.flows.measure import Measurer
from workers.flows.posterior import Posterior
from workers.flows.set_classifier import SetClassifier
from workers.flows.tensors import write
from workers.flows.transform import FlowGrid
from workers.flows.weights import save_flows
from workers.lab.calibrate import calibrate
from workers.lab.card import write_card
from workers.lab.claim import check_place, claimed, clear, kept, mark_made
from workers.lab.curves import StageRecord
from workers.lab.fit import Progress, Stage
from workers.lab.fit_classifier import fit_classifier
from workers.lab.fit_local import fit_local
from workers.lab.golden import make_golden
from workers.lab.image_set import ImageSet
from workers.lab.maps import MIN_NORMALS, make_mapper, write_maps
from workers.lab.parallel import current
from workers.lab.presets import Preset, Schedule
from workers.lab.rigour import write_record
from workers.lab.run import Run, Split, split

log = structlog.get_logger(__name__)

INITIAL_IMAGES = 256
"""Images of the data-dependent initialisation: coarse levels have few sites and need many images."""

DIVERGED = 2.0
"""A flow that needs so many times the bits of an image's plain grey values makes no bundle."""


def train(
    run: Run,
    report: Callable[[Progress], None],
    *,
    resume: bool = False,
    evaluate: Callable[[Measurer, Calibration], str] = lambda measure, calibration: "",
) -> Bundle:
    """Train both flows, calibrate them, and write the bundle; ``evaluate`` returns its card's section on performance.

    Raises
    ------
    ConfigurationError
        If anything is in the bundle's place, another process trains it, the images are too few, ``resume`` meets
        another run's checkpoints, or there are some and it isn't asked for.
    TrainingDivergedError
        If a flow is worse than none.
    """
    check_place(run.out)
    with claimed(run.checkpoints) if current().leads else nullcontext():
        return _train(run, report, resume=resume, evaluate=evaluate)


def _train(
    run: Run,
    report: Callable[[Progress], None],
    *,
    resume: bool,
    evaluate: Callable[[Measurer, Calibration], str],
) -> Bundle:
    new_bundle_folder(run.out)
    group = current()
    unfinished = bool(kept(run.checkpoints))
    if unfinished and not resume:
        raise ConfigurationError(
            f"{run.checkpoints} holds a training that did not end",
            remedy="go on with it by --resume, or delete that folder",
        )
    if resume and not unfinished:
        log.warning("nothing_to_resume", folder=str(run.checkpoints))
    group.wait()
    normal, mixture = split(run.normal, run), split(run.mixture, run)
    everything = Split(*(ImageSet.union(pair) for pair in zip(_parts(normal), _parts(mixture), strict=True)))
    fit = _Fitter(run, report, resume)
    flow_normal = fit.start(everything)
    flow_mixture = deepcopy(flow_normal)
    bpd_normal = fit("normal", flow_normal, normal, run.preset.flow)
    bpd_mixture = fit("mixture", flow_mixture, mixture, run.preset.flow)
    posterior = Posterior(flow_normal, flow_mixture)
    if not group.leads:
        group.wait()  # until the bundle is there
        return Bundle.open(run.out)
    parts = posterior.level_parts(run.grid(normal.valid.pixels))
    write_record(run.record, fit.records, *parts, references=len(mixture.calibration))
    fitted = _classifier_tensors(run, normal.not_held_out, mixture.not_held_out, report, resume)
    estimators = Estimators(posterior, fitted, run.preset)
    held_out = len(mixture.calibration) + (0 if run.calibration else len(normal.calibration))
    advance = _counted("calibration", held_out, report)
    measure = Measurer.of(posterior, estimators.classifiers, run.grid, advance)
    calibration = calibrate(
        measure,
        mixture.calibration,
        None if run.calibration else normal.calibration,
        name=f"{run.out.name} {run.version}",
        preset=run.preset,
    )
    training = Training(
        preset=run.preset.name,
        seed=run.seed,
        images_normal=len(normal.train),
        images_mixture=len(mixture.train),
        bits_per_dim_normal=round(bpd_normal, 6),
        bits_per_dim_mixture=round(bpd_mixture, 6),
        made_with=f"torch {torch.__version__}",
        data=run.data,
        acquisition_auc=run.acquisition_auc,
    )
    evaluation = evaluate(measure, calibration)
    for flow in (flow_normal, flow_mixture):
        flow.cpu()  # golden values are a CPU's
    report(Progress("maps", 0, 1))
    normals = _normals_for_maps(run, normal)
    bundle = _write(run, estimators, calibration, training, evaluation=evaluation, normals=normals)
    report(Progress("maps", 1, 1))
    clear(run.checkpoints)
    group.wait()
    return bundle


def _counted(stage: str, total: int, report: Callable[[Progress], None]) -> Callable[[int], None]:
    """Return what to call with how many more of ``total`` images are done."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(Progress(stage, done, max(total, done)))

    return advance


def _normals_for_maps(run: Run, normal: Split) -> ImageSet:
    """Return the normals by which relevance maps are standardised: unseen ones, or all where those are too few."""
    # A run's own calibration images are unlabelled: they are no normals. The classifiers saw the validation images.
    unseen = normal.valid if run.calibration else normal.calibration
    return unseen if len(unseen) >= MIN_NORMALS else ImageSet.union([normal.not_held_out, unseen])


def _parts(sets: Split) -> tuple[ImageSet, ImageSet, ImageSet]:
    return sets.train, sets.valid, sets.calibration


@dataclass(frozen=True)
class _Fitter:
    """Runs the stages of a run."""

    run: Run
    report: Callable[[Progress], None]
    resume: bool
    records: list[StageRecord] = field(default_factory=list)

    def start(self, images: Split) -> Glow:
        """Return the flow from which both start: initialised on all images, trained on them if the preset says so."""
        run, preset = self.run, self.run.preset
        flow = Glow(preset.architecture, seed=run.seed)
        coarse = [preset.architecture.model_copy(update={"grey_levels": n}) for n in preset.progression]
        flow.architecture = coarse[0] if coarse and preset.base.epochs else preset.architecture
        order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(run.seed))
        grey = self._grid(flow)(images.train.pixels[order[:INITIAL_IMAGES].numpy()])
        flow.to(run.device)
        v = torch.from_numpy(grey).to(run.device).unsqueeze(1).float()
        flow.initialise(dequantise(v, flow.architecture.grey_levels))
        if preset.base.epochs:
            for architecture in coarse:
                flow.architecture = architecture
                self(f"base at {architecture.grey_levels} grey levels", flow, images, preset.base)
            flow.architecture = preset.architecture
            self("base", flow, images, preset.base)
        return flow

    def _grid(self, flow: Glow) -> FlowGrid:
        return replace(self.run.grid, architecture=flow.architecture)

    def __call__(self, name: str, flow: Glow, images: Split, schedule: Schedule) -> float:
        """Train ``flow`` in place; return its validation bits/dim."""
        run = self.run
        stage = Stage(
            name=name,
            flow=flow,
            train=images.train,
            valid=images.valid,
            grid=self._grid(flow),
            schedule=schedule,
            seed=run.seed,
            checkpoint=run.checkpoints / f"{name.replace(' ', '-')}.checkpoint",
            fingerprint=run.fingerprint,
        )
        if self.resume and stage.resume():
            log.info("stage_resumed", stage=name, step=stage.state.step)
        bits = stage.run(self.report)
        self.records.append(stage.record)
        without = math.log2(flow.architecture.grey_levels)
        if not bits < DIVERGED * without:
            raise TrainingDivergedError(
                f"the {name} flow diverged: it needs {bits:.3g} bits a pixel, and {without:g} would do without it",
                remedy=f"lower the preset's learning rate, lengthen its warm-up, or look at the images; "
                f"and delete {run.checkpoints}",
            )
        return bits


@dataclass(frozen=True)
class Estimators:
    """What a bundle scores with, in memory; ``tensors`` are those of its classifiers, by the file they belong into."""

    posterior: Posterior
    tensors: dict[str, dict[str, Tensor]]
    preset: Preset

    @cached_property
    def classifiers(self) -> Classifiers:
        """The estimators beside the flows."""
        preset, cpu = self.preset, torch.device("cpu")
        return Classifiers(
            SetClassifier(preset.classifier.spec, self.tensors[CLASSIFIER], cpu) if preset.classifier else None,
            LocalClassifier(preset.local.spec, self.tensors[LOCAL], cpu) if preset.local else None,
        )


def _classifier_tensors(
    run: Run, normal: ImageSet, mixture: ImageSet, report: Callable[[Progress], None], resume: bool
) -> dict[str, dict[str, Tensor]]:
    """Fit the classifiers; an interrupted run that had fitted one finds it again."""
    preset, found = run.preset, {}

    def progress(stage: str) -> Callable[[int, int], None]:
        return lambda done, of: report(Progress(stage, done, of))

    def kept(stage: str, fit: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        path = run.checkpoints / f"{stage}.{run.fingerprint[:16]}.safetensors"
        if resume and path.exists():
            try:
                return load_file(path)
            except SafetensorError as exc:
                raise ConfigurationError(
                    f"{path} is damaged", remedy="delete it: training goes on from the stage before"
                ) from exc
        tensors = fit()
        with replacing(path) as draft:
            save_file(tensors, draft)
        return tensors

    seed, device = run.seed, run.device
    if (of_sets := preset.classifier) is not None:
        told = progress("classifier")
        found[CLASSIFIER] = kept(
            "classifier", lambda: fit_classifier(of_sets, normal, mixture, seed=seed, device=device, report=told)
        )
    if (local := preset.local) is not None:
        heard = progress("local")
        found[LOCAL] = kept("local", lambda: fit_local(local, normal, mixture, seed=seed, device=device, report=heard))
    return found


def _write(
    run: Run,
    estimators: Estimators,
    calibration: Calibration,
    training: Training,
    *,
    evaluation: str,
    normals: ImageSet,
) -> Bundle:
    preset, posterior = run.preset, estimators.posterior
    manifest = Manifest(
        name=run.out.name,
        version=run.version,
        modality=preset.modality,
        summary=run.summary,
        preprocessing=preset.preprocessing,
        transform=preset.transform,
        architecture=preset.architecture,
        classifier=preset.classifier.spec if preset.classifier else None,
        local=preset.local.spec if preset.local else None,
        training=training,
    )
    contents = {GOLDEN: make_golden(posterior, manifest, estimators.classifiers)} | estimators.tensors
    mapper = make_mapper(manifest, posterior, normals, classifiers=estimators.classifiers)
    with made_beside(run.out) as folder:
        save_flows(posterior.normal, posterior.mixture, folder)
        for file, tensors in contents.items():
            write(tensors, folder / file)
        if mapper is not None:
            write_maps(folder, mapper)
        made = write_bundle(folder, manifest, calibration, write_card(manifest, calibration, evaluation))
        mark_made(run.checkpoints, made.digest)
    return replace(made, folder=run.out)
