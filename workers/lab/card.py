"""The card of a bundle: what it was made from, how good it is, and what it must not be used for."""

from triage.calibration import Calibration
from triage.manifest import Manifest
from workers.images.level import MAX_SHIFT_HU

MUST_NOT = """## What it must not be used for
- Not a medical device. Research use only: never for a diagnosis, and never to leave an image unread or to delay it.
- Its percentile orders a list. A low percentile does not mean that an image is normal.
- Not for images of another kind than it was trained on: other ages, body parts, views, modalities or processing.
"""


def write_card(manifest: Manifest, calibration: Calibration, evaluation: str = "") -> str:
    """Return ``card.md``; ``evaluation`` is its section on measured performance, if there is one."""
    training, architecture = manifest.training, manifest.architecture
    parts = [
        f"# {manifest.name} {manifest.version}\n",
        f"{manifest.summary}\n" if manifest.summary else "",
        "## What it is\n"
        f"Two Glow flows on a {' × '.join(map(str, architecture.size))} grid with {architecture.grey_levels} grey "
        f"levels, {architecture.levels} levels of {architecture.depth} steps, widths "
        f"{', '.join(map(str, architecture.widths))}; "
        f"made by preset `{training.preset}`, seed {training.seed}, {training.made_with}.\n"
        f"Trained on {training.images_normal} normal and {training.images_mixture} unlabelled images; "
        f"validation bits/dim {training.bits_per_dim_normal:.3f} (normal) and "
        f"{training.bits_per_dim_mixture:.3f} (mixture).\n{_heads(manifest)}{_validated(manifest)}"
        f"{_acquisition(training.acquisition_auc)}",
        _second(manifest),
        _third(manifest),
        _percentile(calibration, manifest.transform.views),
        evaluation
        or "## How good it is\nNot evaluated yet. Evaluate it on local images before you look at its order.\n",
        MUST_NOT,
    ]
    rows = [f"- {source.name}. Licence: {source.licence}. Credit: {source.credit}" for source in training.data]
    parts.append("## Data\n" + ("\n".join(rows) or "Whose images these were was not told to `train`.") + "\n")
    return "\n".join(part for part in parts if part)


def _heads(manifest: Manifest) -> str:
    """Return what is done to a head CT first."""
    grid = manifest.preprocessing
    done = [
        "straightened if they lie turned" if grid.straighten else "",
        f"brought to a brain density of {grid.brain_hu:g} HU (by {MAX_SHIFT_HU:g} HU at most)"
        if grid.brain_hu is not None
        else "",
        f"smoothed by {grid.smooth_mm:g} mm within slices" if grid.smooth_mm else "",
    ]
    return f"Heads are first {', '.join(filter(None, done))}.\n" if any(done) else ""


def _validated(manifest: Manifest) -> str:
    if manifest.classifier is None and manifest.local is None:
        return ""
    return "The other estimators learned from the validation images, too: they need none.\n"


def _acquisition(auc: float | None) -> str:
    if auc is None:
        return ""
    return (
        f"Header fields, borders and noise alone told the normal set from the mixture with AUC {auc:.2f} (0.5: not at "
        "all; above 0.6 the flows may have learned the machine instead of the disease).\n"
    )


def _second(manifest: Manifest) -> str:
    spec = manifest.classifier
    if spec is None:
        return ""
    return (
        "A second estimator, the set classifier, tells the normal set from the mixture by a linear head on "
        f"{' and '.join(spec.statistics)} of blocks {', '.join(map(str, spec.blocks))} of EfficientNet-Lite0 (frozen; "
        "trained on ImageNet; Apache-2.0). Its head is penalised for reacting to blur, noise, windowing and shading, "
        "and was shown artificial abnormalities planted into normal images, so its figures on other planted ones are "
        "partly circular. No label of a disease was used.\n"
    )


def _third(manifest: Manifest) -> str:
    spec = manifest.local
    if spec is None:
        return ""
    planted = (
        "opacities were among these, so its figures on other planted opacities are partly circular."
        if manifest.modality == "CXR"
        else "these were artificial blood within the skull. Each slice is compared with the same slice of normal heads "
        "that the network wasn't trained on; nothing outside the skull counts."
    )
    return (
        f"A third estimator, the local classifier, is {spec.members} small network(s) that mark at every place of an "
        "image (or slice) what looks planted into a normal one. They were trained on normal and unlabelled images, "
        f"half of them with artificial abnormalities; {planted} No label of a disease was used.\n"
    )


def _bound(calibration: Calibration) -> str:
    ratios = calibration.references.get("plain_ratio", ())
    if calibration.log_prior is None or not ratios:
        return ""
    low = calibration.log_prior[0]
    return (
        f"{sum(ratio < low for ratio in ratios)} of {len(ratios)} reference images have a plain ratio below {low:.1f} "
        "nats, where exact densities never are: it ranks, and is no log posterior before it is calibrated.\n"
    )


def _percentile(calibration: Calibration, views: int) -> str:
    flows = (
        "the sum over levels of log p(x) - log p(x|normal) with weights "
        f"{', '.join(map(str, calibration.weights))} (finest level first)"
    ) + (f", a mean over the image and {views - 1} slightly moved copies of it" if views > 1 else "")
    terms = ", ".join(f"{name} {term.weight:g}" for name, term in calibration.combination.items())
    how = {
        "logarithmic": "standardised and weighed",
        "linear": "standardised, their ratios averaged by weight (one that is sure is heard)",
    }
    statistic = f"the estimators, {how[calibration.pooling]}: {terms}; flows is {flows}" if terms else flows
    normals = (
        f"P-values are against {len(calibration.normal_reference)} held-out images reported normal, which had no part "
        "in weighing the estimators. They hold where images come as these came: on normal images of another site they "
        "were too small in a test, and models calibrate --normal gives a site its own.\n"
        if calibration.normal_reference
        else ""
    )
    return (
        f"## What its percentile means\nThe share of the reference that looks less abnormal, by {statistic}.\n"
        f"The reference is {calibration.images} unlabelled images of patients on whom no estimator was trained. "
        f"Whatever lies far outside of its range is not scored.\n{_bound(calibration)}{normals}"
    )
