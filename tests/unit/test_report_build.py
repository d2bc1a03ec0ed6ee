"""Reports read back: every statement by its code, in every SR class."""

import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from highdicom import sr
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.support.reports import CR, CT, DIGEST, DX, ENHANCED_CT, header, not_scored, result, score
from triage.errors import ReportError
from triage.messages import Priority
from triage.report import ReportInput, build_report, encode
from triage.sop_classes import COMPREHENSIVE_3D_SR, ENHANCED_SR, SR_CLASSES

each_class = pytest.mark.parametrize("sop_class_uid", SR_CLASSES)


def read_back(report: Dataset, folder: Path) -> tuple[sr.ComprehensiveSR, sr.MeasurementsAndQualitativeEvaluations]:
    """Write a report, read it with highdicom, and return it with its one measurement group."""
    path = folder / "report.dcm"
    path.write_bytes(encode(report))
    document = sr.srread(path)
    [group] = document.content.get_image_measurement_groups()
    return document, group


def items(ds: Dataset) -> list[Dataset]:
    """Return all content items of a document, depth first."""
    children = list(ds.get("ContentSequence", []))
    return children + [item for child in children for item in items(child)]


def texts(ds: Dataset, code: str) -> list[str]:
    """Return the text values of all content items with this concept."""
    found = [item for item in items(ds) if item.ConceptNameCodeSequence[0].CodeValue == code]
    return [item.get("TextValue") or item.get("UID") for item in found]


@each_class
def test_what_was_found_is_told_by_code(sop_class_uid: str, tmp_path: Path) -> None:
    report = build_report([header()], result(), sop_class_uid=sop_class_uid)
    document, group = read_back(report, tmp_path)
    assert document.SOPClassUID == sop_class_uid
    assert document.content[0].name.value == "126000"
    measured = {m.name.value: m for m in group.get_measurements()}
    assert measured["LOGPNORM"].value == -246.913569
    assert measured["LOGPNORM"].unit.value == "1"
    assert measured["ABNPCT"].value == 97.25
    assert measured["ABNPCT"].unit.value == "%"
    evaluations = {e.name.value: e.value.value for e in group.get_qualitative_evaluations()}
    assert evaluations == {"SUSPABN": "373066001", "RDPRIO": "PRIO-HIGH"}
    assert group.finding_type.value == "365853002"
    assert [site.topographical_modifier for site in group.finding_sites] == [None]
    assert group.finding_sites[0].value.value == "816094009"


def test_the_percentile_stands_with_its_population(tmp_path: Path) -> None:
    _, group = read_back(build_report([header()], result()), tmp_path)
    [percentile] = [m for m in group.get_measurements() if m.name.value == "ABNPCT"]
    properties = {i.ConceptNameCodeSequence[0].CodeValue: i for i in percentile[0].ContentSequence}
    assert properties["121415"].MeasuredValueSequence[0].FloatingPointValue == 97.25
    assert "reference-2026-01" in properties["121405"].TextValue


