"""Which slices make up a head: what belongs together in a series, what is told apart, and what counts once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.images import (
    Slices,
    Store,
    again,
    by_position,
    reason_of,
    same_but_for,
    score_input,
    second_series,
    with_,
)
from workers.images import Source
from workers.images.bct import MOST_TOLD, _beside, _candidates, _RefusedError, _softness
from workers.images.frames import frames_of
from workers.images.stacks import group

pytest_plugins = ["tests.support.images"]


@pytest.mark.parametrize("count", [1, 33])
def test_slices_that_were_sent_twice_under_other_names_count_once(store: Store, head: Slices, count: int) -> None:
    once, twice = score_input(store(head)), score_input(store(head + again(head[:count])))
    assert np.array_equal(once.model_input.pixels, twice.model_input.pixels)
    assert f"{len(head)} of {len(head) + len(head[:count])} slices of the series" in twice.notes
    assert f"{len(head)} slices" in once.notes


def test_a_series_stays_whole_whatever_its_slices_say(store: Store, head: Slices) -> None:
    """Another kernel at the base, an agent in one slice, rounded pixels, a slice that calls itself derived."""
    whole = score_input(store(head))
    for n, ds in enumerate(by_position(head)):
        ds.ConvolutionKernel = "H30s" if n < 10 else "H31s"
        ds.PixelSpacing = [float(v) + (n % 2) * 2e-6 for v in ds.PixelSpacing]
        ds.ImageOrientationPatient = [1, 2e-6 * (n % 3), 0, 0, 1, 0]
    head[5].ContrastBolusAgent = "IOMERON 300"
    head[7].ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    found = score_input(store(head))
    assert found.sources == whole.sources
    assert same_but_for(found.model_input.pixels, whole.model_input.pixels) < 0.1
    assert "kernel H31S" in found.notes


def test_slices_that_were_left_out_are_told(store: Store, head: Slices) -> None:
    del by_position(head)[0].ImagePositionPatient
    assert f"{len(head) - 1} of {len(head)} slices of the series" in score_input(store(head)).notes


def moved(slices: Slices, up_mm: float) -> Slices:
    for ds in slices:
        x, y, z = (float(v) for v in ds.ImagePositionPatient)
        ds.ImagePositionPatient = [x, y, z + up_mm]
    return slices


def test_a_thin_slice_that_is_missing_refuses_no_head(store: Store, head: Slices) -> None:
    """Of a head in slices of 1.25 mm one was lost, as of a public one: what it showed, both its neighbours touch."""
    thin = [ds for up_mm in (0, 1.25, 2.5, 3.75) for ds in moved(again(head), up_mm)]
    ordered = by_position(with_(thin, SliceThickness=1.25))
    whole, found = score_input(store(ordered)), score_input(store(ordered[:60] + ordered[61:]))
    difference = np.abs(whole.model_input.pixels.astype(int) - found.model_input.pixels)
    assert len(found.sources) == len(ordered) - 1
    assert difference.mean() < 0.1
    assert reason_of(store(ordered[:60] + ordered[62:])) == "slices missing between 74 and 78 mm above the lowest slice"


def test_a_thin_acquisition_that_was_repeated_in_part_half_a_slice_off_is_told_apart(
    store: Store, head: Slices
) -> None:
    """Between its slices no gap is larger than 2.5 mm, where they lie alone: two acquisitions are no thin one."""
    thin = [ds for up_mm in (0, 2.5) for ds in moved(again(head), up_mm)]
    first = by_position(with_(thin, SliceThickness=2.5, AcquisitionNumber=1))
    repeat = with_(moved(again(first[: len(first) * 2 // 3]), 1.25), AcquisitionNumber=2)
    assert set(score_input(store([*first, *repeat])).sources) == {ds.SOPInstanceUID for ds in first}


def test_a_series_of_the_head_comes_before_one_down_to_the_shoulders(store: Store, head: Slices) -> None:
    ordered = by_position(head)
    body = [ds for down in range(1, 5) for ds in moved(again(ordered[:10]), -50.0 * down)]
    trauma = with_(second_series(head) + body, SeriesInstanceUID="2.25.77", AcquisitionTime="235959")
    thin = with_([ds for up_mm in (0, 2.5) for ds in moved(again(head), up_mm)], SliceThickness=2.5)
    candidates = _candidates([f for s in store(trauma + thin) for f in frames_of(s, s.header())[0]])[0]
    assert [len(found.stack.frames) for found in candidates] == [len(thin), len(trauma)]


OTHERS: list[tuple[dict[str, object], float, int]] = [
    ({"ConvolutionKernel": "H60s"}, 0.0, 26),
    ({"ConvolutionKernel": "H60s"}, 0.5, 26),
    ({"ConvolutionKernel": "H60s"}, 2.5, 25),
    ({"ConvolutionKernel": "B60s"}, -40.0, 8),  # the neck
    ({"ConvolutionKernel": "B60s"}, -100.0, 20),
    ({"ContrastBolusAgent": "IOMERON 400"}, 0.0, 26),
    ({"ContrastBolusAgent": "IOMERON 400"}, 1.0, 26),
    ({"ContrastBolusAgent": "IOMERON 400"}, 2.5, 25),
]


def with_others(head: Slices, changes: dict[str, object], up_mm: float, count: int) -> Slices:
    return head + moved(with_(again(by_position(head)[:count]), **changes), up_mm)


@pytest.mark.parametrize(("changes", "up_mm", "count"), OTHERS)
def test_two_reconstructions_within_one_series_are_told_apart(
    store: Store, head: Slices, changes: dict[str, object], up_mm: float, count: int
) -> None:
    sources = store(with_others(head, changes, up_mm, count))
    frames = [frame for source in sources for frame in frames_of(source, source.header())[0]]
    best = _candidates(frames)[0][0]
    chosen = [frame.source.sop_instance_uid for frame in best.stack.frames]
    assert chosen == [ds.SOPInstanceUID for ds in by_position(head)]


def test_of_two_reconstructions_one_is_scored_and_how_many_slices_there_were_is_told(
    store: Store, head: Slices
) -> None:
    changes, up_mm, count = OTHERS[1]
    found = score_input(store(with_others(head, changes, up_mm, count)))
    assert set(found.sources) == {ds.SOPInstanceUID for ds in head}
    assert f"{len(head)} of {len(head) + count} slices of the series" in found.notes


def test_which_of_two_soft_kernels_is_scored_hangs_on_the_kernel(store: Store, head: Slices) -> None:
    for names in range(3):  # whatever the slices' names: which of two soft kernels is scored hangs on the kernel
        soft = with_(second_series(head), ConvolutionKernel="H40s")
        renamed = second_series(head)
        assert "kernel H31S" in score_input(store(soft + renamed)).notes, names


@pytest.mark.parametrize(
    ("own", "others", "is_told"),
    [
        ({"SeriesDescription": "HEAD W/O CONTRAST"}, {"SeriesDescription": "HEAD + C"}, True),
        ({"SeriesDescription": "HEAD"}, {"SeriesDescription": "CTA HEAD"}, True),
        ({"SeriesDescription": "POST. FOSSA"}, {"SeriesDescription": "HEAD POST KM"}, True),
        ({"SeriesDescription": "HEAD 5MM"}, {"SeriesDescription": "4cc sec 150cc D3D on"}, True),
        ({"SeriesDescription": "512CC 0.75 ML"}, {"SeriesDescription": "HEAD_100ML"}, True),
        ({"ContrastBolusVolume": "0"}, {"ContrastBolusVolume": "80"}, False),
        (
            {"SeriesDescription": "HEAD SOFT", "ConvolutionKernel": ""},
            {"SeriesDescription": "HEAD BONE", "ConvolutionKernel": ""},
            True,
        ),
    ],
)
def test_the_plain_soft_series_is_scored_though_another_is_later(
    store: Store, head: Slices, own: dict[str, object], others: dict[str, object], is_told: bool
) -> None:
    """An agent in a vessel is as bright as blood; which series it was is told where there was a choice."""
    plain = with_(head, AcquisitionTime="100000", SeriesNumber=3, **own)
    other = with_(second_series(head), AcquisitionTime="101500", **{"SeriesNumber": 4, **others})
    found = score_input(store(plain + other))
    assert set(found.sources) == {ds.SOPInstanceUID for ds in plain}
    assert ("1 of 2 that show a head, series number 3" in found.notes) == is_told


def test_what_else_the_study_holds_is_told(store: Store, head: Slices) -> None:
    """Whoever reads that a head was scored must not think that its bone or contrast series was looked at, too."""
    enhanced = with_(second_series(head), ContrastBolusAgent="IOMERON 300")
    [scout] = with_(second_series(head)[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SOPInstanceUID="1.2.9")
    assert score_input(store(head + enhanced)).notes[-1] == "not scored: contrast series"
    assert score_input(store(head + enhanced + [scout])).notes[-2:] == [
        "not scored: contrast series", "not scored: localizer",
    ]  # fmt: skip
    [stray] = second_series(head)[:1]
    assert score_input(store([*head, stray])).notes[-1] == "not scored: a series (a single slice only)"
    kinds = [_RefusedError(number, f"only {number} slices") for number in range(1, MOST_TOLD + 5)] * 2
    assert _beside(kinds)[0] == f"not scored: a series (only {MOST_TOLD + 4} slices)"
    assert len(_beside(kinds)) == MOST_TOLD + 1
    assert _beside(kinds)[-1] == "not scored: 4 more"
    assert not any("not scored" in note for note in score_input(store(head)).notes)


SOFT = "H30s H31s H37s H40s H45s J30s J37s J40s J45s Hr32 Hr38f Hr40f Hr44 Qr40 B30s FC21 FC26 FC64 UB STANDARD SOFT"


@pytest.mark.parametrize(
    ("kernel", "softness"),
    [*((name, 0) for name in SOFT.split()), *((name, 1) for name in ("Bv36d", "BV40", "Hv36", "Qv40", "B45f", ""))],
)
def test_which_kernels_are_soft(head: Slices, kernel: str, softness: int) -> None:
    (ds,) = with_(head[:1], ConvolutionKernel=[kernel, "3"])
    (frame,), _ = frames_of(Source("slice", Path("not read")), ds)
    assert _softness(frame.kernel, "") == softness


@pytest.mark.parametrize("kernel", ["Hr40f", "H31s", "J40s"])
def test_a_series_for_vessels_does_not_come_before_a_plain_head(store: Store, head: Slices, kernel: str) -> None:
    """Nothing else says that an agent was given: vessels would be taken for blood."""
    plain = with_(second_series(head), ConvolutionKernel=[kernel, "3"], AcquisitionTime="100000")
    vessels = with_(head, ConvolutionKernel=["Bv36d", "3"], SeriesDescription="HEAD NECK", AcquisitionTime="101000")
    assert set(score_input(store(plain + vessels)).sources) == {ds.SOPInstanceUID for ds in plain}


def test_of_series_that_say_the_same_the_latest_is_scored(store: Store, head: Slices) -> None:
    first = with_(second_series(head), AcquisitionTime="100000")
    repeated = with_(head, AcquisitionTime="100000.5")
    assert set(score_input(store(first + repeated)).sources) == {ds.SOPInstanceUID for ds in repeated}


def test_a_broken_slice_of_another_acquisition_loses_no_head(store: Store, head: Slices) -> None:
    part = with_(again(head[:6]), AcquisitionNumber=2)
    part[0].PixelData = part[0].PixelData[:100]
    assert set(score_input(store(head + part)).sources) == {ds.SOPInstanceUID for ds in head}


@pytest.mark.parametrize("again_from_to", [(0, 33), (12, 18)])
def test_an_acquisition_that_was_repeated_a_little_higher_is_told_apart(
    store: Store, head: Slices, again_from_to: tuple[int, int]
) -> None:
    """The table doesn't come back to the tenth of a millimetre; of complete ones the latest is scored."""
    start, end = again_from_to
    first = with_(by_position(head), AcquisitionNumber=1, AcquisitionTime="100000")
    repeat = with_(moved(again(first[start:end]), 1.3), AcquisitionNumber=2, AcquisitionTime="100500")
    found = score_input(store(first + repeat))
    assert found.sources == [ds.SOPInstanceUID for ds in (repeat if len(repeat) == len(first) else first)]
    assert f"{len(head)} of {len(first + repeat)} slices of the series" in found.notes


