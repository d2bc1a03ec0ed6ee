"""A study's images once more, as they are displayed, with a relevance map brought onto them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from scipy import ndimage

from triage.errors import NotScoredError
from triage.manifest import Preprocessing
from triage.messages import Relevance
from triage.pictures import Backdrop, Picture, Planes
from workers.images.bct import scored_head
from workers.images.borders import content_box
from workers.images.frames import Frame, Vector
from workers.images.pixels import displayed
from workers.images.resample import grid_affine
from workers.images.sources import BCT, Source
from workers.images.straighten import pose
from workers.images.volume import SliceReader

Deviations = npt.NDArray[np.float32]

#: Radiographs are shown at most so high or wide, pixels.
MAX_SIDE = 1024
#: Slices shown of a head, and how far apart they are at least, mm.
SLICES = 5
APART_MM = 9.0
#: They are chosen by their maps at no more than so many pixels a side, about as fine as maps are: a series may have
#: hundreds of large slices.
JUDGED_SIDE = 64
#: A slice stands for its most conspicuous parts: the mean of this share of its map.
CONSPICUOUS_SHARE = 0.05
#: Head CTs are shown in the usual brain window, HU.
WINDOW_HU = (0.0, 80.0)


def backdrop(sources: Sequence[Source], modality: str, relevance: Relevance, grid: Preprocessing) -> Backdrop:
    """Return what a relevance map is shown on.

    Parameters
    ----------
    sources : sequence of Source
        The instances that the model's input was made from.
    modality : str
        ``"CXR"`` or ``"BCT"``.
    relevance : Relevance
        The map.
    grid : Preprocessing
        The bundle's, as for `workers.images.prepare`.

    Raises
    ------
    NotScoredError
        If the instances cannot be read any more as they were when they were scored.
    """
    if not sources:
        raise NotScoredError("no images to show the map on")
    if modality == BCT:
        return _head(sources, relevance.deviations, grid)
    return Backdrop(pictures=(_radiograph(sources[0], relevance.deviations),))


def _radiograph(source: Source, deviations: Deviations) -> Picture:
    """Show a radiograph whole; the map covers what is inside its borders (see `workers.images.cxr.cxr_tensor`)."""
    grey, padding = displayed(source.dataset())
    rows, columns = content_box(grey, padding)
    scale = min(1.0, MAX_SIDE / max(grey.shape))
    shape = [max(1, round(n * scale)) for n in grey.shape]
    # Where each shown pixel's middle lies in the box, in units of the map's pixels.
    places = [
        ((np.arange(shown) + 0.5) / shown * n - box.start) / (box.stop - box.start) * m - 0.5
        for shown, n, box, m in zip(shape, grey.shape, (rows, columns), deviations.shape, strict=True)
    ]
    inside = np.logical_and.outer(*((p > -0.5) & (p < m - 0.5) for p, m in zip(places, deviations.shape, strict=True)))
    onto = ndimage.map_coordinates(deviations, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
    onto[~inside] = 0.0
    smooth = ndimage.gaussian_filter(grey, 0.5 / scale) if scale < 1 else grey
    at = [((np.arange(shown) + 0.5) / shown * n - 0.5) for shown, n in zip(shape, grey.shape, strict=True)]
    shown = ndimage.map_coordinates(smooth, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")
    return Picture(
        grey=np.clip(np.rint(shown * 255), 0, 255).astype(np.uint8),
        deviations=onto.astype(np.float32),
        sop_instance_uid=source.sop_instance_uid,
    )


def _head(sources: Sequence[Source], deviations: Deviations, grid: Preprocessing) -> Backdrop:
    stack, volume, frame = scored_head(sources, grid)
    start, step = grid_affine(pose(volume, frame, grid), grid)
    factor = np.array([n / m for n, m in zip(grid.size, deviations.shape, strict=True)])[::-1]  # columns, rows, planes
    to_patient = step * factor
    origin = start + step @ ((factor - 1) / 2)
    to_map = np.linalg.inv(to_patient)
    strengths, highest = [], []
    for slice_ in stack.frames:
        judged = _onto(slice_, deviations, to_map, origin, every=-(-max(slice_.shape) // JUDGED_SIDE))
        strengths.append(conspicuousness(judged))
        highest.append(float(judged.max()))
    if max(highest) > 0:  # the slice with the highest place of all comes first, then those conspicuous as wholes
        strengths[int(np.argmax(highest))] = np.inf
    reader = SliceReader()
    pictures = [
        _slice(
            stack.frames[i],
            _onto(stack.frames[i], deviations, to_map, origin),
            f"slice {i + 1} of {len(stack.frames)}, from below",
            reader,
        )
        for i in _most_conspicuous(strengths, stack.places_mm)
    ]
    spacing = np.linalg.norm(to_patient, axis=0)
    return Backdrop(
        pictures=tuple(pictures),
        planes=Planes(
            positions=tuple(_triple(origin + to_patient[:, 2] * k) for k in range(deviations.shape[0])),
            row=_triple(to_patient[:, 0] / spacing[0]),
            column=_triple(to_patient[:, 1] / spacing[1]),
            spacing_mm=(float(spacing[2]), float(spacing[1]), float(spacing[0])),
            frame_of_reference_uid=_frame_of_reference(stack.frames[0].source.header()),
        ),
    )


def _onto(frame: Frame, deviations: Deviations, to_map: Vector, origin: Vector, *, every: int = 1) -> Deviations:
    """Bring the map onto a slice's own pixels, or onto every so many-th row and column of them."""
    row, column = np.mgrid[: frame.shape[0] : every, : frame.shape[1] : every]
    lps = (
        frame.position[:, None, None]
        + frame.row[:, None, None] * frame.pixel_mm[1] * column
        + frame.column[:, None, None] * frame.pixel_mm[0] * row
    )
    x, y, z = np.tensordot(to_map, lps - origin[:, None, None], axes=1)
    onto: Deviations = ndimage.map_coordinates(deviations, [z, y, x], order=1, mode="constant", cval=0.0)
    return onto.astype(np.float32)


