"""Makes ``mean_head.npz``, to which heads are aligned: ``python -m workers.images.fit_mean_head bct_ctich.npz``.

The mean of heads is fitted to each, and the mean taken again, until poses hardly change. It is made symmetric, and
stays in the mean pose of its heads. Half of the patients is used, as for the gates
(`workers.images.fit_gate.tuning_half`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.progress import track
from scipy import ndimage

from workers.images.align import Boxed, Doubles, MeanHead, at_rest, boxed, fitted
from workers.images.fit_gate import halves
from workers.images.fit_gate_head import as_volume
from workers.images.pixels import Floats
from workers.images.resample import head_frame
from workers.images.straighten import straightened

#: CT-ICH's volumes were brought to 32 slices: so far are those of one that had n apart, mm.
APART_MM = 5.0 / 32
ROUNDS = 5
#: Heads are compared where so many of them were scanned, in the mean head and so many pixels around it.
LEAST_SCANNED = 0.5
TISSUE, AROUND_PIXELS = 15.0, 2


def main() -> None:
    """Align the heads of the tuning half and write their mean beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("heads", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("mean_head.npz"))
    arguments = parser.parse_args()
    stored, slices = (halves(arguments.heads, array)[0] for array in ("x", "n_slices"))
    heads = []
    for one, count in zip(track(stored, "placing heads"), slices, strict=True):
        volume = as_volume(one, between_mm=APART_MM * float(count))
        heads.append(boxed(volume, straightened(volume, head_frame(volume))))
    poses: Sequence[Doubles] = [np.zeros(9)] * len(heads)
    for _ in track(range(ROUNDS), "aligning them"):
        mean, known = averaged(heads, poses)
        found = np.stack([fitted(head, MeanHead.of(mean, known)) for head in heads])
        poses = list(found - found.mean(0))
    mean, known = averaged(heads, poses)
    np.savez_compressed(arguments.out, allow_pickle=False, head=np.round(mean).astype(np.uint8), known=known)


def averaged(heads: Sequence[Boxed], poses: Sequence[Doubles]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the symmetric mean of heads in one pose, and where it is known well enough to be compared with."""
    rest = [at_rest(head, pose) for head, pose in zip(heads, poses, strict=True)]
    total = np.sum([head.values * head.inside for head in rest], axis=0)
    count = np.sum([head.inside for head in rest], axis=0)
    mean = total / np.maximum(count, 1e-3)
    mean, count = ((one + one[..., ::-1]) / 2 for one in (mean, count))
    near: npt.NDArray[np.bool_] = ndimage.binary_dilation(mean > TISSUE, iterations=AROUND_PIXELS)
    return mean, near & (count > LEAST_SCANNED * len(heads))


if __name__ == "__main__":
    main()
