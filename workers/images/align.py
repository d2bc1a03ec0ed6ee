"""Heads lie tilted and are scanned further down or less far: the pose in which a head fits the mean head best.

Of 55 head CTs (CT-ICH) the chin was up or down by 14 degrees (standard deviation), heads leaned to a shoulder by 6, and
the uppermost slice shows the top of the head or misses it. What knows a place by the normal heads there, and what
counts slices from the top, needs them all in one pose. The fit is a rigid one; the head's size, along three axes, is
found with it and left as it is.
"""

from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from workers.images.pixels import Floats
from workers.images.resample import HEADROOM_MM, HeadFrame, Raster, grid_affine, on_grid
from workers.images.sources import Grid
from workers.images.straighten import straightened
from workers.images.volume import Volume

Doubles = npt.NDArray[np.float64]

#: Where the head is compared, from its top downwards, and how smooth both are, mm.
BOX = Raster(size=(36, 48, 48), spacing_mm=(5.0, 4.5, 4.5))
SMOOTHING_MM = 5.0
#: A pose is found as three turns (0.01 radian), three shifts (mm) and three sizes (per cent); all near 1 in size. So
#: strongly each is held where it was: hardly, but for sizes, which part of a head doesn't tell from its place.
HELD = np.array([0.002] * 6 + [0.02] * 3)
UNIT = 0.01
STEPS = 40
#: Beyond this a fit is not believed, and the head stays as it lies.
MAX_DEGREES, MAX_MM, MAX_SIZE = 45.0, 40.0, 1.5
#: Least share of a smoothing kernel that has to lie inside the scan.
LEAST_COVERED = 0.05

_SPACING = np.array(BOX.spacing_mm)
_MIDDLE = (np.array(BOX.size) - 1) / 2 * _SPACING


@dataclass(frozen=True)
class MeanHead:
    """What heads are fitted to.

    Attributes
    ----------
    points : numpy.ndarray
        float64, (3, P): places in `BOX`, slices, rows, columns, mm from its middle.
    values : numpy.ndarray
        float64, (P,): of the mean head there, equation 4's values.
    """

    points: Doubles
    values: Doubles

    @classmethod
    def of(cls, mean: Floats, known: npt.NDArray[np.bool_]) -> "MeanHead":
        """Take every other place of a mean head on `BOX`, of those that are known."""
        board = np.indices(BOX.size).sum(0) % 2 == 0
        chosen = np.nonzero(known & board)
        return cls(np.array(chosen) * _SPACING[:, None] - _MIDDLE[:, None], mean[chosen].astype(np.float64))


@dataclass(frozen=True)
class Boxed:
    """A head on `BOX`: smooth values, and 1 where the scan reaches, else 0; float32."""

    values: Floats
    inside: Floats


