"""Makes ``gate_cxr.npz``: ``python -m workers.lab.gates.chest CHEST.npz... --heads HEADS.npz``.

Half of the patients of every source (`tuning_half`) is used, so that the other half and every real impostor stay a fair
test (``python -m tests.bench.impostors``). Chests are the positives, some of them turned, zoomed and marked a little as
exposures are. Negatives are what chests and head CTs can be turned into (upside down, on their side, inverted, cut,
halved, doubled, projected heads, single slices) and `workers.lab.gates.drawn`. One seed: the same data, the same
file.
"""

import argparse
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

from triage.errors import NotScoredError
from workers.images import gate_cxr
from workers.images.cxr import cxr_tensor
from workers.images.gate_cxr import SIDE, ChestGate, Subspace, coarse_greys, edge_directions
from workers.lab.gates.drawn import drawn

COMPONENTS = {"edges": 40, "greys": 28}
HELD_OUT = 0.35
#: Share of held-out chests that the regression may refuse, and each of the two distances.
REFUSED, BEYOND = 0.006, 0.002
CHESTS, TURNED = 900, 160

Picture = npt.NDArray[np.float32]
Features = npt.NDArray[np.float64]


def main() -> None:
    """Fit the gate and write it beside its gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chests", nargs="+", type=Path)
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(gate_cxr.__file__).with_name("gate_cxr.npz"))
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    chests = [rng.permutation(halves(path)[0])[:CHESTS] for path in arguments.chests]
    heads = halves(arguments.heads)[0]
    positives = features(picture for x in chests for picture in _as_exposed(x, rng))
    negatives = features(
        p for source in ([_turned(x, rng) for x in chests] + [of_heads(heads), drawn(rng)]) for p in source
    )
    order = rng.permutation(len(positives))
    held = order[: int(HELD_OUT * len(order))]
    fit(np.delete(positives, held, axis=0), negatives, positives[held]).save(arguments.out)


def halves(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return an npz file's images of the tuning half and of the untouched half of its patients."""
    with np.load(path, allow_pickle=False) as arrays:
        x = arrays["x"]
        names = arrays["patient"].astype(str).tolist()
        # The children's numbers start again in every split and class; images without a number stand for themselves.
        parts = [arrays[k].astype(str).tolist() for k in ("split", "subtype") if k in arrays.files]
    keys = [
        "/".join([path.stem, *part, name or str(row)])
        for row, (name, *part) in enumerate(zip(names, *parts, strict=True))
    ]
    tuning = np.array([tuning_half(key) for key in keys])
    return x[tuning], x[~tuning]


def tuning_half(key: str) -> bool:
    """Return whether a patient belongs to the half on which the gates were made."""
    return hashlib.sha256(f"gate:{key}".encode()).digest()[0] < 128


def fit(chests: Features, others: Features, held_out: Features) -> ChestGate:
    """Fit the classifier and set its thresholds on chests that it hasn't seen.

    Parameters
    ----------
    chests, others, held_out : numpy.ndarray
        float64, (N, 512 + 256): what `features` returns.
    """
    edges, greys = _subspace(chests, held_out, "edges"), _subspace(chests, held_out, "greys")

    def inputs(rows: Features) -> Features:
        return np.hstack([edges.inputs(_view(rows, "edges")), greys.inputs(_view(rows, "greys"))])

    found = inputs(np.vstack([chests, others]))
    shift, scale = found.mean(axis=0), found.std(axis=0)
    labels = np.r_[np.ones(len(chests)), np.zeros(len(others))]
    model = LogisticRegression(C=0.02, max_iter=2000, class_weight="balanced").fit((found - shift) / scale, labels)
    weights, bias = model.coef_[0], np.asarray(np.float64(model.intercept_[0]))
    scores = (inputs(held_out) - shift) / scale @ weights + bias
    return ChestGate(
        edges=edges, greys=greys, shift=shift, scale=scale, weights=weights, bias=bias,
        threshold=np.asarray(np.quantile(scores, REFUSED)),
    )  # fmt: skip


