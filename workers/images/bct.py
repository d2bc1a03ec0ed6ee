"""Brain CT: which series of a study is scored, and that series on the model's grid."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from triage.errors import NotScoredError
from triage.manifest import Preprocessing
from triage.messages import ModelInput
from workers.images.frames import Frame, frames_of
from workers.images.gate_bct import check_head
from workers.images.level import shift_hu, shifted
from workers.images.reconstructions import SHARP, reconstructions, stack_of
from workers.images.resample import HeadFrame, head_frame, on_grid
from workers.images.sources import BCT, Prepared, Source
from workers.images.stacks import MAX_COVERAGE_MM, MAX_SLICES, Stack
from workers.images.straighten import pose
from workers.images.volume import Volume, load_volume

MAX_OBLIQUE_DEGREES = 30.0
FIELD_OF_VIEW_MM = (130.0, 520.0)
MIN_COVERAGE_MM = 110.0
#: In so many slices of a study a head is looked for at most, one to three minutes' work; the likeliest series come
#: first. Slices that are decoded only to tell whether they were sent twice are not counted.
MAX_DECODED = 3000
PREFERRED_THICKNESS_MM = 5.0
PREFERRED_KVP = 120.0
#: Heads are mostly turned a little, and brain is a little darker or brighter; from here on a reader is told.
TOLD_DEGREES = 5.0
TOLD_HU = 3.0
#: A series that covers more goes down to the shoulders: one of the head alone comes before it.
MOST_OF_HEAD_MM = 260.0
#: Brain that no slice shows, between two of them: told only, for some scans are made so.
TOLD_UNSEEN_MM = 1.5

#: So many kinds of what was not scored are told beside a score.
MOST_TOLD = 5

#: A peer's text goes no further than it is printable, and a value of VR SH long.
_UNPRINTABLE = re.compile(r"[^ -~]")
KERNEL_LENGTH = 16
_HEAD = re.compile(r"HEAD|BRAIN|CEREBR|CRAN|SKULL|KOPF|SCHAEDEL|SCHÄDEL|TETE|NEURO", re.IGNORECASE)
#: Makers' names of soft kernels. Siemens: H30s, J40s, Hr44, Qr36, but none for vessels (Bv36, Hv40); Canon FC21, FC64;
#: Philips UB; GE STANDARD, SOFT.
_SOFT = re.compile(
    r"SOFT|STAND|STD|BRAIN|\b[A-Z][A-UW-Z]?[23]\d[A-Z]?\b|\b[HJQ][A-UW-Z]?4\d[A-Z]?\b|\bFC[26]\d\b|\bU[ABC]\b"
)
#: What descriptions say of series whose other attributes say nothing of agent or kernel.
_ENHANCED = re.compile(
    r"\bCTA\b|ANGIO|\+ ?C\b|\bC ?\+|\bPOST\b(?!\W*FOSSA)|CONTRAST|ENHANC|\bKM\b|PERFUS|VENO"
    r"|(?<![\d.,])(?:[4-9]\d|1\d\d) ?(?:CC|ML)(?![A-Z])"
)
_PLAIN = re.compile(r"\bW/?O\b|WITHOUT|\bNON|\bOHNE|\bSANS|\bSIN\b|NATIV|UNENHANC|PLAIN|\bC ?-")
_BONE = re.compile(r"BONE|KNOCHEN|OSSEU|OSSO|HUESO")

_Said = TypeVar("_Said", str, bool, float)


class _RefusedError(NotScoredError):
    """A stack is refused; how far it came tells which of several refusals explains the study best.

    ``beside`` says what it was where another one was scored.
    """

    def __init__(self, stage: int, message: str, beside: str = "") -> None:
        super().__init__(message)
        self.stage, self.beside = stage, beside or f"a series ({message})"


@dataclass(frozen=True, kw_only=True)
class HeadTensor:
    """A head as a model sees it.

    Attributes
    ----------
    pixels : numpy.ndarray
        uint8, (D, H, W), on the model's grid; see `workers.images.resample.on_grid`.
    frame : HeadFrame
        Along which the grid was laid.
    shift_hu : float
        By how much its brain was brightened, HU.
    """

    pixels: npt.NDArray[np.uint8]
    frame: HeadFrame
    shift_hu: float


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    stack: Stack
    kernel: str
    thickness_mm: float
    order: tuple[object, ...]


def prepare_bct(headers: Sequence[tuple[Source, Dataset]], grid: Preprocessing) -> Prepared:
    """Choose the plain axial soft-tissue head series of a study and bring it onto the model's grid.

    Stacks are refused by geometry and acquisition first; the others are tried in this order until one passes the
    image check, or `MAX_DECODED` slices were decoded: not described as enhanced; soft kernel, then any other, last one
    that is described as for bone; of the head alone; thickness nearest 5 mm; tube voltage nearest 120 kV; described as
    head or brain; most slices; latest; kernel; Series Instance UID.

    Parameters
    ----------
    headers : sequence of (Source, pydicom.Dataset)
        The study's CT instances and their headers.
    grid : Preprocessing
        ``size`` is (D, H, W), ``spacing_mm`` the same order in mm.

    Raises
    ------
    NotScoredError
        If there is none.
    """
    frames: list[Frame] = []
    refused: list[_RefusedError] = []
    unplaced: Counter[str] = Counter()
    for source, ds in headers:
        found, lost = frames_of(source, ds)
        frames += found
        unplaced[str(ds.get("SeriesInstanceUID", ""))] += len(lost)
        refused += [_RefusedError(1, exc.message) for exc in lost]
    held = unplaced + Counter(frame.series for frame in frames if "LOCALIZER" not in frame.image_type)
    candidates, others = _candidates(frames)
    refused += others
    tried: list[str] = []
    passed_over = _beside(refused)
    left = MAX_DECODED
    for candidate in candidates:
        if len(candidate.stack.frames) > left:
            refused.append(_RefusedError(9, f"not looked at: more than {MAX_DECODED} slices that may show a head"))
            tried.append(f"slices that came first {refused[-1].message}")
            continue
        left -= len(candidate.stack.frames)
        try:
            prepared = _prepared(candidate, held[candidate.stack.frames[0].series], grid)
        except NotScoredError as exc:
            refused.append(_RefusedError(9, exc.message))
            tried.append(f"slices that came first not scored: {exc.message}")
            continue
        told = [*_choice(candidate, len(candidates)), *dict.fromkeys(tried), *passed_over]
        return replace(prepared, notes=[*prepared.notes, *told])
    furthest = max((exc.stage for exc in refused), default=0)
    reasons = dict.fromkeys(exc.message for exc in refused if exc.stage == furthest)
    raise NotScoredError("; ".join(list(reasons)[:2]) or "no CT slices in the study")


def _beside(refused: Sequence[_RefusedError]) -> list[str]:
    """Return what of the study was not scored, each kind once, the likeliest first; of very many kinds a few."""
    kinds = list(dict.fromkeys(exc.beside for exc in sorted(refused, key=lambda exc: (-exc.stage, exc.beside))))
    more = [f"{len(kinds) - MOST_TOLD} more"] if len(kinds) > MOST_TOLD else []
    return [f"not scored: {kind}" for kind in kinds[:MOST_TOLD] + more]


def _choice(candidate: _Candidate, count: int) -> list[str]:
    """Return what a reader should know where others were passed over: which one it was."""
    number = candidate.stack.frames[0].series_number
    which = "" if number is None else f", series number {number}"
    return [f"1 of {count} that show a head{which}"] if count > 1 else []


def scored_head(sources: Sequence[Source], grid: Preprocessing) -> tuple[Stack, Volume, HeadFrame]:
    """Return once more what `prepare_bct` chose, from the instances that it named: they may hold other stacks, too.

    Raises
    ------
    NotScoredError
        If the instances cannot be read any more as they were.
    """
    frames = [frame for source in sources for frame in frames_of(source, source.header())[0]]
    for candidate in _candidates(frames)[0]:
        with suppress(NotScoredError):
            return candidate.stack, *_gated(candidate.stack, grid)
    raise NotScoredError("the slices that were scored are not there any more")


def bct_tensor(volume: Volume, frame: HeadFrame, grid: Preprocessing) -> HeadTensor:
    """Bring a head onto the model's grid: straightened, evened in density and smoothed, if the grid asks for that.

    Parameters
    ----------
    volume : Volume
        In equation 4's values.
    frame : HeadFrame
        Where the head is.
    grid : Preprocessing
        The bundle's.
    """
    laid, by_hu = pose(volume, frame, grid), shift_hu(volume, frame, grid)
    pixels = on_grid(shifted(volume, by_hu), laid, grid, smooth_mm=grid.smooth_mm)
    return HeadTensor(pixels=pixels, frame=laid, shift_hu=by_hu)


def _prepared(candidate: _Candidate, held: int, grid: Preprocessing) -> Prepared:
    """Bring a stack onto the grid; its series holds so many slices."""
    stack = candidate.stack
    head = bct_tensor(*_gated(stack, grid), grid)
    count = len(stack.frames)
    notes = [f"{count} slices" if count == held else f"{count} of {held} slices of the series"]
    if candidate.thickness_mm > 0:
        notes.append(f"{candidate.thickness_mm:g} mm")
    if kernel := _UNPRINTABLE.sub("", candidate.kernel):
        notes.append(f"kernel {kernel[:KERNEL_LENGTH]}")
    if stack.unseen_mm > TOLD_UNSEEN_MM:
        notes.append(f"{stack.unseen_mm:.1f} mm between slices not seen")
    if stack.tilt_degrees > 0.5:
        notes.append(f"gantry tilt of {stack.tilt_degrees:.1f} degrees corrected")
    if abs(head.frame.turned_degrees) >= TOLD_DEGREES:
        notes.append(f"head turned by {abs(head.frame.turned_degrees):.0f} degrees, straightened")
    if abs(head.shift_hu) >= TOLD_HU:
        way = "darker" if head.shift_hu > 0 else "brighter"
        notes.append(f"brain {way} than usual, evened by {abs(head.shift_hu):.0f} HU")
    uids = list(dict.fromkeys(f.source.sop_instance_uid for f in stack.frames))
    return Prepared(model_input=ModelInput(modality=BCT, pixels=head.pixels), sources=uids, modality=BCT, notes=notes)


def _gated(stack: Stack, grid: Preprocessing) -> tuple[Volume, HeadFrame]:
    volume = load_volume(stack, grid)
    frame = head_frame(volume)
    check_head(volume, frame)
    return volume, frame


def _candidates(frames: Sequence[Frame]) -> tuple[list[_Candidate], list[_RefusedError]]:
    """Return what headers and geometry let through, best first, and what they don't."""
    found, refused = [], []
    for members in reconstructions(frames):
        try:
            found.append(_candidate(members))
        except _RefusedError as exc:
            refused.append(exc)
    return sorted(found, key=lambda candidate: candidate.order), refused


