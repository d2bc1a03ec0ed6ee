"""Makes ``gate_cxr.npz``: ``python -m workers.lab.gates.chest CHEST.npz... --heads HEADS.npz`` (half an hour).

Half of the patients of every source (`tuning_half`) is used, so that the other half and every real impostor stay a fair
test (``python -m tests.bench.impostors``). A network learns to tell chests as `workers.lab.gates.chest_examples` shows
them from what they can be turned into, from head CTs (slices, and projections that look like skulls) and from
`workers.lab.gates.drawn`. One seed and one thread.
"""

import argparse
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from workers.images import gate_cxr
from workers.images.cxr import cxr_tensor
from workers.images.gate_cxr import LAYERS, at_side, seen
from workers.images.small_network import SmallNetwork
from workers.lab.gates.chest_examples import SIDE, Picture, Rng, chests, shown, turned
from workers.lab.gates.drawn import drawn
from workers.lab.gates.learner import Examples, Learner, fit, taken

#: Examples.
CHESTS, TURNED, DRAWN, HEADS = 18000, 12000, 6000, 1200
#: Chests and others in a batch, and the greatest learning rate.
BATCH, RATE, EPOCHS = (48, 48), 3e-3, 12


def main() -> None:
    """Make the examples, train the network, and write it beside its gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chests", nargs="+", type=Path)
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(gate_cxr.__file__).with_name("gate_cxr.npz"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = np.concatenate([halves(path)[0] for path in arguments.chests])
    heads = halves(arguments.heads)[0]
    wanted = taken(chests(images, rng), _example, CHESTS)
    others = [
        taken(turned(images, rng), _example, TURNED),
        taken(_again(lambda: drawn(rng), rng), _example, DRAWN),
        taken(_again(lambda: of_heads(heads), rng), _example, HEADS),
    ]
    network = train(wanted, np.concatenate(others))
    np.savez_compressed(arguments.out, allow_pickle=False, **network.numbers())


def _again(pictures: Callable[[], Iterable[npt.NDArray[np.floating]]], rng: Rng) -> Iterator[Picture]:
    """Yield pictures without end, each shown as chests are."""
    while True:
        yield from (shown(np.asarray(picture, dtype=np.float32), rng) for picture in pictures())


def _example(picture: Picture) -> Examples:
    """Return a picture on the network's raster, uint8 (H, W), through what every radiograph goes through."""
    tensor = cxr_tensor(np.ascontiguousarray(picture, dtype=np.float32), (SIDE, SIDE))
    return np.round(at_side(tensor)).astype(np.uint8)


def train(wanted: Examples, others: Examples) -> SmallNetwork:
    """Train a network on chests and on what is none, uint8 (N, H, W)."""
    torch.manual_seed(0)
    learner = Learner(LAYERS, 1, (1, gate_cxr.SIDE, gate_cxr.SIDE))
    return fit(learner, wanted, others, _seen, batch=BATCH, rate=RATE, epochs=EPOCHS)


def _seen(pictures: Examples, rng: Rng) -> npt.NDArray[np.float32]:
    """Return some pictures, every second one mirrored, each a little elsewhere."""
    mirrored = np.where(rng.random((len(pictures), 1, 1)) < 0.5, pictures, pictures[..., ::-1])
    moved = [np.roll(picture, rng.integers(-2, 3, 2), axis=(0, 1)) for picture in mirrored]
    return seen(np.stack(moved).astype(np.float32))[:, :, None]


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
