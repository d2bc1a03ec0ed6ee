"""What headers say of body part and view, in several languages: what is understood is believed, the rest is not."""

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from triage.errors import NotScoredError
from workers.images.labels import check_body_part, view_of


def a_header(**attributes: object) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        ds.add_new(keyword, "LO", value)
    return ds


@pytest.mark.parametrize(
    "description",
    [
        "Thorax p.a./seitl.", "Thorax p.a. + seitlich", "Thorax in 2 Ebenen, seitl.", "Thorax face et profil",
        "Poumon de face et de profil", "Thorax, deux incidences (profil)", "Torace 2 proiezioni LL",
        "Chest front/lateral", "CHEST 2V LAT", "THORAX POST-ANT AND LAT", "THORAX_POSTERIOR-ANTERIOR_LATERAL",
        "Tórax PA y perfil, lat", "Chest PA and Lat", "Torace antero-posteriore e laterale", "Thorax frontale LL",
    ],
)  # fmt: skip
def test_a_series_of_two_views_is_left_to_the_image(description: str) -> None:
    assert view_of(a_header(SeriesDescription=description)) == ""


@pytest.mark.parametrize(
    "description",
    [
        "Thorax seitl.", "Thorax profil", "Torace LL", "CHEST LAT", "CHEST_LATERAL", "LATERAL POST ANTIBIOTICS",
        "LATERAL FRONTIER CLINIC",
    ],
)  # fmt: skip
def test_a_series_of_the_lateral_view_is_refused(description: str) -> None:
    with pytest.raises(NotScoredError, match="lateral view"):
        view_of(a_header(SeriesDescription=description))


@pytest.mark.parametrize(
    ("description", "reason"),
    [("DECUBITUS A P", "decubitus"), ("Oblique front", "oblique"), ("Chest PA, RAO", "oblique")],
)
def test_a_frontal_word_excuses_a_lateral_view_alone(description: str, reason: str) -> None:
    with pytest.raises(NotScoredError, match=f"{reason} view"):
        view_of(a_header(SeriesDescription=description))


@pytest.mark.parametrize("description", ["Thorax face, décubitus dorsal", "TÓRAX AP DECÚBITO SUPINO"])
def test_lying_on_the_back_is_no_decubitus_view(description: str) -> None:
    assert view_of(a_header(SeriesDescription=description)) == ""


@pytest.mark.parametrize("position", ["PA/LAT", "LATERAL PA", "AP_LAT", ["PA", "LAT"]])
def test_a_position_that_names_both_views_names_none(position: str | list[str]) -> None:
    assert view_of(a_header(ViewPosition=position)) == ""


@pytest.mark.parametrize(
    ("position", "reason"),
    [("AP LATERAL DECUBITUS", "decubitus"), ("PA OBLIQUE", "oblique"), ("LAT", "lateral"), ("RL", "lateral")],
)
def test_a_position_that_is_not_upright_and_straight_is_refused(position: str, reason: str) -> None:
    with pytest.raises(NotScoredError, match=f"{reason} view"):
        view_of(a_header(ViewPosition=position))


@pytest.mark.parametrize(
    ("position", "view"), [("POST-ANT", "PA"), ("ANTERIOR POSTERIOR", "AP"), ("p.a.", "PA"), ("DV", ""), ("FACE", "")]
)
def test_a_frontal_view_has_many_names(position: str, view: str) -> None:
    assert view_of(a_header(ViewPosition=position)) == view


@pytest.mark.parametrize(
    "part",
    [
        "", "UNKNOWN", "HEART", "RIB", "TRUNK", "THX", "POUMON", "PECHO", "TÓRAX", "TO\u0301RAX", "THORACIQUE",
        "CLAVICLE", "STERNUM", "WHOLEBODY", "CHESTABDOMEN", "CHEST ABDOMEN", "THORAX_AP", "XYZ",
        "DOMAIN", "MANOMETRY",
    ],
)  # fmt: skip
def test_a_part_that_is_no_known_other_one_is_left_to_the_image(part: str) -> None:
    check_body_part(a_header(BodyPartExamined=part))


OTHERS = [
    "HAND", "LEFT_HAND", "KNEE", "ABDOMEN", "CSPINE", "TSPINE", "LSPINE", "SPINE THORACIC", "LUMBAR VERTEBRA", "SKULL",
    "PELVIS", "HIP", "FOOT", "ANKLE", "SHOULDER", "ELBOW", "WRIST", "FEMUR", "TOE", "JAW", "NECK", "HEAD", "EXTREMITY",
    "BECKEN", "KNIE", "SCHULTER", "SCHAEDEL", "Schädel", "HUEFTE", "HÜFTE", "HWS", "BWS", "LWS", "UNTERSCHENKEL",
    "OBERSCHENKEL", "HANDGELENK", "GENOU", "MAIN", "ÉPAULE", "BASSIN", "RODILLA", "MANO", "PIERNA", "HOMBRO", "COLUMNA",
    "GINOCCHIO", "BACINO", "SPALLA", "UPPERARM", "UPPER ARM", "UPPERLEG", "LOWERLEG", "LIVER", "ESOPHAGUS", "UPPER GI",
]  # fmt: skip


@pytest.mark.parametrize("part", OTHERS)
def test_another_part_is_refused_unless_something_says_chest(part: str) -> None:
    with pytest.raises(NotScoredError, match="not a chest"):
        check_body_part(a_header(BodyPartExamined=part, StudyDescription="2 views"))
    region = Dataset()
    region.CodeMeaning = part
    ds = Dataset()
    ds.AnatomicRegionSequence = Items([region])
    with pytest.raises(NotScoredError, match="not a chest"):
        check_body_part(ds)
    check_body_part(a_header(BodyPartExamined=part, StudyDescription="Röntgen Tórax"))