def _candidate(members: Sequence[Frame]) -> _Candidate:
    """Judge a group of slices by its headers: by what most of them say."""
    _check_kind(_usual(f.image_type for f in members))
    if abs(members[0].normal[2]) < np.cos(np.radians(MAX_OBLIQUE_DEGREES)):
        raise _RefusedError(3, "no axial series", "no axial slices")
    kernel = _usual(f.kernel for f in members)
    if _usual(f.contrast for f in members):
        raise _RefusedError(5, "contrast series only", "contrast series")
    if SHARP.search(kernel):
        raise _RefusedError(6, "bone kernel only", "bone kernel")
    try:
        stack = stack_of(members)
    except NotScoredError as exc:
        raise _RefusedError(4 if len(members) > 1 else 2, exc.message) from exc
    first = stack.frames[0]
    sides = first.shape[0] * first.pixel_mm[0], first.shape[1] * first.pixel_mm[1]
    for side in sides:
        if not FIELD_OF_VIEW_MM[0] <= side <= FIELD_OF_VIEW_MM[1]:
            raise _RefusedError(7, f"a field of view of {side:.0f} mm does not show a head")
    _check_extent(stack)
    thickness_mm = _usual(f.thickness_mm for f in stack.frames)
    order = (
        _sounds_enhanced(first.series_description),
        _softness(kernel, first.series_description),
        stack.coverage_mm > MOST_OF_HEAD_MM,
        abs((thickness_mm or PREFERRED_THICKNESS_MM) - PREFERRED_THICKNESS_MM),
        abs((_usual(f.kvp for f in stack.frames) or PREFERRED_KVP) - PREFERRED_KVP),
        0 if _HEAD.search(first.description) else 1,
        -len(stack.frames),
        -max(_moment(f.when) for f in stack.frames),
        kernel,
        first.series,
    )
    return _Candidate(stack=stack, kernel=kernel, thickness_mm=thickness_mm, order=order)


