"""Which CT series of a study is scored, that geometry decides, and that the tensor is the patient's, not the file's."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from tests.support.images import (
    Slices,
    Store,
    again,
    by_position,
    enhanced,
    reason_of,
    same_but_for,
    score_input,
    second_series,
    set_pixels,
    stored,
    with_,
)
from tests.support.peers import shared
from workers.images import Source
from workers.images.frames import frames_of
from workers.images.volume import HU_OFFSET, TOP

pytest_plugins = ["tests.support.images"]


def tensor(store: Store, slices: Slices) -> np.ndarray:
    return score_input(store(slices)).model_input.pixels


@pytest.mark.parametrize("name", ["p110_noich", "p64_noich", "p73_ich", "p79_ich", "p86_ich", "p99_noich"])
def test_every_real_head_passes(name: str) -> None:
    files = sorted(shared("data", "dicom_bct", name).glob("*.dcm"))
    found = score_input([Source(file.name, file) for file in files])
    assert found.modality == "BCT"
    assert found.model_input.pixels.shape == (32, 128, 128)
    assert len(found.sources) == len(files)


def test_a_real_tilted_series_is_corrected(collection: Path) -> None:
    """The GE series' gantry leans by 18.5 degrees: without correction the head would walk out of the grid."""
    files = sorted((collection / "ct_head" / "ge_gantry_tilt").glob("*.dcm"))
    found = score_input([Source(file.name, file) for file in files])
    assert "gantry tilt of 18.5 degrees corrected" in found.notes
    head = found.model_input.pixels > HU_OFFSET
    middles = [np.nonzero(level)[0].mean() for level in head[14:28]]
    assert np.ptp(middles) < 12  # rows; 14 slices of 4 mm sheared by 18.5 degrees would be 11 rows more


def test_position_orders_the_slices_not_the_number_nor_the_file(store: Store, head: Slices) -> None:
    numbers = [int(ds.InstanceNumber) for ds in by_position(head)]
    assert numbers == sorted(numbers, reverse=True)  # the data's trap
    found = score_input(store(head))
    assert found.sources == [ds.SOPInstanceUID for ds in by_position(head)]
    shuffled = [head[i] for i in np.random.default_rng(0).permutation(len(head))]
    for n, ds in enumerate(shuffled):
        ds.InstanceNumber = n + 1
    again = score_input(store(shuffled))
    assert again.sources == found.sources
    assert np.array_equal(again.model_input.pixels, found.model_input.pixels)


def test_missing_doubled_and_irregular_slices_are_refused(store: Store, head: Slices) -> None:
    ordered = by_position(head)
    assert reason_of(store(ordered[:10] + ordered[11:])) == "slices missing between 45 and 55 mm above the lowest slice"
    (double,) = again(ordered[12:13])
    set_pixels(double, stored(double)[::-1])
    assert reason_of(store([*ordered, double])) == "several slices lie at the same position"
    ordered[9].ImagePositionPatient[2] += 2.4
    assert reason_of(store(ordered)) == "the distance between slices is irregular"


def test_brain_between_slices_that_none_shows_is_told(store: Store, head: Slices) -> None:
    """Every second slice is missing, evenly: a scan may have been made so, or half of it isn't there yet."""
    whole, half = score_input(store(by_position(head))), score_input(store(by_position(head)[::2]))
    assert "5.0 mm between slices not seen" in half.notes
    assert not any("not seen" in note for note in whole.notes)


@pytest.mark.parametrize("unknown", [slice(8, 9), slice(0, 1), slice(8, 12), slice(None)])
def test_slices_that_do_not_say_how_thick_they_are_are_not_taken_for_thin(
    store: Store, head: Slices, unknown: slice
) -> None:
    ordered = by_position(head)
    with_(ordered[unknown], SliceThickness=None)
    notes = score_input(store(ordered)).notes
    assert f"{len(head)} slices" in notes
    assert "0 mm" not in notes
    assert ("5 mm" in notes) == (unknown != slice(None))
    assert "slices missing between" in reason_of(store(ordered[:9] + ordered[10:]))


def test_a_repeated_acquisition_is_told_apart(store: Store, head: Slices) -> None:
    repeat = second_series(head, AcquisitionNumber=2)
    with_(repeat, SeriesInstanceUID=head[0].SeriesInstanceUID)
    found = score_input(store(head + repeat[:12]))
    assert set(found.sources) == {ds.SOPInstanceUID for ds in head}


