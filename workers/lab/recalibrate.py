"""A bundle's calibration against a site's own images: same weights, another frozen reference."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from sklearn.metrics import roc_auc_score

from triage.bundles import Bundle, made_beside, new_bundle_folder, write_bundle
from triage.calibration import COMBINED, Calibration
from triage.errors import ConfigurationError, NotScoredError
from workers.flows.engine import Engine
from workers.flows.golden_check import require_golden
from workers.flows.posterior import coarse
from workers.lab.calibrate import FLAG_RATES, admissible, point_at
from workers.lab.evaluation.bootstrap import Mask, Scores
from workers.lab.evaluation.cases import Case, find_cases
from workers.lab.evaluation.labels import match, read_labels
from workers.lab.evaluation.metrics import flag_threshold
from workers.lab.probabilities import Method, least_labels, with_labels
from workers.lab.rigour import LEAST_REFERENCES

ENOUGH = 200
MARGIN = 0.4
FAR = 8.0


@dataclass(frozen=True)
class Site:
    """A bundle and a site's images.

    Attributes
    ----------
    bundle : Bundle
        The one to calibrate.
    cases : dict of str to Case
        Every image by its key; an image in both folders is there once.
    reference, normal : frozenset of str
        Keys of unlabelled images, and of reported normals.
    labels : dict of str to bool
        Key to whether the image is abnormal.
    prevalence : float or None
        Share of abnormal images where the bundle is used.
    method : str
        How labels become probabilities; see `workers.lab.probabilities.with_labels`.
    lost : tuple of str
        Rows of the labels that name no image, or more than one.
    """

    bundle: Bundle
    cases: dict[str, Case]
    reference: frozenset[str]
    normal: frozenset[str]
    labels: dict[str, bool]
    prevalence: float | None
    method: Method = "platt"
    lost: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """How many images there are to read."""
        return len(self.cases)

    @classmethod
    def find(
        cls,
        bundle: Bundle,
        reference: Sequence[str],
        normal: Sequence[str],
        labels: Path | None = None,
        *,
        prevalence: float | None = None,
        method: Method = "platt",
    ) -> Self:
        """Look up the images that options name.

        Raises
        ------
        ConfigurationError
            If there are none, or a table can't be used.
        """
        if prevalence is not None and labels is None:
            raise ConfigurationError("--prevalence corrects probabilities", remedy="give --labels CSV, too")
        if method != "platt" and labels is None:
            raise ConfigurationError("--probability makes labels into probabilities", remedy="give --labels CSV, too")
        cases: dict[str, Case] = {}
        keys: list[frozenset[str]] = []
        names_in: dict[str, set[str]] = {}
        known: dict[str, bool] = {}
        lost: list[str] = []
        for sources in (reference, normal):
            found: set[str] = set()
            for source in sources:
                here = find_cases([source], bundle.preprocessing, bundle.modality, captures=False)
                names = {_key(source, case): case for case in here}
                cases.update(names)
                found.update(names)
                names_in.setdefault(source.partition("?")[0], set()).update(names)
            keys.append(frozenset(found))
        if labels is not None:
            places = [(Path(source), [cases[name] for name in sorted(names)]) for source, names in names_in.items()]
            key_of = {id(case): key for key, case in cases.items()}
            matched = match(read_labels(labels), places)
            known = {key_of[id(image.case)]: not image.normal for image in matched.images}
            lost = matched.rows
        return cls(bundle, cases, keys[0], keys[1], known, prevalence, method, tuple(lost))


def _key(source: str, case: Case) -> str:
    return str(case.files[0].resolve()) if case.files else f"{Path(source.partition('?')[0]).resolve()}#{case.key}"


@dataclass(frozen=True)
class _Measured:
    """The images that could be read.

    Attributes
    ----------
    keys : list of str
        Theirs.
    estimates : dict of str to numpy.ndarray
        Estimators' values, (N,) each.
    quantities, averaged : list of dict of str to float
        What calibration checks of an image, and what of the mean over its views.
    coarse : numpy.ndarray
        (N, …): see `workers.flows.posterior.coarse`.
    refused : int
        How many could not be read, or are not what they should be.
    """

    keys: list[str]
    estimates: dict[str, Scores]
    quantities: list[dict[str, float]]
    averaged: list[dict[str, float]]
    coarse: Scores
    refused: int


def recalibrate(
    site: Site, out: Path, *, device: str = "auto", advance: Callable[[], None] = lambda: None
) -> tuple[Bundle, list[str]]:
    """Write the new bundle; return it and what its user should know. ``advance`` is called after each image.

    Raises
    ------
    ConfigurationError
        If ``out`` holds anything, the images are too few, or the labels contradict the scores.
    """
    new_bundle_folder(out)
    _check_enough(site)
    measured = _measure(site, device, advance)
    template, ranges, kept = _admitted(site, measured)
    combined = measured.estimates[COMBINED]
    reference, normal = (kept & np.isin(measured.keys, sorted(keys)) for keys in (site.reference, site.normal))
    count = int(reference.sum())
    old = site.bundle.calibration
    new = Calibration.model_validate(
        old.model_dump()
        | {
            "name": f"{out.resolve().name}: {count} unlabelled images of the site",
            "images": count,
            "reference": _sorted(combined[reference]),
            "references": {
                name: _sorted(values[reference]) for name, values in measured.estimates.items() if name != COMBINED
            },
            "normal_reference": _sorted(combined[normal]),
            "probability": None,
            "operating_points": (),
            "template": tuple(template.round(3).tolist()),
            "ranges": ranges,
        }
    )
    points = tuple(point_at(new, "flag_rate", rate, flag_threshold(combined[reference], rate)) for rate in FLAG_RATES)
    new = _with_labels(site, measured, kept, new.model_copy(update={"operating_points": points}))
    notes = _notes(site, measured, new, int((~kept).sum()))
    return _write(site.bundle, new, out, notes), notes


def _measure(site: Site, device: str, advance: Callable[[], None]) -> _Measured:
    """Read and score the images, a few at a time."""
    engine = Engine(site.bundle, device)
    require_golden(engine)
    keys: list[str] = []
    estimates: list[dict[str, Scores]] = []
    rows: list[dict[str, float]] = []
    averaged: list[dict[str, float]] = []
    grids: list[Scores] = []
    for key, case in site.cases.items():
        try:
            pixels = case.read()
        except NotScoredError:
            pass
        else:
            keys.append(key)
            measured = engine.measure(pixels[None])
            estimates.append(measured.estimates(site.bundle.calibration))
            rows.append(measured.quantities(0, pixels, engine.template))
            averaged.append(measured.averaged(0))
            grids.append(coarse(pixels))
        advance()
    if not keys:
        raise ConfigurationError("none of the images can be used", remedy="give images that the node would score")
    values = {name: np.concatenate([one[name] for one in estimates]) for name in estimates[0]}
    return _Measured(keys, values, rows, averaged, np.stack(grids), len(site.cases) - len(keys))


def _with_likeness(measured: _Measured, template: Scores) -> list[dict[str, float]]:
    """Return the quantities with the likeness to the site's own mean image."""
    rows: list[dict[str, float]] = []
    for row, grid in zip(measured.quantities, measured.coarse, strict=True):
        likeness = float(np.corrcoef(grid, template)[0, 1]) if np.ptp(grid) > 0 and np.ptp(template) > 0 else 0.0
        rows.append(row | ({"input.likeness": likeness} if "input.likeness" in row else {}))
    return rows


