"""Slices -> stacks: sorted by position, checked for what is missing, doubled or skewed."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from triage.errors import NotScoredError
from workers.images.frames import Frame, Vector

#: With fewer slices nobody sees a head; with more, or over more millimetres, they show a body, and are not decoded.
MIN_SLICES, MAX_SLICES = 8, 1200
MAX_COVERAGE_MM = 600.0
#: Two slices closer than this lie at the same place, mm.
SAME_PLACE_MM = 0.05
#: Slices that differ by no more than this in the direction of their axes, and by this share in the size of their
#: pixels, are of one raster.
SAME_DIRECTION, SAME_PIXEL = 0.01, 1e-3
#: Centres of slices further apart than this leave brain unseen, mm.
MAX_SPACING_MM = 10.0
#: A gap this many times the usual distance means that a slice is missing.
MISSING_FACTOR = 1.5
#: So many millimetres in all may be unseen where slices are missing: a thin one or two.
UNSEEN_MM = 1.5
#: By so much of the usual distance an acquisition may reach further than the one that is taken for the whole.
LESS_THAN_A_SLICE = 0.9
#: Largest gantry tilt that a scanner makes, degrees.
MAX_TILT_DEGREES = 30.0
#: The first pixels of all slices lie on a straight line, to within this, mm.
MAX_OFF_LINE_MM = 1.0


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Parallel slices of one series in order along their normal, inferior to superior.

    Attributes
    ----------
    frames : tuple of Frame
        Sorted by ImagePositionPatient · normal, never by InstanceNumber.
    places_mm : numpy.ndarray
        float64, shape (slices,): positions along the upward normal.
    up : numpy.ndarray
        float64, shape (3,): the normal, turned so that it points to the head.
    """

    frames: tuple[Frame, ...]
    places_mm: Vector
    up: Vector

    @property
    def coverage_mm(self) -> float:
        """From the lower face of the first to the upper face of the last slice, mm."""
        spacing = float(np.median(np.diff(self.places_mm)))
        return float(self.places_mm[-1] - self.places_mm[0]) + spacing

    @property
    def unseen_mm(self) -> float:
        """By how much slices lie further apart than they are thick, mm; 0 where they don't say how thick.

        It is so much in a quarter of the gaps, at least: heads are scanned otherwise at the base than at the top.
        """
        thick = np.array([f.thickness_mm for f in self.frames])
        if thick.min() <= 0:
            return 0.0
        return max(0.0, float(np.percentile(np.diff(self.places_mm) - (thick[1:] + thick[:-1]) / 2, 75)))

    @property
    def tilt_degrees(self) -> float:
        """Angle between the normal and the line through the slices' first pixels."""
        line = self.frames[-1].position - self.frames[0].position
        cosine = float(line @ self.up / np.linalg.norm(line))
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def group(frames: Iterable[Frame]) -> list[list[Frame]]:
    """Group slices that can belong to one stack: one series, one plane, one raster.

    AcquisitionNumber is no part of it: sequential scanners count it up slice by slice. Nor are kernel and contrast
    agent, which may be named differently from slice to slice; see `workers.images.reconstructions`.
    """
    groups: dict[tuple[object, ...], _Rasters] = defaultdict(_Rasters)
    # By place, not by name: which slice a group begins with decides what else it takes.
    for frame in sorted(frames, key=lambda f: (f.series, *f.position, *f.key)):
        groups[(frame.series, frame.stack, frame.shape, "LOCALIZER" in frame.image_type)].add(frame)
    return [members for found in groups.values() for members in found.members]


class _Rasters:
    """Slices by plane and raster, which writers round differently from slice to slice."""

    def __init__(self) -> None:
        self.members: list[list[Frame]] = []
        self._firsts = np.empty((0, 8))

    def add(self, frame: Frame) -> None:
        """Put a slice to those that are like it."""
        pixel = np.log(frame.pixel_mm) * SAME_DIRECTION / SAME_PIXEL
        own = np.concatenate([frame.row, frame.column, pixel])
        alike = np.flatnonzero(np.abs(self._firsts - own).max(1) <= SAME_DIRECTION)
        if alike.size:
            self.members[alike[0]].append(frame)
        else:
            self.members.append([frame])
            self._firsts = np.vstack([self._firsts, own])


