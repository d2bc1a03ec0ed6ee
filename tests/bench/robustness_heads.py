"""What can be done to a head CT without changing the patient, for `tests.bench.robustness`.

Volumes are HU on a raster of 1.56 mm and some 5 mm, slices from below; CT-ICH knows neither bone beyond 100 HU nor air
below -20 HU, so alterations of either are as visible to the model as they would be in a clinic: not at all.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tests.support.heads import volume_of
from triage.manifest import Preprocessing
from workers.images.bct import bct_tensor
from workers.images.gate_bct import check_head
from workers.images.resample import head_frame

Hu = npt.NDArray[np.floating]
AIR = -1000.0
PIXEL_MM = 1.56


@dataclass(frozen=True)
class Head:
    """A head CT: HU, (D, H, W), and how far its slices are apart, mm."""

    hu: Hu
    between_mm: float = 5.0

    def tensor(self, grid: Preprocessing) -> npt.NDArray[np.uint8]:
        """Return it on a model's grid, as `workers.images` would after loading.

        Raises
        ------
        NotScoredError
            If the gate refuses it.
        """
        volume = volume_of(self.hu, self.between_mm)
        frame = head_frame(volume)
        check_head(volume, frame)
        return bct_tensor(volume, frame, grid).pixels


Change = Callable[[Head], Head]


def _hu(change: Callable[[Hu], Hu]) -> Change:
    return lambda head: replace(head, hu=change(head.hu))


def turned(degrees: float) -> Change:
    """In the slices' plane: the head lies askew."""
    return _hu(lambda hu: ndimage.rotate(hu, degrees, axes=(1, 2), reshape=False, order=1, cval=AIR))


def tilted(degrees: float) -> Change:
    """About the axis from ear to ear: chin up or down."""

    def change(head: Head) -> Head:
        turn = np.radians(degrees)
        z, y, x = np.indices(head.hu.shape, dtype=np.float64)
        up, back = (z - head.hu.shape[0] / 2) * head.between_mm, (y - head.hu.shape[1] / 2) * PIXEL_MM
        z = (np.cos(turn) * up + np.sin(turn) * back) / head.between_mm + head.hu.shape[0] / 2
        y = (np.cos(turn) * back - np.sin(turn) * up) / PIXEL_MM + head.hu.shape[1] / 2
        return replace(head, hu=ndimage.map_coordinates(head.hu, [z, y, x], order=1, mode="constant", cval=AIR))

    return change


def sheared(degrees: float) -> Change:
    """A gantry tilt of which the header says nothing: slices lie higher behind than in front, or lower."""

    def change(head: Head) -> Head:
        slope = np.tan(np.radians(degrees)) * PIXEL_MM / head.between_mm
        z, y, x = np.mgrid[: head.hu.shape[0], : head.hu.shape[1], : head.hu.shape[2]].astype(np.float64)
        z += slope * (y - head.hu.shape[1] / 2)
        return replace(head, hu=ndimage.map_coordinates(head.hu, [z, y, x], order=1, mode="constant", cval=AIR))

    return change


def blurred(mm: float) -> Change:
    """A softer kernel."""
    return _hu(lambda hu: ndimage.gaussian_filter(hu, (0, mm / PIXEL_MM, mm / PIXEL_MM)))


def sharpened(amount: float) -> Change:
    """A sharper kernel."""
    return _hu(lambda hu: hu + amount * (hu - ndimage.gaussian_filter(hu, (0, 1, 1))))


def noisy(deviation: float) -> Change:
    """A lower dose, HU."""
    return _hu(lambda hu: hu + np.random.default_rng(0).normal(0, deviation, hu.shape))


def thin(head: Head) -> Head:
    """As slices of half the thickness: interpolated between what there is."""
    places = np.arange(2 * len(head.hu) - 1) / 2
    below = np.minimum(places.astype(int), len(head.hu) - 2)
    share = (places - below)[:, None, None]
    return Head(head.hu[below] * (1 - share) + head.hu[below + 1] * share, head.between_mm / 2)


def thin_again_thick(head: Head) -> Head:
    """2.5 mm and back to 5 mm by averaging pairs: half a slice further up."""
    hu = thin(head).hu
    return Head((hu[:-1:2] + hu[1::2]) / 2, head.between_mm)


def couch(head: Head) -> Head:
    """A head rest and a couch: thin shells of plastic behind the head."""
    y, x = np.mgrid[: head.hu.shape[1], : head.hu.shape[2]]
    middle = head.hu.shape[2] / 2
    lowest = float(np.max(np.nonzero(head.hu.max(0) > 0)[0]))
    rest = abs(np.hypot(y - lowest + 50, x - middle) - 54) < 1.5
    rest &= y > lowest - 15
    plate = abs(y - min(lowest + 8, head.hu.shape[1] - 3)) < 1.5
    return replace(head, hu=np.where((rest | plate) & (head.hu < 0), 60.0, head.hu))


def marks(head: Head) -> Head:
    """Bright marks beside the head, as of a positioning aid."""
    hu = head.hu.copy()
    hu[:, 4:10, 4:20] = hu[10:20, 100:120, 3:6] = 100
    return replace(head, hu=hu)


ALTERATIONS: dict[str, Change] = {
    **{f"rotation {d:+d} degrees": turned(d) for d in (2, -2, 5, -5, 35, -35)},
    **{f"tilt {d:+d} degrees": tilted(d) for d in (5, -5)},
    **{f"gantry tilt {d:+d} degrees, not told": sheared(d) for d in (5, -5)},
    **{f"HU {d:+d}": _hu(lambda hu, d=d: hu + d) for d in (2, -2)},
    **{f"noise {d} HU": noisy(d) for d in (2, 5)},
    "kernel, softer": blurred(1.0),
    "kernel, sharper": sharpened(0.7),
    "slices of 2.5 mm": thin,
    "slices of 2.5 mm, averaged to 5 mm": thin_again_thick,
    "padding with air": _hu(lambda hu: np.pad(hu, ((0, 0), (16, 16), (16, 16)), constant_values=AIR)),
    "smaller field of view": _hu(lambda hu: hu[:, 4:-4, 4:-4]),
    "shifted by 10 mm": _hu(lambda hu: np.roll(np.pad(hu, ((0, 0), (8, 8), (8, 8)), constant_values=AIR), 6, axis=2)),
    "head rest and couch": couch,
    "marks beside the head": marks,
    "lowest slice missing": _hu(lambda hu: hu[1:]),
    "lowest three slices missing": _hu(lambda hu: hu[3:]),
    "one more slice of air on top": _hu(lambda hu: np.concatenate([hu, np.full_like(hu[:1], AIR)])),
    "highest slice missing": _hu(lambda hu: hu[:-1]),
}
