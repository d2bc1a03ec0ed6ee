"""Calibration: what a bundle's estimators make of held-out images is what scores are measured against."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import structlog

from triage.calibration import COMBINED, FLOWS, Calibration, OperatingPoint, Term
from triage.errors import ConfigurationError
from workers.flows.measure import Measured, Measurer
from workers.flows.posterior import coarse
from workers.lab.evaluation.metrics import flag_threshold
from workers.lab.image_set import ImageSet
from workers.lab.presets import Preset
from workers.lab.weigh import weighed

log = structlog.get_logger(__name__)

FLAG_RATES = (0.05, 0.1, 0.2)
#: With fewer held-out images of either set to weigh them by, the estimators stay weighed as the preset says.
LEAST_WEIGHING = 30

Numbers = npt.NDArray[np.float64]


def calibrate(
    measure: Measurer, images: ImageSet, normals: ImageSet | None, *, name: str, preset: Preset
) -> Calibration:
    """Make the calibration of a bundle's estimators, without labels.

    Parameters
    ----------
    measure : Measurer
        The estimators.
    images : ImageSet
        Unlabelled, on the bundle's grid, of patients that no estimator was trained on.
    normals : ImageSet or None
        Reported normal, likewise. P-values are against them; where they are enough, half of them weigh the estimators
        instead, for p-values hold only against images that decided nothing.
    name : str
        Of the bundle; the reference's says how many images are in it, too.
    preset : Preset
        The estimators' and the levels' weights, and how far ranges reach beyond the reference.
    """
    images, measured = _finite(measure, images)
    template = np.mean([coarse(image) for image in images.pixels], axis=0)
    rows = [measured.quantities(number, image, template) for number, image in enumerate(images.pixels)]
    log_prior = None
    if preset.normal_share is not None:
        log_prior = (math.log(preset.normal_share[0]), math.log(preset.normal_share[1]))
    found = _by_estimator(preset, measured)
    unknown = ~np.isin(images.looks, normals.looks if normals else ())
    mixture = {of: numbers[unknown] for of, numbers in found.items()}
    terms, normals = _weighed(_terms(preset, found), mixture, normals, measure, preset)
    draft = Calibration(
        name=f"{name}: {len(images)} held-out unlabelled images",
        images=len(images),
        weights=preset.weights,
        combination=terms,
        pooling=preset.pooling,
        reference=(0.0, 0.0),
        log_prior=log_prior,
        template=tuple(template.round(3).tolist()),
        ranges=admissible(rows, preset.margin_of, log_prior),
    )
    by_estimator = measured.estimates(draft)
    reference = np.sort(by_estimator.pop(COMBINED))
    normal_reference: list[float] = []
    if normals:
        normal_reference = np.sort(_finite(measure, normals)[1].estimates(draft)[COMBINED]).tolist()
    whole = draft.model_copy(
        update={
            "reference": tuple(reference.tolist()),
            "references": {key: tuple(np.sort(values).tolist()) for key, values in by_estimator.items()},
            "normal_reference": tuple(normal_reference),
        }
    )
    points = tuple(point_at(whole, "flag_rate", rate, flag_threshold(reference, rate)) for rate in FLAG_RATES)
    return Calibration.model_validate(whole.model_copy(update={"operating_points": points}).model_dump())


def _finite(measure: Measurer, images: ImageSet) -> tuple[ImageSet, Measured]:
    """Measure images; return those that can have a score, for all of their numbers are finite, and these."""
    measured = measure(images.pixels)
    good = measured.finite
    if not good.all():
        log.warning("not_calibrated_on", images=int((~good).sum()), reason="not all of their numbers are finite")
    if not good.any():
        raise ConfigurationError(
            f"none of {len(images)} images to calibrate on has a score", remedy="look whether they are of this modality"
        )
    return images.select(good.tolist()), measured.select(good)


def point_at(calibration: Calibration, kind: str, target: float, threshold: float) -> OperatingPoint:
    """Return the operating point at a threshold of the combined statistic."""
    percentile = calibration.percentile(threshold)
    return OperatingPoint.model_validate(
        {"kind": kind, "target": target, "threshold": threshold, "percentile": percentile}
    )


def _weighed(
    terms: dict[str, Term], mixture: dict[str, Numbers], normals: ImageSet | None, measure: Measurer, preset: Preset
) -> tuple[dict[str, Term], ImageSet | None]:
    """Weigh the estimators by half of the normals, if they are enough; return the others: no patient is in both."""
    if normals is None or len(terms) < 2:
        return terms, normals
    chosen, others = normals.divided(0.5, "weighing")
    if min(len(chosen), len(others), len(next(iter(mixture.values())))) < LEAST_WEIGHING:
        return terms, normals
    return weighed(terms, _by_estimator(preset, _finite(measure, chosen)[1]), mixture, preset.pooling), others


def _by_estimator(preset: Preset, measured: Measured) -> dict[str, Numbers]:
    """Return the values of the estimators that are combined; none where the flows are alone."""
    values, levels = measured.values, measured.levels
    if not values[0]:
        return {}
    flows = (levels[1] - levels[0]).mean(1) @ np.asarray(preset.weights)
    return {
        name: flows if name == FLOWS else np.array([row[name] for row in values])
        for name in preset.combination
        if name == FLOWS or name in values[0]
    }


def _terms(preset: Preset, found: Mapping[str, Numbers]) -> dict[str, Term]:
    terms: dict[str, Term] = {}
    for name, weight in preset.combination.items():
        if name in found:
            low, middle, high = np.percentile(found[name], [16, 50, 84])
            terms[name] = Term(centre=float(middle), spread=max(float(high - low) / 2, 1e-9), weight=weight)
    return terms


def admissible(
    rows: Sequence[Mapping[str, float]],
    margin_of: Callable[[str], float],
    log_prior: tuple[float, float] | None,
) -> dict[str, tuple[float, float]]:
    """Return the range of every quantity in which an image is not unlike those of ``rows``.

    Both ends count: what is far more abnormal than any image of the reference is unlike them, too, and unscored images
    stay in arrival order.

    Parameters
    ----------
    rows : sequence of mapping of str to float
        The quantities of the reference's images.
    margin_of : callable
        How far a quantity's range reaches beyond the extremes, in units of their distance.
    log_prior : (float, float) or None
        Ratios down to the bound of exact densities are never unlike.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for quantity in rows[0]:
        values = [row[quantity] for row in rows]
        low, high = min(values), max(values)
        reach = margin_of(quantity) * (high - low)
        ranges[quantity] = (low - reach, high + reach)
    if log_prior is not None:
        low, high = ranges["ratio"]
        ranges["ratio"] = (min(low, log_prior[0]), high)
    return ranges
