"""Fits the set classifier: normal set against mixture, told to ignore what a machine can do to an image.

The head is a ridge-regularised linear discriminant on frozen features. Beside the ridge it is penalised for every
direction in which features move when the *same* image is blurred, sharpened, re-windowed, shaded, noised, resampled,
turned or written on: without that penalty it learns which machine the sets come from. Artificial abnormalities, planted
into normal images, stand on the mixture's side and show where disease lies. All of it is measured by
tests/bench/estimators.py and tests/bench/robustness.py. The head is solved in closed form: a run needs no schedule, and
the same images give the same head.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import structlog
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from workers.flows.set_classifier import FeatureExtractor, Features
from workers.images.cxr import scaled, tones
from workers.lab.image_set import ImageSet, Pixels, share
from workers.lab.imagenet import frozen_blocks
from workers.lab.planted import planted
from workers.lab.presets import ClassifierRecipe

log = structlog.get_logger(__name__)

NORMAL, MIXTURE, PLANTED = range(3)
FOLDS = 5
#: Of the altered copies: shares that are turned, overexposed and written on, and how far they are turned.
TURNED, CLIPPED, WRITTEN_ON, MOST_DEGREES = 0.8, 0.3, 0.4, 9.0
LETTERS = "LRAPSUPINE0123456789:<>^"
_LEAST_SLOPE = 1e-3  # sets that can't be told apart still give a logit, of next to no weight

Report = Callable[[int, int], None]
Extract = Callable[[Pixels], Features]


@dataclass(frozen=True)
class Head:
    """A linear discriminant on standardised features: ``(features - mean) / scale @ weight``."""

    mean: Features
    scale: Features
    weight: Features

    def __call__(self, features: Features) -> Features:
        """Return the discriminant of (N, F) features, (N,)."""
        found: Features = (features - self.mean) / self.scale @ self.weight
        return found


@dataclass(frozen=True)
class Examples:
    """What a head is fitted to.

    Attributes
    ----------
    x : numpy.ndarray
        Features, (N, F).
    kind : numpy.ndarray
        `NORMAL`, `MIXTURE` or `PLANTED`, (N,).
    patients : numpy.ndarray
        Whose image it is, (N,).
    moved : numpy.ndarray
        By how much features moved when images were altered, (M, F).
    """

    x: Features
    kind: npt.NDArray[np.intp]
    patients: npt.NDArray[np.str_]
    moved: Features

    def select(self, wanted: npt.NDArray[np.bool_]) -> Self:
        """Return the examples where ``wanted`` is true."""
        return type(self)(self.x[wanted], self.kind[wanted], self.patients[wanted], self.moved)


def fit_classifier(
    recipe: ClassifierRecipe,
    normal: ImageSet,
    mixture: ImageSet,
    *,
    seed: int,
    device: torch.device,
    report: Report = lambda done, of: None,
    extract: Extract | None = None,
) -> dict[str, Tensor]:
    """Return the tensors of ``classifier.safetensors``: the frozen blocks, and the head whose output is a logit.

    Parameters
    ----------
    recipe : ClassifierRecipe
        The preset's.
    normal, mixture : ImageSet
        On the bundle's grid; they may share images.
    seed : int
        Of the altered copies.
    device : torch.device
        Where to compute features.
    report : callable
        Gets how many images were looked at, and of how many.
    extract : callable or None
        Gives an image's features, (F,), if somebody keeps them; None computes them.
    """
    blocks = frozen_blocks(recipe.spec.blocks[-1])
    everything = ImageSet.union([normal, mixture])
    chosen, copies = _copies(recipe, everything, seed)
    hosts, planted_copies = _planted(recipe, normal, seed)
    extract = extract or FeatureExtractor(recipe.spec, blocks, device)
    images = [*everything.pixels, *copies, *planted_copies]
    found: list[Features] = []
    for image in images:
        found.append(extract(image))
        report(len(found), len(images))
    features = np.stack(found)
    of_copies = features[len(everything) : len(everything) + len(copies)]
    where = {key: number for number, key in enumerate(everything.keys)}
    rows = np.array([where[key] for key in (*normal.keys, *mixture.keys)])
    examples = Examples(
        x=np.concatenate([features[rows], features[len(everything) + len(copies) :]]),
        kind=np.repeat([NORMAL, MIXTURE, PLANTED], [len(normal), len(mixture), len(hosts)]),
        patients=np.array([*normal.patients, *mixture.patients, *(normal.patients[host] for host in hosts)]),
        moved=of_copies - features[chosen],
    )
    head = solve(examples, recipe)
    slope, intercept = _to_logit(examples, recipe)
    log.info("classifier_fitted", images=len(everything), copies=len(copies) + len(hosts), slope=round(slope, 3))
    return blocks | {
        "head.mean": torch.from_numpy(head.mean),
        "head.scale": torch.from_numpy(head.scale),
        "head.weight": torch.from_numpy(head.weight * slope),
        "head.bias": torch.tensor([intercept], dtype=torch.float64),
    }


def solve(examples: Examples, recipe: ClassifierRecipe) -> Head:
    """Fit the discriminant; normal set and everything else weigh the same, however many images they hold."""
    x, kind = examples.x, examples.kind
    mean, scale = x.mean(0), x.std(0)
    scale = scale + 1e-3 * float(scale.max()) + 1e-12
    z = (x - mean) / scale
    planted_share = recipe.planted if (kind == PLANTED).any() else 0.0
    shares = {NORMAL: 0.5, MIXTURE: 0.5 * (1 - planted_share), PLANTED: 0.5 * planted_share}
    weights = sum(((kind == k) * (share / max((kind == k).sum(), 1)) for k, share in shares.items()), np.zeros(len(x)))
    centred = z - weights @ z
    spread = (centred * weights[:, None]).T @ centred
    penalty = recipe.ridge * np.trace(spread) / len(spread) * np.eye(len(spread))
    if len(examples.moved):
        steps = examples.moved / scale
        penalty += recipe.invariance * steps.T @ steps / len(steps)
    sides = np.where(kind == NORMAL, -1.0, 1.0)
    return Head(mean, scale, np.linalg.solve(spread + penalty, centred.T @ (weights * sides)))


def _to_logit(examples: Examples, recipe: ClassifierRecipe) -> tuple[float, float]:
    """Return slope and intercept that make the head a logit at equal priors, judged on patients it wasn't fitted on."""
    folds = np.array([int(share(patient, "classifier fold") * FOLDS) for patient in examples.patients])
    real = examples.kind != PLANTED
    values = np.full(len(folds), math.nan)
    for fold in range(FOLDS):
        held = folds == fold
        if {NORMAL, MIXTURE} <= set(examples.kind[~held]):
            values[held] = solve(examples.select(~held), recipe)(examples.x[held])
    known = np.isfinite(values) & real
    in_mixture = examples.kind[known] == MIXTURE
    if not known.any() or len(set(in_mixture)) < 2:
        return _LEAST_SLOPE, 0.0
    spread = float(values[known].std()) or 1.0
    model = LogisticRegression(C=1.0, class_weight="balanced")
    model.fit(values[known, None] / spread, in_mixture)
    return max(float(model.coef_[0, 0]) / spread, _LEAST_SLOPE), float(model.intercept_[0])