def _admitted(site: Site, measured: _Measured) -> tuple[Scores, dict[str, tuple[float, float]], Mask]:
    """Return the site's mean image, the admissible ranges, and which images are in them.

    The ranges come from images that are near enough to the others: one test pattern would stretch them until nothing is
    unlike. But every image that will have a score has to be among the references, or the next one like it would get a
    p-value that is too small.
    """
    plausible = _plausible(measured)
    wanted = plausible & np.isin(measured.keys, sorted(site.reference))
    _require(int(wanted.sum()), site)
    template = measured.coarse[wanted].mean(axis=0)
    rows = _with_likeness(measured, template)
    ranges = _ranges([row for row, inside in zip(rows, plausible, strict=True) if inside], site.bundle.calibration)
    draft = site.bundle.calibration.model_copy(update={"ranges": ranges})
    # A moved copy may explode where the image doesn't: that has no score, either.
    finite = np.isfinite(np.stack(list(measured.estimates.values()))).all(0)
    # As `Engine.score` does.
    reasons = [draft.check(row) or draft.check(row | mean) for row, mean in zip(rows, measured.averaged, strict=True)]
    return template, ranges, finite & np.array([not reason for reason in reasons])


def _check_enough(site: Site) -> None:
    """Refuse before anything is scored what would be refused after it."""
    _require(len(site.reference), site)
    abnormal = sum(site.labels.values())
    if site.labels:
        _require_labels(len(site.labels) - abnormal, abnormal, site)


def _require_labels(normal: int, abnormal: int, site: Site) -> None:
    least = least_labels(site.method)
    if min(normal, abnormal) < least:
        raise ConfigurationError(
            f"{normal} normal and {abnormal} other labelled images can have a score: probabilities "
            f"({site.method}) need {least} of either",
            remedy="label more images, or leave out --labels",
        )