def _most_conspicuous(strengths: Sequence[float], places_mm: Vector) -> list[int]:
    """Return the slices to show, the strongest first; neighbours show the same again."""
    chosen: list[int] = []
    for i in np.argsort(strengths)[::-1]:
        if all(abs(places_mm[i] - places_mm[j]) >= APART_MM for j in chosen):
            chosen.append(int(i))
        if len(chosen) == SLICES:
            break
    return chosen


def conspicuousness(deviations: npt.NDArray[np.floating]) -> float:
    """Return how strong a slice's map is: the mean of its highest parts."""
    highest = max(1, round(CONSPICUOUS_SHARE * deviations.size))
    return float(np.partition(deviations, -highest, axis=None)[-highest:].mean())


def _slice(frame: Frame, deviations: Deviations, caption: str, reader: SliceReader) -> Picture:
    low, high = WINDOW_HU
    grey = np.clip((reader.hu(frame) - low) / (high - low), 0, 1)
    # Square pixels; radiologists' side: the patient's left is on the right.
    if abs(frame.pixel_mm[0] / frame.pixel_mm[1] - 1) > 0.01:
        stretch = (frame.pixel_mm[0] / frame.pixel_mm[1], 1.0)
        grey, deviations = (ndimage.zoom(plane, stretch, order=1) for plane in (grey, deviations))
    across, down = frame.row, frame.column
    if abs(across[0]) < abs(down[0]):  # scanned lying on a side
        across, down, grey, deviations = down, across, grey.T, deviations.T
    for axis, direction in ((1, across[0]), (0, down[1])):
        if direction < 0:
            grey, deviations = np.flip(grey, axis), np.flip(deviations, axis)
    return Picture(
        grey=np.rint(grey * 255).astype(np.uint8),
        deviations=np.ascontiguousarray(deviations),
        sop_instance_uid=frame.source.sop_instance_uid,
        caption=caption,
    )


def _triple(vector: Vector) -> tuple[float, float, float]:
    return float(vector[0]), float(vector[1]), float(vector[2])


def _frame_of_reference(ds: Dataset) -> str:
    return str(ds.get("FrameOfReferenceUID", "") or "")