def test_of_acquisitions_that_follow_one_another_none_is_taken_for_the_whole(store: Store, head: Slices) -> None:
    """The upper one alone would pass for a head whose base nobody missed."""
    ordered = by_position(head)
    with_(ordered[:7], AcquisitionNumber=1)
    with_(ordered[7:], AcquisitionNumber=2)
    assert reason_of(store(ordered[:6] + ordered[7:])) == "slices missing between 25 and 35 mm above the lowest slice"


@pytest.mark.parametrize("at_top", [True, False])
def test_an_acquisition_is_not_taken_for_the_whole_where_another_shows_a_place_more(
    store: Store, head: Slices, at_top: bool
) -> None:
    """One slice missing beside the end, and the end alone in another acquisition: the head would lose 10 mm."""
    ordered = by_position(head)[:: 1 if at_top else -1]
    with_(ordered, AcquisitionNumber=1)
    with_(ordered[-1:], AcquisitionNumber=2)
    assert reason_of(store(ordered[:-2] + ordered[-1:])).startswith("slices missing between")


def test_groups_do_not_hang_on_the_order_of_slices(store: Store, head: Slices) -> None:
    """Written planes scatter: which slices are alike must not hang on which of them came first."""
    rng = np.random.default_rng(0)
    frames = [frames_of(source, ds)[0][0] for source, ds in zip(store(head), head, strict=True)]
    scattered = [replace(f, row=f.row + np.array([0, rng.uniform(-0.008, 0.008), 0])) for f in frames]

    def found(order: npt.NDArray[np.intp]) -> set[frozenset[str]]:
        parts = group([scattered[n] for n in order])
        return {frozenset(frame.source.sop_instance_uid for frame in part) for part in parts}

    assert all(found(rng.permutation(len(frames))) == found(np.arange(len(frames))) for _ in range(20))