def _check_extent(stack: Stack) -> None:
    """Refuse what is too short or too long for a head before any of it is decoded."""
    if stack.coverage_mm < MIN_COVERAGE_MM:
        raise _RefusedError(7, f"the slices cover {stack.coverage_mm:.0f} mm only, not the whole brain")
    if stack.coverage_mm > MAX_COVERAGE_MM:
        raise _RefusedError(7, f"the slices cover {stack.coverage_mm:.0f} mm, more than a head")
    if len(stack.frames) > MAX_SLICES:
        raise _RefusedError(7, f"{len(stack.frames)} slices, more than a head has")


def _sounds_enhanced(description: str) -> bool:
    """Tell whether a series says that an agent was given, though no attribute does."""
    return bool(_ENHANCED.search(description)) and not _PLAIN.search(description)


def _softness(kernel: str, description: str) -> int:
    """Return 0 for a soft kernel, 1 for an unknown one, 2 for one of which the description says that it is for bone."""
    if _SOFT.search(kernel):
        return 0
    return 2 if _BONE.search(description) else 1


def _moment(when: str) -> int:
    """Return a number that is higher for the later of two times of one VR, TM or DT."""
    digits = re.sub(r"[^0-9]", "", when)
    return int(digits[:20].ljust(20, "0"))


def _usual(values: Iterable[_Said]) -> _Said:
    """Return the most frequent value; of equally frequent ones the greatest, so that no order of files decides."""
    counts = Counter(values)
    return max(counts, key=lambda value: (counts[value], value))


def _check_kind(image_type: str) -> None:
    """Refuse by ImageType (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1); absent is taken as an original."""
    kind = image_type.split()
    if "LOCALIZER" in kind:
        raise _RefusedError(1, "localizer only", "localizer")
    if "SECONDARY" in kind:
        raise _RefusedError(2, "only images made from other images", "images made from other images")
    # A lossy copy of an original axial slice must call itself DERIVED; a reformat or projection says so.
    if "DERIVED" in kind and "AXIAL" not in kind:
        raise _RefusedError(2, "only images made from other images", "images made from other images")
