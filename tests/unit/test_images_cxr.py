"""Which radiograph of a study is scored, and that its tensor does not depend on how it was stored."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import Dataset as Item
from pydicom.sequence import Sequence as Items
from pydicom.uid import ComputedRadiographyImageStorage, DigitalXRayImageStorageForProcessing, generate_uid

from tests.support.images import (
    GRIDS,
    Store,
    by_position,
    reason_of,
    same_but_for,
    score_input,
    set_pixels,
    stored,
    with_,
)
from tests.support.peers import shared
from triage.errors import NotScoredError
from triage.messages import ModelInput
from triage.sop_classes import SECONDARY_CAPTURE
from workers.images import CXR, Source, prepare
from workers.images.cxr import MOST

pytest_plugins = ["tests.support.images"]


def tensor(store: Store, *datasets: Dataset) -> np.ndarray:
    return score_input(store(datasets)).model_input.pixels


def copy(ds: Dataset, **attributes: object) -> Dataset:
    """Return another instance of the same study."""
    other = deepcopy(ds)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for keyword, value in attributes.items():
        setattr(other, keyword, value)
    if "SOPClassUID" in attributes:
        other.file_meta.MediaStorageSOPClassUID = other.SOPClassUID
    return other


def test_every_third_real_radiograph_passes() -> None:
    files = sorted(shared("data", "dicom_cxr").glob("*.dcm"))
    assert len(files) == 24
    for file in files[::3]:
        assert score_input([Source(file.name, file)]).model_input.pixels.shape == (128, 128)


def a_view(chest: Dataset, *, flip: bool = False, **attributes: object) -> Dataset:
    """Return another radiograph of the same study."""
    view = copy(chest, **attributes)
    set_pixels(view, stored(chest)[:, ::-1] if flip else stored(chest)[8:-8])
    return view


def test_all_frontal_views_are_scored(store: Store, chest: Dataset) -> None:
    """An abnormal one must not stay unseen beside a normal one."""
    ap, lateral = a_view(chest, ViewPosition="AP"), copy(chest, ViewPosition="LL")
    found = score_input(store([ap, lateral, chest, copy(chest)]))
    assert len(found.model_input.others) == 1
    assert found.sources[1] == ap.SOPInstanceUID
    assert found.notes == [
        "PA view", "AP view", "2 of 4 radiographs",
        "the most abnormal one counts; its percentile is one among single images", "not scored: lateral view",
        "not scored: an image that looks exactly like another",
    ]  # fmt: skip
    first, second = found.model_input.each()
    assert np.array_equal(first.pixels, tensor(store, chest))
    assert np.array_equal(second.pixels, tensor(store, ap))
    assert ModelInput.from_wire(found.model_input.to_wire()).each()[1].pixels.tobytes() == second.pixels.tobytes()


def test_a_capture_of_a_radiograph_counts_where_it_is_asked_for_and_never_at_the_node(
    store: Store, chest: Dataset
) -> None:
    """Public collections hold radiographs so; in a PACS it may be a screenshot."""
    capture = copy(chest, SOPClassUID=SECONDARY_CAPTURE, Modality="CR")
    assert reason_of(store([capture])) == "neither a radiograph nor a CT in the study"
    assert prepare(store([capture]), GRIDS, captures=True).sources == [capture.SOPInstanceUID]
    with pytest.raises(NotScoredError):
        prepare(store([copy(capture, Modality="OT")]), GRIDS, captures=True)


def test_an_image_made_from_others_counts_only_where_there_is_nothing_else(store: Store, chest: Dataset) -> None:
    suppressed = a_view(chest, ImageType=["DERIVED", "SECONDARY"], ContentTime="235959")
    assert score_input(store([suppressed, chest])).sources == [chest.SOPInstanceUID]
    assert score_input(store([suppressed])).sources == [suppressed.SOPInstanceUID]


def test_of_very_many_views_some_are_scored_and_it_is_told(store: Store, chest: Dataset) -> None:
    rows = stored(chest)
    views = [copy(chest, ContentTime=f"{number // 60:02d}{number % 60:02d}00") for number in range(MOST + 2)]
    for number, view in enumerate(views):
        set_pixels(view, rows[number % 10 :, number // 10 :])
    found = score_input(store(views))
    assert len(found.sources) == len(found.model_input.each()) == MOST
    assert f"{MOST} of {MOST + 2} radiographs" in found.notes
    assert f"not scored: more than {MOST} radiographs" in found.notes


def test_a_radiograph_that_was_sent_twice_is_told(store: Store, chest: Dataset) -> None:
    found = score_input(store([chest, copy(chest, ContentTime="235959")]))
    assert len(found.sources) == 1
    assert found.notes[-2:] == ["1 of 2 radiographs", "not scored: an image that looks exactly like another"]


def test_a_radiograph_in_a_head_cts_study_is_not_passed_over_in_silence(
    store: Store, chest: Dataset, head: list[Dataset]
) -> None:
    found = score_input(store([*head, chest]))
    assert found.modality == "BCT"
    assert found.notes[-1] == "chest radiographs not looked at: 1"


def test_a_refused_head_ct_is_not_hidden_by_a_radiograph(store: Store, chest: Dataset, head: list[Dataset]) -> None:
    patient = {name: chest.get(name) for name in ("PatientID", "PatientName", "PatientBirthDate")}
    gap = with_(by_position(head), **patient)
    del gap[12:14]
    why = reason_of(store(gap))
    found = score_input(store([*gap, chest]))
    assert found.modality == "CXR"
    assert found.notes == ["PA view", f"brain CTs not scored: {why}"]
    found = prepare(store([*with_(head, **patient), chest]), {CXR: GRIDS[CXR]})
    assert found.notes == ["PA view", "no model for brain CTs is installed"]


def test_images_of_two_patients_in_one_study_are_told(store: Store, chest: Dataset) -> None:
    same, other = a_view(chest, PatientID=f"{chest.PatientID} "), a_view(chest, PatientID="ANOTHER")
    assert not any("patients" in note for note in score_input(store([chest, same])).notes)
    assert "the images name 2 patients" in score_input(store([chest, other])).notes
    nameless = a_view(chest, PatientID="")
    assert "not all images name the patient" in score_input(store([chest, nameless])).notes
    named = [a_view(chest, PatientName=name) for name in ("Doe^Jane", "DOE^JANE^^", "DOE^JOHN")]
    differs = "the images differ in the patient's name or birth date"
    assert differs not in score_input(store(named[:2])).notes
    assert differs in score_input(store(named)).notes


@pytest.mark.parametrize(
    ("age", "born", "is_told"),
    [
        ("002Y", "", True), ("018M", "", True), ("016Y", "", False), ("", "", False), ("2", "", False),
        ("4Y", "", True), ("04Y", "", True), ("11W", "", True), ("40Y", "", False),
        ("", "20200301", True), ("ADULT", "20110102", True), ("", "20110101", False), ("040Y", "20200301", False),
        ("", "2020", False), ("", "20270102", False),
    ],
)  # fmt: skip
def test_a_childs_age_is_told(store: Store, chest: Dataset, age: str, born: str, is_told: bool) -> None:
    header = {"PatientAge": age, "PatientBirthDate": born, "StudyDate": "20270101"}
    notes = score_input(store([copy(chest, **header)])).notes
    assert any("younger than 16" in note for note in notes) is is_told


def test_dx_for_presentation_is_preferred_to_cr_and_pa_to_ap(store: Store, chest: Dataset) -> None:
    cr = copy(chest, SOPClassUID=ComputedRadiographyImageStorage, Modality="CR")
    ap = copy(chest, ViewPosition="AP")
    found = score_input(store([cr, ap, chest]))
    assert found.sources == [chest.SOPInstanceUID]
    assert found.notes[:2] == ["PA view", "1 of 3 radiographs"]
    assert score_input(store([cr, ap])).sources == [ap.SOPInstanceUID]


@pytest.mark.parametrize(
    "header",
    [
        {"ViewPosition": "", "SeriesDescription": "PA/LAT"},
        {"ViewPosition": "", "SeriesDescription": "CHEST PA AND LATERAL"},
        {"ViewPosition": "FRONTAL"},
        {"ViewPosition": "PORTABLE"},
        {"ViewPosition": "", "SeriesDescription": "LATERAL+FRONTAL"},
        {"BodyPartExamined": "BRUSTKORB", "StudyDescription": "", "SeriesDescription": "", "ProtocolName": ""},
    ],
)
def test_a_name_that_may_mean_a_frontal_view_is_left_to_the_image(
    store: Store, chest: Dataset, header: dict[str, str]
) -> None:
    other = copy(chest, **header)
    assert score_input(store([other])).sources == [other.SOPInstanceUID]


@pytest.mark.parametrize(
    ("position", "view"), [("P-A", "PA"), ("POSTERO_ANTERIOR", "PA"), ("A-P", "AP"), ("AP SUPINE", "AP")]
)
def test_a_view_is_known_by_its_many_names(store: Store, chest: Dataset, position: str, view: str) -> None:
    assert f"{view} view" in score_input(store([copy(chest, ViewPosition=position)])).notes


@pytest.mark.parametrize(
    ("reason", "header"),
    [
        ("lateral view", {"ViewPosition": "LLAT"}),
        ("lateral view", {"ViewPosition": "", "SeriesDescription": "Thorax seitl."}),
        ("oblique view", {"ViewPosition": "OBL"}),
        (
            "not a chest radiograph",
            {"BodyPartExamined": "TSPINE", "StudyDescription": "THORACIC_SPINE AP", "SeriesDescription": ""},
        ),
        (
            "not a chest radiograph",
            {"BodyPartExamined": "SPINE THORACIC", "StudyDescription": "", "SeriesDescription": "", "ProtocolName": ""},
        ),
    ],
)
def test_a_name_that_means_another_view_or_part_is_believed(
    store: Store, chest: Dataset, reason: str, header: dict[str, str]
) -> None:
    assert reason_of(store([copy(chest, **header)])) == reason


def test_the_order_of_the_files_changes_nothing(store: Store, chest: Dataset) -> None:
    sources = store([chest, copy(chest), copy(chest, ViewPosition="AP")])
    assert score_input(sources).sources == score_input(sources[::-1]).sources


def test_monochrome1_is_turned_the_right_way_round(store: Store, chest: Dataset) -> None:
    inverse = copy(chest, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    top = 2**chest.BitsStored - 1
    set_pixels(inverse, (top - stored(chest)).astype(np.uint16))
    # mirrored about the range's middle, where the historical half grey value puts the window's (C.11.2.1.2.1)
    inverse.WindowCenter = top - float(chest.WindowCenter) + 1
    assert np.array_equal(tensor(store, inverse), tensor(store, chest))


def test_a_negative_is_no_chest(store: Store, chest: Dataset) -> None:
    """Truly inverted: the values, not the label."""
    set_pixels(chest, (2**chest.BitsStored - 1 - stored(chest)).astype(np.uint16))
    assert "frontal chest" in reason_of(store([chest]))


def test_windows_lut_and_sigmoid_show_the_same_chest(store: Store, chest: Dataset) -> None:
    reference = tensor(store, chest)
    bits = int(chest.BitsStored)
    values = np.arange(2**bits)
    item = Item()
    item.LUTDescriptor = [len(values), 0, 16]
    item.LUTData = np.round(values / (2**bits - 1) * 65535).astype("<u2").tobytes()
    lut = copy(chest, VOILUTSequence=Items([item]))
    del lut.WindowCenter, lut.WindowWidth
    exact = copy(chest, VOILUTFunction="LINEAR_EXACT", WindowCenter=2 ** (bits - 1), WindowWidth=2**bits - 1)
    sigmoid = copy(chest, VOILUTFunction="SIGMOID")
    none = copy(chest)
    del none.WindowCenter, none.WindowWidth
    absurd = copy(chest, WindowCenter=9e6, WindowWidth=10)
    for ds, allowed in ((lut, 1.0), (exact, 1.0), (sigmoid, 8.0), (none, 2.0), (absurd, 2.0)):
        assert same_but_for(tensor(store, ds), reference) < allowed


def test_a_window_is_believed(store: Store, chest: Dataset) -> None:
    """A narrow window drives more of the picture to black and white, as its sender wants it."""
    bits = int(chest.BitsStored)
    hard = copy(chest, WindowCenter=0.5 * 2**bits, WindowWidth=0.5 * 2**bits)
    soft, hard_tensor = tensor(store, chest), tensor(store, hard)
    assert ((hard_tensor == 0) | (hard_tensor == 255)).mean() > 2 * ((soft == 0) | (soft == 255)).mean()


@pytest.mark.parametrize("share", [0.03, 0.08, 0.15])
@pytest.mark.parametrize("white", [False, True], ids=["black", "white"])
def test_borders_change_nothing(store: Store, chest: Dataset, share: float, white: bool) -> None:
    width = round(share * chest.Rows)
    framed = copy(chest)
    set_pixels(framed, np.pad(stored(chest), width, constant_values=(2**chest.BitsStored - 1) if white else 0))
    assert same_but_for(tensor(store, framed), tensor(store, chest)) < 0.7


def test_padding_is_no_image(store: Store, chest: Dataset) -> None:
    """The padding's value lies within the image's range: only the header tells it apart."""
    grey = 400
    padded = copy(chest)
    padded.add_new("PixelPaddingValue", "US", grey)
    values = stored(chest)
    values[values == grey] = grey + 1
    set_pixels(padded, np.pad(values, 90, constant_values=grey))
    assert same_but_for(tensor(store, padded), tensor(store, chest)) < 1.0


@pytest.mark.parametrize("white", [False, True], ids=["black", "white"])
def test_padding_around_a_circle_is_no_image_either(store: Store, chest: Dataset, white: bool) -> None:
    """No box leaves it out, and white corners are no bright parts of a patient."""
    values = stored(chest)
    rows, columns = (np.linspace(-1, 1, n) for n in values.shape)
    corners = rows[:, None] ** 2 + columns**2 > 1.17**2
    dark = copy(chest)
    set_pixels(dark, np.where(corners, values.min(), values))
    padded, grey = copy(chest), 2**chest.BitsStored - 1 if white else 0
    padded.add_new("PixelPaddingValue", "US", grey)
    set_pixels(padded, np.where(corners, grey, np.clip(values, 1, grey - 1 if white else None)).astype(np.uint16))
    assert same_but_for(tensor(store, padded), tensor(store, dark)) < 1.0


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_what_is_as_bright_as_the_padding_inside_the_chest_is_kept(
    store: Store, chest: Dataset, photometric: str
) -> None:
    top = 2**chest.BitsStored - 1
    values = np.clip(stored(chest), 1, top - 1)
    height, width = values.shape
    values[height // 4 : height // 3, width * 2 // 3 : width * 3 // 4] = top
    inverse = photometric == "MONOCHROME1"
    set_pixels(chest, top - values if inverse else values)
    chest.PhotometricInterpretation = photometric
    untagged = tensor(store, chest)
    chest.add_new("PixelPaddingValue", "US", 0 if inverse else top)
    assert np.array_equal(tensor(store, chest), untagged)


def test_sixteen_bits_and_eight_bits_are_the_same_picture(store: Store, chest: Dataset) -> None:
    eight = copy(chest, BitsAllocated=8, BitsStored=8, HighBit=7, WindowCenter=128, WindowWidth=256)
    set_pixels(eight, (stored(chest) >> (chest.BitsStored - 8)).astype(np.uint8))
    assert same_but_for(tensor(store, eight), tensor(store, chest)) < 1.5


REFUSALS: dict[str, tuple[dict[str, object], str]] = {
    "lateral": ({"ViewPosition": "LL"}, "lateral view"),
    "lateral by its name": ({"ViewPosition": "", "SeriesDescription": "CHEST LAT"}, "lateral view"),
    "lateral by its orientation": ({"ViewPosition": "", "PatientOrientation": ["A", "F"]}, "lateral view"),
    "decubitus": ({"ViewPosition": "RLD"}, "decubitus view"),
    "oblique": ({"ViewPosition": "RAO"}, "oblique view"),
    "knee": ({"BodyPartExamined": "KNEE", "StudyDescription": "KNEE 2 VIEWS", "SeriesDescription": ""},
             "not a chest radiograph"),
    "for processing": ({"SOPClassUID": DigitalXRayImageStorageForProcessing, "Modality": "DX"},
                       "a raw image (for processing), not one for presentation"),
    "phantom": ({"QualityControlImage": "YES"}, "quality control image"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_by_the_header(store: Store, chest: Dataset, name: str) -> None:
    attributes, reason = REFUSALS[name]
    assert reason_of(store([copy(chest, **attributes)])) == reason


ALTERED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "upside down": lambda a: a[::-1],
    "on its side": np.rot90,
    "a test pattern": lambda a: (np.indices(a.shape).sum(axis=0) // 64 % 2 * 900).astype(np.uint16),
    "a ramp": lambda a: np.broadcast_to(np.linspace(0, 1023, a.shape[1]), a.shape).astype(np.uint16),
    "noise": lambda a: np.random.default_rng(0).integers(0, 1024, a.shape, dtype=np.uint16),
    "two chests": lambda a: np.hstack([a, a])[::1, ::2],
    "a quarter of it": lambda a: a[: len(a) // 2, : len(a) // 2],
}


@pytest.mark.parametrize("name", ALTERED)
def test_refused_by_the_image_though_labelled_chest(store: Store, chest: Dataset, name: str) -> None:
    set_pixels(chest, ALTERED[name](stored(chest)))
    assert "frontal chest" in reason_of(store([chest]))


def test_other_body_parts_labelled_chest_are_refused_by_the_image(collection: Path, store: Store) -> None:
    for name in ("robyoung__JLSL_RG3_JLSL", "pydicom__RG2_JPLY_fixed.dcm", "robyoung__J2KR_RG2_J2KR"):
        ds = dcmread(collection / "radiograph_other" / name)
        ds.BodyPartExamined, ds.StudyDescription, ds.ViewPosition = "CHEST", "CHEST PA", "PA"
        assert "chest" in reason_of(store([ds]))


def test_a_lateral_beside_a_frontal_view_is_left_out(store: Store, chest: Dataset) -> None:
    found = score_input(store([copy(chest, ViewPosition="LL"), chest]))
    assert found.sources == [chest.SOPInstanceUID]


def test_a_blank_and_a_tiny_image_are_refused(store: Store, chest: Dataset) -> None:
    tiny = copy(chest)
    set_pixels(tiny, stored(chest)[:60, :60])
    assert reason_of(store([tiny])) == "the image is too small"
    set_pixels(chest, np.full((500, 500), 700, dtype=np.uint16))
    assert "blank" in reason_of(store([chest]))