def _view(rows: Features, view: str) -> Features:
    return rows[:, :512] if view == "edges" else rows[:, 512:]


def _subspace(chests: Features, held_out: Features, view: str) -> Subspace:
    own = _view(chests, view)
    mean = own.mean(axis=0)
    _, singular, directions = np.linalg.svd(own - mean, full_matrices=False)
    count = COMPONENTS[view]
    found = Subspace(
        mean=mean, components=directions[:count], deviations=singular[:count] / np.sqrt(len(own)), limit=np.asarray(0.0)
    )
    outside = found.inputs(_view(held_out, view))[:, -2]
    return Subspace(**{**vars(found), "limit": np.asarray(np.quantile(outside, 1 - BEYOND))})


def features(pictures: Iterable[Picture]) -> Features:
    """Return both views of each picture that gives a tensor, float64 (N, 512 + 256)."""
    found = []
    for picture in pictures:
        try:
            tensor = cxr_tensor(np.ascontiguousarray(picture, dtype=np.float32), (SIDE, SIDE))
        except NotScoredError:
            continue
        found.append(np.concatenate([edge_directions(tensor), coarse_greys(tensor)]))
    return np.stack(found)


def _as_exposed(images: npt.NDArray[np.uint8], rng: np.random.Generator) -> Iterator[Picture]:
    """Yield the images, and every second one again a little turned, zoomed and shifted, as patients stand."""
    for row, image in enumerate(images):
        chest = image.astype(np.float32) / 255
        yield chest
        if row % 2:
            angle, zoom = np.radians(rng.uniform(-7, 7)), rng.uniform(0.9, 1.1)
            matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
            middle = np.array(chest.shape) / 2
            offset = middle - matrix @ (middle + rng.uniform(-5, 5, 2))
            turned = ndimage.affine_transform(chest, matrix, offset, order=1)
            if row % 4 == 1:
                turned[4:14, 4:10] = 1.0
            yield turned


def _turned(images: npt.NDArray[np.uint8], rng: np.random.Generator) -> Iterator[Picture]:
    rows = rng.permutation(len(images))[:TURNED]
    for row, other in zip(rows, np.roll(rows, 1), strict=True):
        chest = np.kron(images[row].astype(np.float32) / 255, np.ones((2, 2), dtype=np.float32))
        half = len(chest) // 2
        yield 1 - chest
        for quarters in (1, 2, 3):
            yield np.rot90(chest, quarters)
        yield chest[::-1]
        yield ndimage.rotate(chest, float(rng.uniform(35, 325)), reshape=False, order=1)
        yield ndimage.rotate(chest, float(rng.choice([-1, 1]) * rng.uniform(25, 40)), reshape=False, order=1)
        top, left = rng.integers(0, half, 2)
        yield chest[top : top + half, left : left + half]
        side = int(rng.integers(half * 3 // 4, half * 5 // 4))
        top, left = rng.integers(0, len(chest) - side, 2)
        yield chest[top : top + side, left : left + side]
        at = round(2 * half * float(rng.uniform(0.45, 0.6)))
        yield chest[:at]
        yield chest[-at:]
        yield chest[:, :at]
        yield chest[:, -at:]
        yield chest[:, :half].repeat(2, axis=1)
        yield chest[:half].repeat(2, axis=0)
        yield np.hstack([chest, images[other].repeat(2, axis=0).repeat(2, axis=1).astype(np.float32) / 255])[:, ::2]
        yield np.roll(chest, int(rng.integers(70, 186)), axis=int(rng.integers(2)))


def of_heads(volumes: npt.NDArray[np.uint8]) -> Iterator[Picture]:
    """Yield slices, and projections that look like radiographs of the skull from the front and the side."""
    for volume in volumes.astype(np.float32):
        yield volume[4] / 255
        yield volume[16] / 255
        for axis in (1, 2):
            projection = volume.mean(axis=axis)[::-1].repeat(4, axis=0)
            yield projection / projection.max()


if __name__ == "__main__":
    main()