def test_slices_too_far_apart_too_few_or_covering_too_little(store: Store, head: Slices) -> None:
    ordered = by_position(head)
    assert reason_of(store(ordered[:1])) == "a single slice only"
    assert reason_of(store(ordered[:5])) == "only 5 slices"
    assert "not the whole brain" in reason_of(store(ordered[-15:]))
    for n, ds in enumerate(ordered):
        ds.ImagePositionPatient[2] = 12.0 * n
    assert reason_of(store(ordered)) == "the slices are 12 mm apart"


@pytest.mark.parametrize(
    ("pixel", "shown"), [((0.2, 0.2), 102), ((1.2, 1.2), 614), ((0.2, 0.5), 102), ((0.5, 0.2), 102), ((0.5, 1.2), 614)]
)
def test_field_of_view(store: Store, head: Slices, pixel: tuple[float, float], shown: int) -> None:
    """What is told is the side that is too small or too large."""
    reason = reason_of(store(with_(head, PixelSpacing=list(pixel))))
    assert reason == f"a field of view of {shown} mm does not show a head"


def test_the_patient_not_the_files_orientation(store: Store, head: Slices) -> None:
    """The same head as a scanner stores it prone, feet first, or mirrored."""
    reference = tensor(store, head)
    pixel = float(head[0].PixelSpacing[0])
    far = pixel * (head[0].Rows - 1)
    for flip_rows, flip_columns in ((True, True), (False, True), (True, False)):
        turned = deepcopy(head)
        for ds in turned:
            values, position = stored(ds), np.array([float(v) for v in ds.ImagePositionPatient])
            if flip_columns:
                values, position[0] = values[:, ::-1], position[0] + far
            if flip_rows:
                values, position[1] = values[::-1], position[1] + far
            set_pixels(ds, values)
            ds.ImagePositionPatient = position.tolist()
            ds.ImageOrientationPatient = [-1 if flip_columns else 1, 0, 0, 0, -1 if flip_rows else 1, 0]
        # Blocks of pixels are counted from the other edge, which moves their raster by a fraction of a pixel.
        assert same_but_for(tensor(store, turned), reference) < 1.0
        mirrored = reference[:, :, ::-1]
        assert same_but_for(mirrored, reference) > 3


def test_hounsfield_units_come_by_rescale_and_equation_4(store: Store, head: Slices) -> None:
    reference = tensor(store, head)
    assert reference.max() <= TOP
    assert (reference[:, :2] == 0).all()  # air: -1000 HU + 14, clipped
    doubled = deepcopy(head)
    for ds in doubled:
        set_pixels(ds, (stored(ds) * 2).astype(np.uint16))
    assert np.array_equal(tensor(store, with_(doubled, RescaleSlope=0.5, BitsStored=13, HighBit=12)), reference)
    warmer = tensor(store, with_(head, RescaleIntercept=-1014)).astype(int)
    inside = (reference > 30) & (reference < 90)
    assert np.median((warmer - reference)[inside]) == 10
    assert reason_of(store(with_(head, RescaleType="US"))) == "the CT numbers are not in Hounsfield units"


def test_padding_is_air_even_if_it_reads_as_tissue(store: Store, head: Slices) -> None:
    reference = tensor(store, head)
    for ds in head:
        values = stored(ds)
        air = values <= 24  # -1000 HU
        values[values == 1064] = 1065
        values[air] = 1064  # 40 HU
        set_pixels(ds, values)
        ds.add_new("PixelPaddingValue", "US", 1064)
    assert same_but_for(tensor(store, head), reference) < 0.1