def by_place(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Return parallel slices from one side to the other, those at the same place together."""
    normal = frames[0].normal
    ordered = sorted(frames, key=lambda f: (float(f.position @ normal), *f.key))
    places = [[ordered[0]]]
    for before, frame in pairwise(ordered):
        if float((frame.position - before.position) @ normal) < SAME_PLACE_MM:
            places[-1].append(frame)
        else:
            places.append([frame])
    return places


def stacked(frames: Sequence[Frame]) -> Stack:
    """Sort the slices of one group and check that they fill a volume.

    Where several slices lie at the same place, or a repeated acquisition's between the others, they are split by
    AcquisitionNumber, and the fullest (then latest) acquisition is taken.

    Raises
    ------
    NotScoredError
        If slices are missing, doubled, too few, too far apart or not in line.
    """
    up = frames[0].normal
    up = up if up[2] >= 0 else -up
    ordered = sorted(frames, key=lambda f: (float(f.position @ up), *f.key))
    places = np.array([float(f.position @ up) for f in ordered])
    if len(ordered) > 1 and float(np.diff(places).min()) < SAME_PLACE_MM:
        return _one_acquisition(ordered)
    if len(ordered) == 1:
        raise NotScoredError("a single slice only")
    if len(ordered) < MIN_SLICES:
        raise NotScoredError(f"only {len(ordered)} slices")
    stack = Stack(frames=tuple(ordered), places_mm=places, up=up)
    try:
        _check_gaps(stack)
        _check_line(stack)
    except NotScoredError:
        with suppress(NotScoredError):
            return _repeated(stack)
        _check_gaps(stack, unseen_mm=UNSEEN_MM)
        _check_line(stack)
    return stack


def _repeated(stack: Stack) -> Stack:
    """Return one of several acquisitions whose slices lie between each other's.

    The others may reach past either of its ends by less than one slice: a table doesn't come back quite to its place.
    """
    one = _one_acquisition(stack.frames)
    beyond = max(one.places_mm[0] - stack.places_mm[0], stack.places_mm[-1] - one.places_mm[-1])
    if beyond > LESS_THAN_A_SLICE * np.median(np.diff(one.places_mm)):
        raise NotScoredError("the acquisitions follow one another")
    return one


def _one_acquisition(frames: Sequence[Frame]) -> Stack:
    parts: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        parts[frame.acquisition].append(frame)
    if len(parts) == 1:
        raise NotScoredError("several slices lie at the same position")
    fullest = max(parts.values(), key=lambda part: (len(part), part[0].when, part[0].acquisition))
    # Sequential scanners number every slice: then the slices at one place are doubles, not acquisitions.
    if len(fullest) < MIN_SLICES:
        raise NotScoredError("several slices lie at the same position")
    return stacked(fullest)


def _check_gaps(stack: Stack, *, unseen_mm: float = 0.0) -> None:
    """Find missing slices that showed more than so many millimetres in all.

    Heads are scanned thinner at the base than at the top, so the usual distance is taken among neighbours of equal
    thickness; where the thickness changes, slices must touch. Where it is unknown the distance is that of most slices.
    """
    gaps = np.diff(stack.places_mm)
    thick = [round(f.thickness_mm, 1) for f in stack.frames]
    usual, median = dict[float, float](), float(np.median(gaps))
    for value in set(thick):
        same = [g for g, a, b in zip(gaps, thick, thick[1:], strict=False) if a == b == value]
        if same:
            usual[value] = float(np.median(same))
    for k, (gap, a, b) in enumerate(zip(gaps, thick, thick[1:], strict=False)):
        expected = median if min(a, b) <= 0 else usual[a] if a == b else (a + b) / 2
        if gap > MISSING_FACTOR * expected:
            unseen_mm -= gap - expected
            if unseen_mm < -SAME_PLACE_MM:
                low, high = stack.places_mm[k] - stack.places_mm[0], stack.places_mm[k + 1] - stack.places_mm[0]
                raise NotScoredError(f"slices missing between {low:.0f} and {high:.0f} mm above the lowest slice")
        if a == b and gap < expected / MISSING_FACTOR:
            raise NotScoredError("the distance between slices is irregular")
    if float(gaps.max()) > MAX_SPACING_MM:
        raise NotScoredError(f"the slices are {gaps.max():.0f} mm apart")


def _check_line(stack: Stack) -> None:
    positions = np.array([f.position for f in stack.frames])
    share = (stack.places_mm - stack.places_mm[0]) / (stack.places_mm[-1] - stack.places_mm[0])
    line = positions[0] + share[:, None] * (positions[-1] - positions[0])  # (slices, 3)
    if float(np.linalg.norm(positions - line, axis=1).max()) > MAX_OFF_LINE_MM:
        raise NotScoredError("the slices are not stacked in a straight line")
    if stack.tilt_degrees > MAX_TILT_DEGREES:
        raise NotScoredError(f"the gantry is tilted by {stack.tilt_degrees:.0f} degrees")
