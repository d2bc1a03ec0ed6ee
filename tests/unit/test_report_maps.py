"""Relevance maps as DICOM objects: what they show, say and refer to; read back from their bytes."""

from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

from tests.support.maps import FRAME, backdrop, chest, relevance, slices
from tests.support.reports import DX, header, not_scored, result
from triage.config.schema import Destination
from triage.errors import ReportError
from triage.messages import Relevance
from triage.pictures import Picture
from triage.report import build_capture, build_parametric_map, build_report, encode
from triage.report.drawing import FROM_SD, colours, draw, overlaid, stands_out
from triage.sop_classes import PARAMETRIC_MAP, SECONDARY_CAPTURE


def capture(images: list[Dataset], modality: str = "CXR", **changes: object) -> Dataset:
    shape = (32, 32) if modality == "CXR" else (4, 16, 16)
    return build_capture(images, result(modality=modality, **changes), relevance(shape), backdrop(images))


def parametric(images: list[Dataset], **changes: object) -> Dataset:
    return build_parametric_map(
        images, result(modality="BCT", **changes), relevance((4, 16, 16)), backdrop(images, 4).planes
    )


def read(ds: Dataset) -> Dataset:
    return dcmread(BytesIO(encode(ds)))


def test_nothing_is_sent_but_reports_unless_a_site_says_so() -> None:
    place = {"name": "pacs", "host": "localhost", "port": 104, "ae_title": "PACS"}
    assert Destination(**place).send == ("sr",)
    assert "heatmap" in Destination(**place, send=("sr", "heatmap")).send
    with pytest.raises(ValueError, match="needs"):
        Destination(**place, send=("heatmap",))
    assert "direct attention" in str(Destination.model_fields["send"].description)


def test_the_map_is_drawn_where_it_is_high_and_nowhere_else() -> None:
    grey = np.full((40, 40), 100, np.uint8)
    deviations = np.zeros((40, 40), np.float32)
    deviations[10:20, 10:20] = 8.0
    deviations[30:35, 30:35] = FROM_SD - 0.1
    drawn = overlaid(Picture(grey=grey, deviations=deviations, sop_instance_uid="1"))
    changed = (drawn != grey[..., None]).any(-1)
    assert changed[10:20, 10:20].all()
    assert changed.sum() == 100
    light = colours(np.linspace(0, 1, 20)) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()  # reads the same without colour vision


def test_a_map_that_shows_nothing_says_so() -> None:
    pictures = backdrop(chest()).pictures
    faint = [replace(picture, deviations=picture.deviations / 7) for picture in pictures]
    assert stands_out(pictures)
    assert not stands_out(faint)
    header_rows = slice(124, 152)  # the words above the pictures
    shown, silent = (draw(p[:1], title="t", subtitle="s")[header_rows] for p in (pictures, faint))
    assert not np.array_equal(shown, silent)


def test_two_of_one_place_stand_side_by_side_and_the_rest_below() -> None:
    pictures = backdrop(slices()).pictures
    one, several = (draw(p, title="t", subtitle="s") for p in (pictures[:1], pictures))
    assert one.shape[1] == several.shape[1]
    assert several.shape[0] > one.shape[0]
    assert one.dtype == np.uint8
    assert (one[10, 5] == (255, 191, 71)).all()  # the bar with the warning
    assert not np.array_equal(draw(pictures[:1], title="other", subtitle="s"), one)


@pytest.mark.parametrize(("images", "modality", "number"), [(chest(DX), "CXR", 9811), (slices(), "BCT", 9812)])
def test_a_capture_is_derived_for_research_and_names_its_source(
    images: list[Dataset], modality: str, number: int
) -> None:
    ds = read(capture(images, modality, revision=3))
    assert ds.SOPClassUID == SECONDARY_CAPTURE
    assert ds.ContentQualification == "RESEARCH"
    assert ds.SeriesDescription == "AI TRIAGE - NOT FOR DIAGNOSIS"
    assert (ds.SeriesNumber, ds.InstanceNumber, ds.Modality) == (number, 3, "OT")
    assert ds.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert (ds.PatientName, ds.PatientID, ds.StudyInstanceUID) == (
        "Müller^Jörg", images[0].PatientID, images[0].StudyInstanceUID,
    )  # fmt: skip
    shown = {str(item.ReferencedSOPInstanceUID) for item in ds.SourceImageSequence}
    assert shown == {str(image.SOPInstanceUID) for image in images[:3]}
    assert ds.pixel_array.shape == (ds.Rows, ds.Columns, 3)
    assert ds.SeriesInstanceUID != images[0].SeriesInstanceUID
    assert ds.LossyImageCompression == "00"


def test_once_lossy_always_lossy_and_no_side_is_invented() -> None:
    lossy = chest(DX, LossyImageCompression="01", LossyImageCompressionRatio=[12.5], PatientOrientation=["R", "F"])
    ds = read(capture(lossy))
    assert (ds.LossyImageCompression, ds.LossyImageCompressionRatio) == ("01", 12.5)
    assert ds.PatientOrientation == ["R", "F"]
    assert not read(capture(chest(DX))).PatientOrientation