CHANGES: dict[str, tuple[dict[str, object], str]] = {
    "localizer": ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer only"),
    "reformat": ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "only images made from other images"),
    "contrast": ({"ContrastBolusAgent": "IOMERON 300"}, "contrast series only"),
    "bone": ({"ConvolutionKernel": "H60s"}, "bone kernel only"),
    "coronal": ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "no axial series"),
    "nowhere": ({"ImagePositionPatient": None}, "the slices do not say where they lie in the patient"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_refused_by_the_header(store: Store, head: Slices, name: str) -> None:
    attributes, reason = CHANGES[name]
    assert reason_of(store(with_(head, **attributes))) == reason


@pytest.mark.parametrize(
    ("agent", "contrast"),
    [
        *((name, False) for name in (
            "NONE", "ohne KM", "Non contrast", "W/O CONTRAST", "N/A", "-", "NOT GIVEN", "KEIN KM", "0 ML", "KEINE",
            "NIL", "NONE GIVEN", "NONE USED", "N.A.", "NONE/NONE", "None.", "0 CC", "0.0", "0,0 ml", "NULL",
            "NOT SPECIFIED", "KM: NEIN", "Contrast: none", "NON-CON", "--", "?", ["NONE", "NONE"],
            "0,0,0", "0, none", "0. ml", "none)", "N/A; N/A", "_", "./.", "\N{EN DASH}",
        )),
        *((name, True) for name in (
            "IOMERON 300", "NON-IONIC IODINE", "WITHOUT AND WITH IOMERON", "NORMOSCAN", "OMNIPAQUE", "NONIONIC",
            "none, then Omnipaque", "NONE/OMNIPAQUE", "NATIVE + IOMERON", "100 CC", "0.5", "10 ml", "KM", "CONTRAST",
            "KM: JA", "GIVEN", "YES", "NEOLUX", ["NONE", "ISOVUE"],
            "+", "++", "***", "\ufffd", "NONE +", "0,0,5 ml", "KM + NATIV",
        )),
    ],
)  # fmt: skip
def test_no_agent_has_many_names_and_an_agent_s_may_begin_like_them(
    head: Slices, agent: str | list[str], contrast: bool
) -> None:
    (ds,) = with_(head[:1], ContrastBolusAgent=agent)
    (frame,), refused = frames_of(Source("slice", Path("not read")), ds)
    assert not refused
    assert frame.contrast is contrast


def test_a_head_without_an_agent_by_name_is_scored(store: Store, head: Slices) -> None:
    """And one with an agent is not: `test_refused_by_the_header`."""
    assert score_input(store(with_(head, ContrastBolusAgent="W/O CONTRAST"))).modality == "BCT"


def test_the_plain_soft_series_is_chosen_among_others(store: Store, head: Slices) -> None:
    others = (
        second_series(head, ConvolutionKernel="H60s")
        + second_series(head, ContrastBolusAgent="IOMERON 300")
        + second_series(head, KVP=140)
        + second_series(head[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    )
    found = score_input(store(others + head))
    assert set(found.sources) == {ds.SOPInstanceUID for ds in head}


def ellipse(shape: tuple[int, int], rows: float, columns: float, centre: tuple[float, float] = (0, 0)) -> np.ndarray:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    return ((y - shape[0] / 2 - centre[0]) / rows) ** 2 + ((x - shape[1] / 2 - centre[1]) / columns) ** 2 < 1


def abdomen(shape: tuple[int, int], _: int) -> np.ndarray:
    hu = np.where(ellipse(shape, 150, 220), 50.0, -1000.0)
    hu[ellipse(shape, 25, 30, (95, 0))] = 400
    return hu


def water(shape: tuple[int, int], _: int) -> np.ndarray:
    return np.where(ellipse(shape, 200, 200), 0.0, -1000.0)


def acrylic(shape: tuple[int, int], _: int) -> np.ndarray:
    """A phantom with a shell of bone's number and an even filling of brain's."""
    hu = np.where(ellipse(shape, 200, 180), 1000.0, -1000.0)
    hu[ellipse(shape, 185, 165)] = 35
    return hu


def noise(shape: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(30, 200, shape)


@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        (abdomen, "not a head: no skull around a brain"),
        (water, "not a head: no skull around a brain"),
        (acrylic, "a test pattern or phantom: what the skull holds has no structure"),
        (noise, "not a head"),
    ],
)
def test_refused_by_the_volume_though_labelled_head(
    store: Store, head: Slices, drawn: Callable[[tuple[int, int], int], np.ndarray], reason: str
) -> None:
    for n, ds in enumerate(by_position(head)):
        set_pixels(ds, (drawn((ds.Rows, ds.Columns), n) + 1024).clip(0, 4095).astype(np.uint16))
    assert reason_of(store(head)) == reason


def test_a_head_upside_down_is_refused(store: Store, head: Slices) -> None:
    upside = by_position(head)
    for ds, z in zip(upside, [float(d.ImagePositionPatient[2]) for d in upside][::-1], strict=True):
        ds.ImagePositionPatient[2] = z
    assert reason_of(store(upside)) == "the head seems to be upside down: the slices' positions are wrong"


@pytest.mark.parametrize("everything_shared", [False, True], ids=["per frame", "shared"])
def test_enhanced_ct_gives_the_identical_tensor(store: Store, head: Slices, everything_shared: bool) -> None:
    shuffled = [head[i] for i in np.random.default_rng(1).permutation(len(head))]
    multi = enhanced(shuffled, everything_shared=everything_shared)
    found = score_input(store([multi]))
    assert np.array_equal(found.model_input.pixels, tensor(store, head))
    assert found.sources == [multi.SOPInstanceUID]


def test_of_an_enhanced_ct_every_frame_counts(store: Store, head: Slices) -> None:
    multi = enhanced(by_position(head), everything_shared=True)
    multi.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = None
    assert f"{len(head) - 1} of {len(head)} slices of the series" in score_input(store([multi])).notes