def _planted(recipe: ClassifierRecipe, normal: ImageSet, seed: int) -> tuple[list[int], list[Pixels]]:
    """Return copies of normal images with artificial abnormalities, and whose copies they are."""
    if not recipe.planted:
        return [], []
    order = sorted(range(len(normal)), key=lambda number: share(normal.keys[number], f"planted {seed}"))
    chosen = order[: recipe.hosts] * recipe.plantings
    rng = np.random.default_rng(seed)
    return chosen, [planted(normal.pixels[number], rng, recipe.grey_levels) for number in chosen]


def _copies(recipe: ClassifierRecipe, images: ImageSet, seed: int) -> tuple[npt.NDArray[np.intp], list[Pixels]]:
    """Return altered copies of some of the images, and which image each is a copy of."""
    order = sorted(range(len(images)), key=lambda number: share(images.keys[number], f"copies {seed}"))
    chosen = order[: recipe.copied] * recipe.copies
    rng = np.random.default_rng(seed)
    copies = [altered(images.pixels[number], rng, recipe.grey_levels) for number in chosen]
    return np.array(chosen, dtype=np.intp), copies


def altered(pixels: Pixels, rng: np.random.Generator, grey_levels: int) -> Pixels:
    """Return the image as another machine might have delivered it.

    Parameters
    ----------
    pixels : numpy.ndarray
        uint8, (H, W) or (D, H, W).
    rng : numpy.random.Generator
        Draws the alterations.
    grey_levels : int
        Grey values are below it.
    """
    flat = pixels.ndim == 2
    image = _through_machine(pixels, rng, grey_levels)
    if rng.uniform() < TURNED:
        degrees, mode = (
            rng.uniform(-MOST_DEGREES, MOST_DEGREES),
            "nearest" if flat and rng.uniform() < 0.3 else "constant",
        )
        image = ndimage.rotate(image, degrees, axes=(-1, -2), reshape=False, order=1, mode=mode)
    if flat and rng.uniform() < CLIPPED:
        image = _clipped(image, rng, grey_levels)
    found: Pixels = np.clip(np.rint(image), 0, grey_levels - 1).astype(np.uint8)
    return _written_on(found, rng) if flat and rng.uniform() < WRITTEN_ON else found