@pytest.mark.parametrize(
    ("estimator", "code"), [("set_classifier", "SETLOGIT"), ("local_classifier", "LOCALCLS")]
)  # fmt: skip
def test_another_estimator_is_told_with_its_percentile(tmp_path: Path, estimator: str, code: str) -> None:
    two = score(**{estimator: 1.25}, combined=2.5, percentiles={estimator: 88.0, "combined": 97.25})
    _, group = read_back(build_report([header()], result(score=two)), tmp_path)
    found = {m.name.value: m for m in group.get_measurements()}
    assert (found[code].value, found["COMBINED"].value) == (1.25, 2.5)
    ranks = [i for i in found[code][0].ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121415"]
    assert ranks[0].MeasuredValueSequence[0].FloatingPointValue == 88.0
    assert result(score=two).statement != result(score=score(combined=2.5)).statement
    assert {m.name.value for m in read_back(build_report([header()], result()), tmp_path)[1].get_measurements()} == {
        "LOGPNORM", "ABNPCT",
    }  # fmt: skip


def test_what_calibration_says_is_told(tmp_path: Path) -> None:
    full = score(
        flows=12.5, percentiles={"flows": 91.0, "combined": 97.25}, p_value=0.03125, calibrated=0.625, prevalence=0.125
    )
    document, group = read_back(build_report([header()], result(score=full)), tmp_path)
    found = {m.name.value: m for m in group.get_measurements()}
    assert (found["PVALNORM"].value, found["PVALNORM"].unit.value) == (0.03125, "1")
    assert (found["111012"].value, found["111012"].unit.value) == (62.5, "%")
    assert texts(document, "111002").count("prevalence=0.125") == 1
    parameters = [i.TextValue for i in found["111012"][0].ContentSequence if i.ValueType == "TEXT"]
    assert "prevalence=0.125" in parameters
    assert found["FLOWSTAT"].value == 12.5
    ranks = [i for i in found["FLOWSTAT"][0].ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121415"]
    assert ranks[0].MeasuredValueSequence[0].FloatingPointValue == 91.0
    changes = (
        {"p_value": 0.0625}, {"calibrated": None}, {"prevalence": 0.25}, {"flows": 12.25},
        {"p_value": None, "calibrated": 0.03125},
        {"percentiles": {"flows": 90.0, "combined": 97.25}}, {"percentiles": {"flows": 97.25, "combined": 91.0}},
    )  # fmt: skip
    statements = {result(score=replace(full, **changed)).statement for changed in changes}
    assert len(statements | {result(score=full).statement}) == 1 + len(changes)
    again = replace(full, percentiles=dict(reversed(full.percentiles.items())))
    assert result(score=again).statement == result(score=full).statement
    for broken in ({"p_value": math.nan}, {"percentiles": {"flows": math.nan}}):
        with pytest.raises(ReportError, match="finite"):
            result(score=replace(full, **broken))


def test_what_was_done_to_the_images_is_told(tmp_path: Path) -> None:
    notes = "28 slices; head turned by 16 degrees, straightened"
    document, _ = read_back(build_report([header()], replace(result(), notes=notes)), tmp_path)
    assert texts(document, "121106") == [notes]
    assert replace(result(), notes=notes).statement != result().statement
    assert texts(read_back(build_report([header()], result()), tmp_path)[0], "121106") == []


def test_the_algorithm_is_told_to_the_last_bit(tmp_path: Path) -> None:
    document, _ = read_back(build_report([header()], result()), tmp_path)
    assert set(texts(document, "111001")) == {"cxr-starter"}
    assert set(texts(document, "111003")) == {"1.0"}
    parameters = set(texts(document, "111002"))
    assert f"bundle-sha256={DIGEST}" in parameters
    assert "calibration=reference-2026-01" in parameters
    assert any(text.startswith("inputs-sha256=") for text in parameters)
    families = [i for i in items(document) if i.ConceptNameCodeSequence[0].CodeValue == "111000"]
    assert {i.ConceptCodeSequence[0].CodeValue for i in families} == {"123110"}
    [equipment] = [e for e in document.ContributingEquipmentSequence if "DeviceUID" in e]
    assert equipment.ManufacturerModelName == "cxr-starter"


def test_a_new_digest_is_a_new_device() -> None:
    def device(digest: str) -> str:
        report = build_report([header()], result(score=score(bundle_digest=digest)))
        return next(str(e.DeviceUID) for e in report.ContributingEquipmentSequence if "DeviceUID" in e)

    assert device("ab" * 32) == device("ab" * 32) != device("cd" * 32)


def test_it_is_research_preliminary_unverified_and_by_a_device() -> None:
    report = build_report([header()], result(station="TRIAGE7"))
    assert report.ContentQualification == "RESEARCH"
    assert report.CompletionFlag == "COMPLETE"
    assert report.VerificationFlag == "UNVERIFIED"
    assert report.PreliminaryFlag == "PRELIMINARY"
    assert report.Modality == "SR"
    assert report.SeriesNumber == 9801
    assert report.SeriesDescription == "AI TRIAGE - NOT FOR DIAGNOSIS"
    assert report.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99WLTRIAGE"
    [observer] = [i for i in items(report) if i.ConceptNameCodeSequence[0].CodeValue == "121005"]
    assert observer.ConceptCodeSequence[0].CodeValue == "121007"
    assert texts(report, "121013") == ["TRIAGE7"]


def test_every_scored_instance_is_a_source(tmp_path: Path) -> None:
    images = [header(CT, instance=i) for i in range(28)]
    uids = {str(image.SOPInstanceUID) for image in images}
    document, group = read_back(build_report(images, result(modality="BCT")), tmp_path)
    sources = group.source_images
    assert {str(source.referenced_sop_instance_uid) for source in sources} == uids
    assert {item.name.value for item in sources} == {"121112"}
    assert {str(instance) for _, _, instance, _ in document.get_evidence(current_procedure_only=True)} == uids
    library = [i for i in items(document) if i.ConceptNameCodeSequence[0].CodeValue == "126200"]
    assert len(library) == 1
    assert len([i for i in library[0].ContentSequence if i.ValueType == "IMAGE"]) == 28
    assert group.finding_sites[0].value.value == "12738006"
    assert (tmp_path / "report.dcm").stat().st_size < 40_000


@pytest.mark.parametrize(("percentile", "flag"), [(95.0, "373066001"), (94.99, "373068000"), (0.0, "373068000")])
def test_an_unflagged_study_is_undetermined_never_normal(percentile: float, flag: str) -> None:
    report = build_report([header()], result(score=score(percentile=percentile), priority=Priority.LOW))
    [evaluation] = [i for i in items(report) if i.ConceptNameCodeSequence[0].CodeValue == "SUSPABN"]
    assert evaluation.ConceptCodeSequence[0].CodeValue == flag
    coded = {i.ConceptCodeSequence[0].CodeValue for i in items(report) if "ConceptCodeSequence" in i}
    assert not coded & {"17621005", "373067005"}


@each_class
def test_not_scored_says_so_and_why(sop_class_uid: str) -> None:
    report = dcmread(BytesIO(encode(build_report([header()], not_scored(), sop_class_uid=sop_class_uid))))
    [number] = [i for i in items(report) if i.ValueType == "NUM"]
    assert len(number.MeasuredValueSequence) == 0
    assert number.NumericValueQualifierCodeSequence[0].CodeValue == "114006"
    assert texts(report, "NOTSCORED") == ["lateral view: only frontal chest X-rays are scored"]
    evaluations = [i.ConceptCodeSequence[0].CodeValue for i in items(report) if i.ValueType == "CODE"]
    assert "373068000" in evaluations
    assert not [code for code in evaluations if code.startswith("PRIO-")]


def test_what_the_gate_declined_is_not_called_a_chest_or_a_head() -> None:
    """A knee that was taken for a chest's modality: the report names the procedure as far as it is known."""
    coded = {
        i.ConceptCodeSequence[0].CodeValue
        for i in items(build_report([header()], not_scored()))
        if "ConceptCodeSequence" in i
    }
    assert "168537006" in coded
    assert not coded & {"399208008", "816094009"}


def test_a_score_that_must_not_be_ranked_by_is_not_told() -> None:
    declined = result(score=score(not_scored="unlike anything the model was calibrated on"), priority=None)
    report = build_report([header()], declined)
    assert texts(report, "NOTSCORED") == ["unlike anything the model was calibrated on"]
    assert [len(i.MeasuredValueSequence) for i in items(report) if i.ValueType == "NUM"] == [0]
    assert set(texts(report, "111001")) == {"cxr-starter"}


def test_the_same_result_is_the_same_bytes() -> None:
    images = [header(CT, instance=i) for i in range(3)]
    first = encode(build_report(images, result()))
    assert encode(build_report(images, result())) == first


@pytest.mark.parametrize(
    "other",
    [
        result(revision=2),
        result(score=score(bundle_digest="cd" * 32)),
        result(score=score(log_posterior=-246.913568)),
        result(priority=Priority.MEDIUM),
        not_scored(),
        not_scored("another reason"),
    ],
)
def test_another_statement_is_another_instance_of_the_same_study(other: ReportInput) -> None:
    first, second = build_report([header()], result()), build_report([header()], other)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.StudyInstanceUID == second.StudyInstanceUID == header().StudyInstanceUID


def test_uids_hang_on_class_and_inputs_but_not_on_order() -> None:
    images = [header(CT, instance=i) for i in range(3)]
    uid = build_report(images, result()).SOPInstanceUID
    assert build_report(images[::-1], result()).SOPInstanceUID == uid
    assert build_report(images[:2], result()).SOPInstanceUID != uid
    assert build_report(images, result(), sop_class_uid=ENHANCED_SR).SOPInstanceUID != uid
    assert uid.startswith("2.25.")


def test_a_revision_names_its_predecessor_and_stays_in_the_series() -> None:
    first = build_report([header()], result())
    second = build_report([header(), header(instance=2)], result(revision=2), previous=first)
    [study] = second.PredecessorDocumentsSequence
    reference = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID
    assert second.SeriesInstanceUID == first.SeriesInstanceUID != header().SeriesInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)
    assert texts(first, "112040") == texts(second, "112040")


@pytest.mark.parametrize("sop_class_uid", [CR, DX, CT, ENHANCED_CT])
def test_sources_are_not_changed(sop_class_uid: str) -> None:
    image = header(sop_class_uid, NumberOfFrames=2)
    before = image.to_json()
    build_report([image], result())
    assert image.to_json() == before


def test_nothing_is_reported_without_a_number_or_a_reason() -> None:
    for broken in (
        {"score": None},
        {"score": score(log_posterior=float("nan"))},
        {"score": score(percentile=float("inf"))},
        {"modality": "MG"},
        {"revision": 0},
    ):
        with pytest.raises(ReportError):
            result(**broken)


def test_sources_that_cannot_carry_a_report_are_refused() -> None:
    for sources in ([], [header(), header(study=2)], [header(SOPInstanceUID="")], [header("1.2.3.4")]):
        with pytest.raises(ReportError):
            build_report(sources, result())
    with pytest.raises(ReportError):
        build_report([header()], result(), sop_class_uid=CR)


def test_replace_keeps_a_result_checked() -> None:
    with pytest.raises(ReportError):
        replace(result(), score=None)
    assert build_report([header()], result()).SOPClassUID == COMPREHENSIVE_3D_SR