@cache
def mean_head() -> MeanHead:
    """Return the mean of half of CT-ICH's patients; `workers.images.fit_mean_head` makes it."""
    with resources.files("workers.images").joinpath("mean_head.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return MeanHead.of(arrays["head"].astype(np.float32), arrays["known"])


def pose(volume: Volume, frame: HeadFrame, grid: Grid) -> HeadFrame:
    """Return the axes along which the grid is laid: the head's own, as far as the grid wants that."""
    straight = straightened(volume, frame) if grid.straighten else frame
    return aligned(volume, straight) if grid.align else straight


def aligned(volume: Volume, frame: HeadFrame) -> HeadFrame:
    """Turn and move a frame so that the head lies along it as the mean head lies along its own.

    Parameters
    ----------
    volume : Volume
        In equation 4's values.
    frame : HeadFrame
        Where the head is, within some 40 degrees of upright and straight.

    Returns
    -------
    HeadFrame
        The same head; the same frame, if no believable pose was found.
    """
    pose = fitted(boxed(volume, frame), mean_head())
    turns, sizes = np.degrees(pose[:3] * UNIT), np.exp(np.abs(pose[6:]) * UNIT)
    if np.linalg.norm(turns) > MAX_DEGREES or np.linalg.norm(pose[3:6]) > MAX_MM or sizes.max() > MAX_SIZE:
        return frame
    return _moved(frame, pose)


def boxed(volume: Volume, frame: HeadFrame) -> Boxed:
    """Bring a head onto `BOX` and smooth it, without letting what the scan doesn't reach count as air."""
    start, step = grid_affine(frame, BOX)
    k, j, i = np.indices(BOX.size).reshape(3, -1)
    lps = start[:, None] + step @ np.stack([i, j, k])
    index = np.linalg.inv(volume.affine[:, :3]) @ (lps - volume.affine[:, 3:])
    size = np.array(volume.values.shape)[::-1, None]
    within: npt.NDArray[np.bool_] = np.all((index >= -0.5) & (index <= size - 0.5), axis=0)
    inside = within.reshape(BOX.size).astype(np.float32)
    wide = SMOOTHING_MM / _SPACING
    values = ndimage.gaussian_filter(on_grid(volume, frame, BOX) * inside, wide, mode="constant")
    covered = ndimage.gaussian_filter(inside, wide, mode="constant")
    smooth = np.where(covered > LEAST_COVERED, values / np.maximum(covered, LEAST_COVERED), np.float32(0))
    return Boxed(smooth, inside)


def fitted(head: Boxed, mean: MeanHead) -> Doubles:
    """Return the pose, (9,), in which a head differs least from the mean head: turns, shifts, sizes.

    By Levenberg and Marquardt (MINPACK, which computes with one thread: the same head, the same pose).
    """
    slopes: list[Floats] = [np.gradient(head.values, mm, axis=axis) for axis, mm in enumerate(BOX.spacing_mm)]

    def seen(pose: Doubles) -> tuple[Doubles, Doubles]:
        turn, shift = _affine(pose)
        places = (turn @ mean.points + (shift + _MIDDLE)[:, None]) / _SPACING[:, None]
        inside = _at(head.inside, places)
        return places, np.sqrt(inside / (inside.sum() + 1.0))

    def residuals(pose: Doubles) -> Doubles:
        places, weight = seen(pose)
        return np.concatenate([weight * (_at(head.values, places) - mean.values), HELD * pose])

    def slope(pose: Doubles) -> Doubles:
        places, weight = seen(pose)
        steepness = np.stack([weight * _at(one, places) for one in slopes])
        columns = [(steepness * way).sum(0) for way in _ways(pose, mean.points)]
        return np.concatenate([np.stack(columns, 1), np.diag(HELD)])

    start = np.zeros(len(HELD))
    found: Doubles = least_squares(residuals, start, slope, method="lm", xtol=1e-4, ftol=1e-5, max_nfev=STEPS).x
    return found


def at_rest(head: Boxed, pose: Doubles) -> Boxed:
    """Return a head, sizes and all, in the mean head's pose."""
    turn, shift = _affine(pose)
    points = np.indices(BOX.size).reshape(3, -1) * _SPACING[:, None] - _MIDDLE[:, None]
    places = (turn @ points + (shift + _MIDDLE)[:, None]) / _SPACING[:, None]
    values, inside = (_at(one, places).reshape(BOX.size).astype(np.float32) for one in (head.values, head.inside))
    return Boxed(values, inside)


def _at(image: Floats, places: Doubles) -> Doubles:
    found: Doubles = ndimage.map_coordinates(image, places, output=np.float64, order=1, mode="constant")
    return found


def _affine(pose: Doubles) -> tuple[Doubles, Doubles]:
    """Return the map from the mean head's places to the head's, (3, 3) and (3,): mm, slices, rows, columns."""
    turn = Rotation.from_rotvec(pose[:3] * UNIT).as_matrix()
    return turn * np.exp(pose[6:] * UNIT), pose[3:6]


def _ways(pose: Doubles, points: Doubles) -> list[Doubles]:
    """Return how places move with each number of a pose, nine times (3, P) or (3, 1)."""
    found, step = [], 1e-3
    for number in range(len(pose)):
        more, less = (pose + sign * step * (np.arange(len(pose)) == number) for sign in (1, -1))
        (turn, shift), (turn_less, shift_less) = _affine(more), _affine(less)
        way = (turn - turn_less) @ points + (shift - shift_less)[:, None]
        found.append(way / (2 * step))
    return found


def _moved(frame: HeadFrame, pose: Doubles) -> HeadFrame:
    """Return the frame along which a grid lies as it would along the mean head's."""
    flip = np.eye(3)[::-1]  # slices, rows, columns to left, back, head
    turn = flip @ Rotation.from_rotvec(pose[:3] * UNIT).as_matrix() @ flip
    axes = turn.T @ frame.axes
    start, _ = grid_affine(frame, BOX)
    middle = axes @ (start + frame.axes.T @ (flip @ (_MIDDLE + pose[3:6])))
    top = float(middle[2]) - HEADROOM_MM + _SPACING[0] * BOX.size[0] / 2
    return replace(frame, axes=axes, centre=middle[:2], top=top)