def _through_machine(pixels: Pixels, rng: np.random.Generator, grey_levels: int) -> Features:
    """Return the image after another machine's sharpness, greys, shading, noise and cut."""
    image = pixels.astype(np.float64)
    plane = (0.0,) * (pixels.ndim - 2) + (1.0, 1.0)
    kind = rng.uniform()
    if kind < 0.4:
        image = ndimage.gaussian_filter(image, np.multiply(plane, rng.uniform(0.3, 1.2)))
    elif kind < 0.6:
        image += rng.uniform(0.3, 1.2) * (image - ndimage.gaussian_filter(image, plane))
    if pixels.ndim == 2:  # a CT's grey values are Hounsfield units, no matter of taste
        low, wide = float(image.min()), max(float(np.ptp(image)), 1e-3)
        image = ((image - low) / wide).clip(0, 1) ** rng.uniform(0.7, 1.4) * wide
        y, x = (np.linspace(-1, 1, n) for n in image.shape)
        shade = rng.uniform(-0.12, 0.12, 2)
        image *= 1 + shade[0] * x[None, :] + shade[1] * y[:, None] + rng.uniform(-0.1, 0.1) * (x**2 + y[:, None] ** 2)
    else:
        image = np.where(image > 0, image * rng.uniform(0.97, 1.03) + rng.uniform(-1.5, 1.5), image)
    image += rng.normal(0, rng.uniform(0, 0.02 * grey_levels), image.shape)
    most = max(1, round(0.03 * pixels.shape[-1]))
    (top, bottom), (left, right) = rng.integers(0, most + 1, (2, 2))
    cut = image[..., top : image.shape[-2] - bottom, left : image.shape[-1] - right]
    factors = [n / m for n, m in zip(pixels.shape, cut.shape, strict=True)]
    resized: Features = np.clip(ndimage.zoom(cut, factors, order=1), 0, grey_levels - 1)
    return resized


def _clipped(image: Features, rng: np.random.Generator, grey_levels: int) -> Features:
    """Return the image overexposed, its greys then standardised again as the node does."""
    top = grey_levels - 1
    bright = np.clip(image * rng.uniform(1, 1.3), 0, top)
    low, median, high = tones(bright)
    standard: Features = scaled(bright, low, median, max(high, low + 1e-3)).astype(np.float64) * top
    return standard


def _written_on(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Return a radiograph with letters, times and arrows burned in, mostly along its edges."""
    picture = Image.fromarray(image)
    draw, side = ImageDraw.Draw(picture), min(image.shape)
    for _ in range(rng.integers(1, 4)):
        font = ImageFont.load_default(size=max(6, int(rng.integers(side // 20, side // 9 + 1))))
        text = "".join(rng.choice(list(LETTERS), rng.integers(1, 9)))
        place = rng.uniform(0, 0.85, 2)
        if rng.uniform() < 0.8:
            place[rng.integers(2)] = rng.choice([rng.uniform(0, 0.14), rng.uniform(0.82, 0.93)])
        x, y = place * side
        draw.text((float(x), float(y)), text, fill=int(rng.choice([0, 200, 255, 255, 255])), font=font)
    return np.array(picture)