def _require(count: int, site: Site) -> None:
    if count < LEAST_REFERENCES:
        raise ConfigurationError(
            f"{count} of {len(site.reference)} reference images can be scored: at least {LEAST_REFERENCES} are needed",
            remedy=f"give {ENOUGH} or more unlabelled images of this site",
        )


def _plausible(measured: _Measured) -> Mask:
    """Return which images are near enough to the others."""
    ok = np.ones(len(measured.keys), dtype=bool)
    for name in measured.quantities[0]:
        values = np.array([row[name] for row in measured.quantities])
        finite = np.isfinite(values)
        ok &= finite
        if finite.any():
            low, middle, high = np.percentile(values[finite], [25, 50, 75])
            ok &= np.abs(np.where(finite, values, middle) - middle) <= FAR * max(high - low, 1e-9)
    return ok


def _ranges(rows: Sequence[Mapping[str, float]], old: Calibration) -> dict[str, tuple[float, float]]:
    """Return what is admissible by the site's images or was before.

    A few dozen images, most of them normal, would else have the most abnormal ones refused.
    """
    found = admissible(rows, lambda quantity: MARGIN, old.log_prior)
    for name, (low, high) in old.ranges.items():
        found[name] = (min(low, found[name][0]), max(high, found[name][1]))
    return found


def _sorted(values: Scores) -> tuple[float, ...]:
    return tuple(sorted(values.tolist()))


def _labelled(site: Site, measured: _Measured, kept: Mask) -> tuple[Scores, Scores]:
    """Return the combined statistic of the labelled normal images, and of the labelled others."""
    combined = measured.estimates[COMBINED]
    pairs = [
        (value, site.labels[key])
        for value, key, ok in zip(combined.tolist(), measured.keys, kept, strict=True)
        if ok and key in site.labels
    ]
    parts = ([value for value, abnormal in pairs if abnormal == wanted] for wanted in (False, True))
    normal, abnormal = (np.array(part) for part in parts)
    return normal, abnormal


def _with_labels(site: Site, measured: _Measured, kept: Mask, calibration: Calibration) -> Calibration:
    """Add probabilities and thresholds by sensitivity, where the site has labels and they agree with the scores."""
    if not site.labels:
        return calibration
    normal, abnormal = _labelled(site, measured, kept)
    _require_labels(len(normal), len(abnormal), site)
    values, truth = np.r_[normal, abnormal], np.r_[np.zeros(len(normal), bool), np.ones(len(abnormal), bool)]
    if roc_auc_score(truth, values) < 0.5:
        raise ConfigurationError(
            "by these labels higher scores are more often normal: this bundle doesn't work on these images",
            remedy="check the labels, and run triage-node evaluate on them",
        )
    prevalence = site.prevalence or float(truth.mean())
    return with_labels(calibration, values, truth, prevalence=prevalence, method=site.method)


def _notes(site: Site, measured: _Measured, new: Calibration, far: int) -> list[str]:
    notes = [
        f"{new.images} unlabelled reference images, {len(new.normal_reference)} reported normals, "
        f"{len(site.labels)} labelled"
    ]
    if site.lost:
        notes.append(f"{len(site.lost)} rows of the labels name no image, e.g. {', '.join(site.lost[:2])}")
    if measured.refused:
        notes.append(f"{measured.refused} images were left out: the node would not score them")
    if far:
        notes.append(f"{far} images were left out: they are unlike all the others, and would have no score")
    if new.images < ENOUGH:
        notes.append(f"warning: {new.images} reference images make coarse percentiles; {ENOUGH} or more are better")
    if new.normal_reference and len(new.normal_reference) < ENOUGH:
        notes.append(f"the smallest p-value that {len(new.normal_reference)} reported normals allow is "
                     f"{1 / (len(new.normal_reference) + 1):.3f}")  # fmt: skip
    if new.probability:
        notes.append(
            f"probabilities assume that {100 * new.probability.assumed:.1f} % are abnormal "
            f"({100 * new.probability.prevalence:.1f} % of the labelled images are)"
        )
    return notes


def _write(bundle: Bundle, calibration: Calibration, out: Path, notes: Sequence[str]) -> Bundle:
    """Write a copy of the bundle with this calibration; its weights are the same bytes."""
    manifest = bundle.manifest.model_copy(update={"name": out.resolve().name})
    section = (
        f"\n## Calibrated again\nMade from {bundle.name} {bundle.version} (digest {bundle.digest}) by `models "
        "calibrate`: same weights, and percentiles against a site's own images. What is said above on how good it is "
        "and on its reference is about the original.\n\n" + "".join(f"- {note}\n" for note in notes)
    )
    with made_beside(out) as folder:
        for path in bundle.folder.glob("*.safetensors"):
            shutil.copyfile(path, folder / path.name)
        made = write_bundle(folder, manifest, calibration, bundle.card + section)
    return replace(made, folder=out)
