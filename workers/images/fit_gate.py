"""Makes ``gate_cxr.npz``: ``python -m workers.images.fit_gate CHEST.npz... --heads HEADS.npz``.

Chests are the positives. Negatives are what chests and head CTs can be turned into (upside down, on their side,
inverted, cut to a quarter, projected heads, single slices) and drawn patterns. No real impostor is used, so that real
ones (other body parts, CT, MR, test patterns) stay a fair test.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from triage.errors import NotScoredError
from workers.images.cxr import cxr_tensor
from workers.images.gate_cxr import SIDE, ChestGate, edge_directions, projected

COMPONENTS = 32
HELD_OUT = 0.3
#: Share of held-out chests that may be refused.
REFUSED = 0.006
TURNED = 150

Picture = npt.NDArray[np.float32]
Features = npt.NDArray[np.float64]


def main() -> None:
    """Fit the gate and write it beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chests", nargs="+", type=Path)
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("gate_cxr.npz"))
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    chests = [np.load(path, allow_pickle=False)["x"] for path in arguments.chests]
    heads = np.load(arguments.heads, allow_pickle=False)["x"]
    positives = _features(_as_pictures(x) for x in chests)
    negatives = _features([_turned(x, rng) for x in chests] + [_of_heads(heads), _patterns(rng)])
    order = rng.permutation(len(positives))
    held = order[: int(HELD_OUT * len(order))]
    gate = fit(np.delete(positives, held, axis=0), negatives, positives[held])
    numbers = {k: np.asarray(v, dtype=np.float32) for k, v in vars(gate).items()}
    np.savez_compressed(arguments.out, allow_pickle=False, **numbers)


def fit(chests: Features, others: Features, held_out: Features) -> ChestGate:
    """Fit the classifier and set its threshold on chests that it hasn't seen."""
    mean = chests.mean(axis=0)
    _, singular, directions = np.linalg.svd(chests - mean, full_matrices=False)
    components, deviations = directions[:COMPONENTS], singular[:COMPONENTS] / np.sqrt(len(chests))
    inputs = projected(np.vstack([chests, others]), mean, components, deviations)
    shift, scale = inputs.mean(axis=0), inputs.std(axis=0)
    labels = np.r_[np.ones(len(chests)), np.zeros(len(others))]
    model = LogisticRegression(C=0.02, max_iter=1000, class_weight="balanced").fit((inputs - shift) / scale, labels)
    weights, bias = model.coef_[0], np.float64(model.intercept_[0])
    scores = (projected(held_out, mean, components, deviations) - shift) / scale @ weights + bias
    return ChestGate(
        mean=mean, components=components, deviations=deviations, shift=shift, scale=scale,
        weights=weights, bias=np.asarray(bias), threshold=np.asarray(np.quantile(scores, REFUSED)),
    )  # fmt: skip


def _features(sources: Iterator[Iterator[Picture]] | list[Iterator[Picture]]) -> Features:
    found = []
    for source in sources:
        for picture in source:
            try:
                tensor = cxr_tensor(np.ascontiguousarray(picture, dtype=np.float32), (SIDE, SIDE))
            except NotScoredError:
                continue
            found.append(edge_directions(tensor))
    return np.stack(found)


def _as_pictures(images: npt.NDArray[np.uint8]) -> Iterator[Picture]:
    for image in images:
        yield image.astype(np.float32) / 255


def _turned(images: npt.NDArray[np.uint8], rng: np.random.Generator) -> Iterator[Picture]:
    for row in rng.permutation(len(images))[:TURNED]:
        chest = np.kron(images[row].astype(np.float32) / 255, np.ones((2, 2), dtype=np.float32))
        half = len(chest) // 2
        yield 1 - chest
        for quarters in (1, 2, 3):
            yield np.rot90(chest, quarters)
        yield chest[::-1]
        yield chest[:half, :half]
        yield chest[half:, half:]
        yield chest[:, :half].repeat(2, axis=1)


def _of_heads(volumes: npt.NDArray[np.uint8]) -> Iterator[Picture]:
    """Yield slices, and projections that look like radiographs of the skull from the front and the side."""
    for volume in volumes.astype(np.float32):
        yield volume[4] / 255
        yield volume[16] / 255
        for axis in (1, 2):
            projection = volume.mean(axis=axis)[::-1].repeat(4, axis=0)
            yield projection / projection.max()


def _patterns(rng: np.random.Generator) -> Iterator[Picture]:
    y, x = np.mgrid[0:256, 0:256].astype(np.float32) / 256
    yield x
    yield y
    yield 1 - np.hypot(x - 0.5, y - 0.5)
    yield ((x * 8).astype(int) + (y * 8).astype(int)) % 2
    yield np.floor(x * 11) / 10
    yield np.where(np.hypot(x - 0.5, y - 0.5) < 0.3, 0.9, 0.1)
    for width in range(1, 11):
        yield np.sin(8 * width * x) / 2 + 0.5
        noise = ndimage.gaussian_filter(rng.random((256, 256)), 3 * width)
        yield (noise - noise.min()) / np.ptp(noise)
        # two dark ellipses: the cartoon of a chest
        lungs = [((x - c) / 0.12) ** 2 + ((y - 0.5) / (0.2 + 0.02 * width)) ** 2 < 1 for c in (0.3, 0.7)]
        yield 0.9 - 0.7 * (lungs[0] | lungs[1])


if __name__ == "__main__":
    main()
