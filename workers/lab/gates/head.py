"""Makes ``gate_bct.npz``: ``python -m workers.lab.gates.head bct_ctich.npz`` (40 minutes on two cores).

Half of the patients is used, as for the other gate (`workers.lab.gates.chest.tuning_half`): their mean head, and a
network that tells them, moved and changed as `workers.lab.gates.head_examples` does, from what is no head. One seed,
and one thread to train. What comes of it is measured by ``python -m tests.bench.impostors``.
"""

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog
import torch

from workers.images import gate_bct
from workers.images.gate_bct import COARSE, LAYERS, channels, coarse_head
from workers.images.resample import head_frame
from workers.images.small_network import SmallNetwork
from workers.images.volume import TOP, Volume, lying_straight
from workers.lab.gates.chest import halves
from workers.lab.gates.head_examples import Hu, as_scanned, lying, no_heads
from workers.lab.gates.learner import Learner, fit, taken
from workers.lab.gates.lesions import VOXEL_MM as HALF_MM

log = structlog.get_logger(__name__)

#: CT-ICH as it is stored in one array: brain window 40/120 as 0 to 255, voxels in mm.
WINDOW_HU, VOXEL_MM = (-20.0, 100.0), (5.0, 1.56, 1.56)
HEADS, OTHERS, EPOCHS = 4800, 9600, 12
#: Heads of which is made what is none.
LYING = 1200
#: Examples are made in so many parts, side by side.
PARTS = 16
#: Of both in a batch, and the greatest learning rate.
BATCH, RATE = (16, 24), 3e-3

Coarse = npt.NDArray[np.uint8]


def main() -> None:
    """Average the heads of the tuning half, train the network, and write both beside its gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("heads", type=Path)
    parser.add_argument("--out", type=Path, default=Path(gate_bct.__file__).with_name("gate_bct.npz"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stored = halves(arguments.heads)[0]
    heads = [_halved(volume) for volume in stored]
    whole = [as_volume(volume) for volume in stored]
    head = np.mean([coarse_head(volume, head_frame(volume)) for volume in whole], axis=0)
    network = train(*examples(heads, HEADS, OTHERS, seed=0))
    numbers = {f"network.{name}": value for name, value in network.numbers().items()}
    np.savez_compressed(arguments.out, allow_pickle=False, head=np.round(head).astype(np.uint8), **numbers)


def _halved(stored: npt.NDArray[np.uint8]) -> Hu:
    """Return a stored head in HU, on half the raster."""
    low, high = WINDOW_HU
    depth, rows, columns = stored.shape
    hu = stored.astype(np.float32).reshape(depth, rows // 2, 2, columns // 2, 2).mean(axis=(2, 4))
    return np.asarray(hu / 255 * (high - low) + low, dtype=np.float32)


def as_volume(stored: npt.NDArray[np.uint8], *, between_mm: float = VOXEL_MM[0]) -> Volume:
    """Return a stored head, uint8 (D, H, W), in equation 4's values."""
    low, high = WINDOW_HU
    hu = stored.astype(np.float32) / 255 * (high - low) + low
    return Volume.of_hu(hu, lying_straight((between_mm, *VOXEL_MM[1:])))


def examples(heads: Sequence[Hu], positives: int, negatives: int, *, seed: int) -> tuple[Coarse, Coarse]:
    """Return heads, and what is none, on the gate's raster, uint8 (N, D, H, W): the same for any number of cores."""
    each = partial(_part, heads, positives // PARTS, negatives // PARTS)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found, others = zip(*pool.map(each, [(seed, part) for part in range(PARTS)]), strict=True)
    return np.concatenate(found), np.concatenate(others)


def _part(heads: Sequence[Hu], positives: int, negatives: int, seed: tuple[int, int]) -> tuple[Coarse, Coarse]:
    rng = np.random.default_rng(seed)

    def scanned() -> Iterator[Hu]:
        while True:
            yield from (as_scanned(heads[k], rng) for k in rng.permutation(len(heads)))

    found = taken(scanned(), _coarse, positives)
    some = [lying(heads[k % len(heads)], rng) for k in range(LYING // PARTS)]
    others = taken(no_heads(some, rng), _coarse, negatives)
    log.info("made", part=seed[1] + 1, of=PARTS)
    return found, others


def _coarse(hu: Hu) -> Coarse:
    volume = Volume.of_hu(hu, lying_straight(HALF_MM))
    return coarse_head(volume, head_frame(volume)).astype(np.uint8)


def train(heads: Coarse, others: Coarse) -> SmallNetwork:
    """Train a network on heads and others, uint8 (N, D, H, W)."""
    torch.manual_seed(0)
    learner = Learner(LAYERS, 2, COARSE.size)
    return fit(learner, heads, others, _seen, batch=BATCH, rate=RATE, epochs=EPOCHS)


def _seen(heads: Coarse, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    return channels(np.stack([_varied(head, rng) for head in heads]))


def _varied(coarse: Coarse, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return a head a little elsewhere, of another scanner's density and noise, perhaps scanned less far down."""
    head = coarse.astype(np.float32)
    if rng.random() < 0.5:
        head = head[:, :, ::-1]
    up = int(rng.integers(-1, 2)) if rng.random() < 0.3 else 0
    head = np.roll(head, (up, *rng.integers(-2, 3, 2)), axis=(0, 1, 2))
    soft = (head > 3) & (head < 95)
    head = np.where(soft, (head - 49) * rng.uniform(0.85, 1.15) + 49 + rng.normal(0, 3), head)
    if rng.random() < 0.3:
        head[: rng.integers(1, 4)] = 0
    grain = rng.normal(0, rng.uniform(0, 2.5), head.shape) * (head > 3)
    return (head + grain).clip(0, TOP).astype(np.float32)


if __name__ == "__main__":
    main()
