"""Makes ``gate_bct.npz``, the mean head: ``python -m workers.images.fit_gate_head bct_ctich.npz``.

Half of the patients is used, as for the other gate (`workers.images.fit_gate.tuning_half`).
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from workers.images.fit_gate import halves
from workers.images.gate_bct import coarse_head
from workers.images.resample import head_frame
from workers.images.volume import HU_OFFSET, TOP, Volume

#: CT-ICH as it is stored in one array: brain window 40/120 as 0 to 255, voxels in mm.
WINDOW_HU, VOXEL_MM = (-20.0, 100.0), (5.0, 1.56, 1.56)


def main() -> None:
    """Average the heads of the tuning half and write them beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("heads", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("gate_bct.npz"))
    arguments = parser.parse_args()
    volumes = [as_volume(stored) for stored in halves(arguments.heads)[0]]
    head = np.mean([coarse_head(volume, head_frame(volume)) for volume in volumes], axis=0)
    np.savez_compressed(arguments.out, allow_pickle=False, head=np.round(head).astype(np.uint8))


def as_volume(stored: npt.NDArray[np.uint8], *, between_mm: float = VOXEL_MM[0]) -> Volume:
    """Return a stored head, uint8 (D, H, W), in equation 4's values."""
    low, high = WINDOW_HU
    hu = stored.astype(np.float32) / 255 * (high - low) + low
    affine = np.column_stack([np.diag((*VOXEL_MM[:0:-1], between_mm)), np.zeros(3)])
    values = np.clip(hu + HU_OFFSET, 0, TOP).astype(np.float32)
    return Volume(values=values, affine=affine, up=np.array([0.0, 0.0, 1.0]), class_shares=np.zeros(5))


if __name__ == "__main__":
    main()