def test_the_numbers_of_a_head_are_kept_where_they_lie() -> None:
    images = slices()
    ds = read(parametric(images))
    assert ds.SOPClassUID == PARAMETRIC_MAP
    assert (ds.FrameOfReferenceUID, ds.NumberOfFrames, ds.ContentQualification) == (FRAME, 4, "RESEARCH")
    values = np.frombuffer(ds.FloatPixelData, np.float32).reshape(4, 16, 16)
    heights = [f.PlanePositionSequence[0].ImagePositionPatient[2] for f in ds.PerFrameFunctionalGroupsSequence]
    assert sorted(heights) == [0, 10, 20, 30]
    # The frames may stand in any order; each lies where it says.
    assert np.array_equal(values[np.argsort(heights)], relevance((4, 16, 16)).deviations)
    shared = ds.SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [7.2, 7.2]
    [mapping] = shared.RealWorldValueMappingSequence
    quantity = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert (quantity.CodeValue, quantity.CodingSchemeDesignator) == ("130404", "DCM")
    [series] = ds.ReferencedSeriesSequence
    assert len(series.ReferencedInstanceSequence) == len(images)


@pytest.mark.parametrize("said", ["shared", "by frame"])
def test_a_multi_frame_image_may_say_its_raster_once_or_for_every_frame(said: str) -> None:
    raster, plane = Dataset(), Dataset()
    raster.PixelSpacing, raster.SliceThickness = [25.0, 25.0], 5.0
    plane.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    groups = Dataset()
    groups.PixelMeasuresSequence, groups.PlaneOrientationSequence = [raster], [plane]
    frames = [deepcopy(groups) if said == "by frame" else Dataset() for _ in range(4)]
    for number, frame in enumerate(frames):
        position = Dataset()
        position.ImagePositionPatient = [-100.0, -100.0, 5.0 * number]
        frame.PlanePositionSequence = [position]
    image = header(
        EnhancedCTImageStorage,
        NumberOfFrames=4,
        FrameOfReferenceUID=FRAME,
        SharedFunctionalGroupsSequence=[groups if said == "shared" else Dataset()],
        PerFrameFunctionalGroupsSequence=frames,
    )
    assert read(parametric([image])).NumberOfFrames == 4


@pytest.mark.parametrize("build", [lambda **c: capture(chest(), **c), lambda **c: parametric(slices(), **c)])
def test_the_same_map_is_the_same_bytes_and_a_revision_stays_in_the_series(build) -> None:
    first, again, second = build(), build(), build(revision=2)
    assert encode(first) == encode(again)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID


def test_another_map_is_another_instance() -> None:
    images = chest()
    uids = {
        str(build_capture(images, result(), relevance((32, 32), seed), backdrop(images)).SOPInstanceUID)
        for seed in (0, 1, 2)
    }
    assert len(uids) == 3


def test_the_report_names_its_maps_and_reads_as_before(tmp_path: Path) -> None:
    images = slices()
    maps = [capture(images, "BCT"), parametric(images)]
    plain, report = (build_report(images, result(modality="BCT"), maps=m) for m in ((), maps))
    assert plain.SOPInstanceUID != report.SOPInstanceUID
    assert plain.SeriesInstanceUID == report.SeriesInstanceUID
    path = tmp_path / "report.dcm"
    path.write_bytes(encode(report))
    document = hd.sr.srread(path)
    [group] = document.content.get_image_measurement_groups()
    assert {str(s.referenced_sop_instance_uid) for s in group.source_images} == {str(i.SOPInstanceUID) for i in images}
    named = {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in group[0].ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "121200"
    }
    assert named == {str(ds.SOPInstanceUID) for ds in maps}
    evidence = {str(uid) for _, _, uid, _ in document.get_evidence(current_procedure_only=True)}
    assert evidence == named | {str(image.SOPInstanceUID) for image in images}


def test_without_a_score_or_a_place_there_is_no_map() -> None:
    images = slices()
    with pytest.raises(ReportError):
        build_capture(images, not_scored(modality="BCT"), relevance((4, 16, 16)), backdrop(images))
    planes = backdrop(images, 4).planes
    assert planes is not None
    with pytest.raises(ReportError):
        build_parametric_map(images, result(modality="BCT"), relevance((5, 16, 16)), planes)


def test_a_map_crosses_the_broker_as_small_numbers_only() -> None:
    wire = relevance((16, 32, 32)).to_wire()
    assert set(wire) == {"method", "shape", "values"}
    assert len(wire["values"]) == 16 * 32 * 32
    back = Relevance.from_wire(wire)
    assert np.array_equal(back.values, relevance((16, 32, 32)).values)
    odd = Relevance.of("m", np.array([[np.nan, -3.0], [0.12, 1e9]]))
    assert odd.values.tolist() == [[0, 0], [2, 255]]
