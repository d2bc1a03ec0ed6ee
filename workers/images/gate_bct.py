"""Is this volume a head with its brain in it, up to the vertex? The image decides, not the labels.

Bounds were set on 55 head CTs with and without hemorrhage, fractures and craniotomies (CT-ICH) and a tilted GE series,
with margins; what they refuse was tried on chest, abdomen, neck and spine slices and on drawn phantoms. Slices have to
resemble their neighbours. At last the head has to resemble a mean head, and a small network (`SmallNetwork`) to take it
for one, and for one that lies as its slices say: shells around structure get past everything else. Mean and network
are of half of CT-ICH's patients; `workers.lab.gates.head` makes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from triage.errors import NotScoredError
from workers.images.pixels import Floats
from workers.images.resample import TISSUE, HeadFrame, Raster, lowest_slice, on_grid
from workers.images.small_network import Layers, SmallNetwork, shipped
from workers.images.volume import HU_OFFSET, Volume
from workers.likeness import correlation

#: Everything from here on is bone (also where the data were clipped at 100 HU).
BONE_HU = 70.0
#: Gaps in the skull up to about twice this are closed: sutures, burr holes, partial volume.
CLOSING_MM = 5.0
#: Where bone doesn't close around a brain, for a surgeon took it away, the scalp's outer part may, if so much of the
#: ring is bone.
SCALP_MM, MIN_BONE_SHARE = 6.0, 0.5
#: A slice shows the vault if its skull encloses so much; so many millimetres of slices have to.
MIN_ENCLOSED_CM2 = 40.0
MIN_VAULT_MM = 20.0
#: Typical CT number inside the skull: brain, from oedematous to packed with blood.
BRAIN_MEDIAN_HU = (18.0, 65.0)
BRAIN_HU = (5.0, 85.0)
MIN_BRAIN_SHARE = 0.8
#: Grey, white matter and CSF differ by more than this after smoothing over 5 mm; a phantom's filling doesn't.
MIN_STRUCTURE_HU = 1.5
SMOOTHING_MM = 5.0
#: Cross-section of a head at its largest, cm².
HEAD_CM2 = (80.0, 420.0)
#: The uppermost slice of a whole head is much smaller than its largest.
MAX_TOP_SHARE = 0.75
#: Sinuses, mouth and orbital fat lie in the lower third of a head: this deep under the skin the vault has neither.
SKIN_PIXELS, MIN_CORE_PIXELS = 6, 150
#: Between two slices a head's cross-section is nowhere smaller than this share of the smaller of the two.
MIN_WAIST = 0.6
#: Least correlation with the mean head, and least logit of a head; and of one that is more like it turned about. Heads
#: with the largest lesions that were drawn into them have to pass, before any phantom has to be refused.
MIN_LIKENESS, MIN_LOGIT, MIN_LOGIT_TURNED = 0.72, -1.25, -0.25
#: Neighbouring slices differ by at most this share of what slices twice as far apart do.
MAX_UNEVENNESS = 0.75
#: A seam is where values do so from one slice to the next (streaks of a clip do, too), and there the outline changes by
#: so much of the largest cross-section more than it does beside it (a head that moved by 6 mm hardly gets there).
MAX_SEAM, MAX_OUTLINE_JUMP = 0.85, 0.1
SEAM_SMOOTHING_MM = 3.0
#: The raster on which heads are compared with the mean head: its upper 120 mm, for heads differ in how far down they
#: were scanned.
COARSE = Raster(size=(12, 48, 48), spacing_mm=(10.0, 5.0, 5.0))
COARSE_SMOOTHING_MM = 3.0
#: The network: it sees these heads' greys once as they are, once spread over the densities of brain.
LAYERS: Layers = (
    (16, (1, 3, 3), (1, 2, 2)),
    (32, (3, 3, 3), (1, 2, 2)),
    (48, (3, 3, 3), (2, 2, 2)),
    (64, (3, 3, 3), (2, 1, 1)),
    (16, (1, 1, 1), (1, 1, 1)),
)
#: Grey value of brain (35 HU), and by how much others differ from it.
BRAIN, AROUND = 49.0, 15.0


@dataclass(frozen=True)
class _Slice:
    """What is inside the skull in one slice: values in HU (smoothed and not), and its area."""

    hu: Floats
    smooth: Floats
    area_cm2: float


def check_head(volume: Volume, frame: HeadFrame) -> None:
    """Refuse volumes that don't show a head.

    Parameters
    ----------
    volume : Volume
        In equation 4's values.
    frame : HeadFrame
        Where the head is taken to be.

    Raises
    ------
    NotScoredError
        If no skull encloses brain, or the vertex is cut off.
    """
    volume, frame = _upper(volume, frame)
    between, row, column = volume.voxel_mm
    areas = frame.mask.sum(axis=(1, 2)) * row * column / 100
    if not HEAD_CM2[0] <= float(areas.max()) <= HEAD_CM2[1]:
        raise NotScoredError("not a head")
    vault = [s for s in _inside_skull(volume, frame) if s.area_cm2 >= MIN_ENCLOSED_CM2]
    if len(vault) * between < MIN_VAULT_MM:
        raise NotScoredError("not a head: no skull around a brain")
    hu = np.concatenate([s.hu for s in vault])
    share = float(((hu >= BRAIN_HU[0]) & (hu <= BRAIN_HU[1])).mean())
    if not BRAIN_MEDIAN_HU[0] <= float(np.median(hu)) <= BRAIN_MEDIAN_HU[1] or share < MIN_BRAIN_SHARE:
        raise NotScoredError("a phantom, or not a head: what the skull holds is not brain")
    if float(np.median([s.smooth.std() for s in vault])) < MIN_STRUCTURE_HU:
        raise NotScoredError("a test pattern or phantom: what the skull holds has no structure")
    if float(areas[np.flatnonzero(areas)[-1]]) > MAX_TOP_SHARE * float(areas.max()):
        raise NotScoredError("the top of the head is not covered")
    widest = np.minimum(np.maximum.accumulate(areas), np.maximum.accumulate(areas[::-1])[::-1])
    if float((areas - MIN_WAIST * widest).min()) < 0:
        raise NotScoredError("more than one head, or not a head")
    _check_upright(volume, frame)
    _check_order(volume)
    _check_seams(volume, frame)
    _check_likeness(volume, frame)


def _upper(volume: Volume, frame: HeadFrame) -> tuple[Volume, HeadFrame]:
    """Return what may be head: no neck, no shoulders."""
    start = lowest_slice(frame.mask, volume.voxel_mm[0])
    affine = volume.affine + np.column_stack([np.zeros((3, 3)), start * volume.affine[:, 2]])
    return replace(volume, values=volume.values[start:], affine=affine), replace(frame, mask=frame.mask[start:])


def _check_upright(volume: Volume, frame: HeadFrame) -> None:
    """Refuse slices whose positions run against the anatomy: air and fat deep inside belong to the lower third."""
    shares = []
    for values, head in zip(volume.values, frame.mask, strict=True):
        core = ndimage.binary_erosion(ndimage.binary_fill_holes(head), iterations=SKIN_PIXELS)
        if core.sum() >= MIN_CORE_PIXELS:
            shares.append(float((values[core] <= TISSUE).mean()))
    third = len(shares) // 3
    if third and np.mean(shares[-third:]) > np.mean(shares[:third]):
        raise NotScoredError("the head seems to be upside down: the slices' positions are wrong")


def _check_order(volume: Volume) -> None:
    """Refuse slices of which neighbours don't belong together: shuffled, or of two heads."""
    upper = volume.values[len(volume.values) // 3 :]
    if _apart(upper, 1).mean() > MAX_UNEVENNESS * _apart(upper, 2).mean():
        raise NotScoredError("the slices do not follow one another: their positions are wrong")


def _check_seams(volume: Volume, frame: HeadFrame) -> None:
    """Refuse a head that a part of another continues."""
    sigma = [0.0, *(SEAM_SMOOTHING_MM / mm for mm in volume.voxel_mm[1:])]
    smooth = ndimage.gaussian_filter(volume.values, sigma)
    one, two = _apart(smooth, 1), _apart(smooth, 2)
    head = np.stack([ndimage.binary_fill_holes(mask) for mask in frame.mask]).astype(np.float32)
    outline = _apart(head, 1) / head.mean(axis=(1, 2)).max()
    # Of the steps from slice to slice those in the vault with a step on either side.
    steps = np.arange(max(1, len(head) // 3), len(head) - 2)
    seam = 2 * one[steps] / np.maximum(two[steps - 1] + two[steps], 1e-6)
    jump = outline[steps] - np.maximum(outline[steps - 1], outline[steps + 1])
    if np.any((seam > MAX_SEAM) & (jump > MAX_OUTLINE_JUMP)):
        raise NotScoredError("the slices do not follow one another: a part of them may be of another head")


def _apart(slices: Floats, step: int) -> Floats:
    """Return the mean absolute difference of each slice from the one that lies so many steps on."""
    found: Floats = np.abs(slices[step:] - slices[:-step]).mean(axis=(1, 2))
    return found


def _check_likeness(volume: Volume, frame: HeadFrame) -> None:
    head = coarse_head(volume, frame)
    mean, network = _learned()
    likeness = correlation(head, mean)
    if likeness < MIN_LIKENESS:
        raise NotScoredError("not a head, or one of unusual shape or size (a small child's)")
    # By quarters only: a patient may well lie with the head turned by 25 degrees.
    turned = max(correlation(np.rot90(head, quarters, axes=(1, 2)), mean) for quarters in (1, 2, 3))
    logit = network.even_logit(channels(head))
    if turned > likeness and not logit >= MIN_LOGIT_TURNED:
        raise NotScoredError("the head does not lie as the slices' orientation says")
    if not logit >= MIN_LOGIT:  # not a number is no head either
        raise NotScoredError("a phantom, or not a head: what the skull holds does not look like a brain")


def coarse_head(volume: Volume, frame: HeadFrame) -> Floats:
    """Return the upper part of a head on a coarse grid, float32, `COARSE.size`, slices from below."""
    sigma = [COARSE_SMOOTHING_MM / mm for mm in volume.voxel_mm]
    smooth = replace(volume, values=ndimage.gaussian_filter(volume.values, sigma))
    head: Floats = on_grid(smooth, frame, COARSE).astype(np.float32)
    return head


def channels(heads: Floats) -> Floats:
    """Return the two ways in which heads, (…, D, H, W), 0 to 127, are seen: (2, …, D, H, W)."""
    return np.stack([heads / 64 - 1, np.clip((heads - BRAIN) / AROUND, -2, 2)]).astype(np.float32)


@cache
def _learned() -> tuple[Floats, SmallNetwork]:
    """Return the mean head and the network."""
    arrays = shipped("gate_bct.npz")
    head: Floats = arrays.pop("head").astype(np.float32)
    return head, SmallNetwork.of(LAYERS, {name.removeprefix("network."): value for name, value in arrays.items()})


def _inside_skull(volume: Volume, frame: HeadFrame) -> Iterator[_Slice]:
    """Yield the largest region that bone encloses in each slice, with the scalp where a part of it is missing."""
    _, row, column = volume.voxel_mm
    radius = max(1, round(CLOSING_MM / row))
    least = MIN_ENCLOSED_CM2 * 100 / (row * column)
    for values, head in zip(volume.values, frame.mask, strict=True):
        bone = (values >= BONE_HU + HU_OFFSET) & head
        region = enclosed_by(bone, radius)
        if region.sum() < least:
            whole = ndimage.binary_fill_holes(head)
            scalp = whole & ~ndimage.binary_erosion(whole, iterations=max(1, round(SCALP_MM / row)))
            wider = enclosed_by(bone | scalp, radius)
            around = ndimage.binary_dilation(wider, iterations=2) & ~wider
            if around.any() and float(bone[around].mean()) >= MIN_BONE_SHARE:
                region = wider
        if region.any():
            yield _measured(values, region, (row, column))


def enclosed_by(wall: npt.NDArray[np.bool_], radius: int) -> npt.NDArray[np.bool_]:
    """Return the largest region within a wall whose gaps of up to about twice the radius are closed, in pixels."""
    disc = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    closed = ndimage.binary_closing(np.pad(wall, radius), disc)[radius:-radius, radius:-radius]
    labels, count = ndimage.label(ndimage.binary_fill_holes(closed) & ~closed)
    largest: npt.NDArray[np.bool_] = labels == (int(np.bincount(labels.ravel())[1:].argmax()) + 1 if count else -1)
    return largest


def _measured(values: Floats, region: npt.NDArray[np.bool_], pixel_mm: tuple[float, float]) -> _Slice:
    hu = values - np.float32(HU_OFFSET)
    sigma = [SMOOTHING_MM / mm for mm in pixel_mm]
    # Smoothing within the region alone: bone at its border must not leak in.
    weight = ndimage.gaussian_filter(region.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(np.where(region, hu, 0), sigma) / np.maximum(weight, 1e-3)
    # Along the border partial volume is no structure.
    core = ndimage.binary_erosion(region, iterations=3)
    return _Slice(hu=hu[region], smooth=smooth[core], area_cm2=float(region.sum()) * pixel_mm[0] * pixel_mm[1] / 100)
