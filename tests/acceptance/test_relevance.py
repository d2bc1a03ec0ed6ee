"""Relevance maps on the whole road: a site that wants them gets them with its report, any other gets none."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from tests.support.node import Node, running_node
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.peers import shared
from tests.support.studies import StudyFiles, chest_studies, dcmsend, head_studies
from triage.sop_classes import COMPREHENSIVE_3D_SR, PARAMETRIC_MAP, SECONDARY_CAPTURE

pytestmark = [pytest.mark.orthanc, pytest.mark.dcmtk, pytest.mark.timeout(300)]


def objects_of(orthanc: Orthanc, study: StudyFiles) -> dict[str, list[Dataset]]:
    """Return what Orthanc holds of a study, by SOP class."""
    found: dict[str, list[Dataset]] = {}
    for instance in orthanc.find(StudyInstanceUID=study.study_instance_uid):
        ds = dcmread(BytesIO(orthanc.file(instance)))
        found.setdefault(str(ds.SOPClassUID), []).append(ds)
    return found


def images_named(report: Dataset, concept: str) -> set[str]:
    """Return the instances that a report's IMAGE items of a concept refer to."""
    found = set()
    for item in report.get("ContentSequence", []):
        if item.ValueType == "IMAGE" and item.ConceptNameCodeSequence[0].CodeValue == concept:
            found.add(str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID))
        found |= images_named(item, concept)
    return found


def two_views(folder: Path) -> tuple[StudyFiles, str]:
    """Return a study of a normal PA and an AP view with an opacity, and the latter's UID: it is second in order."""
    normal, opacity = (shared("data", "dicom_cxr", name) for name in ("00_normal.dcm", "13_opacity.dcm"))
    header, other = dcmread(normal, stop_before_pixels=True), dcmread(opacity)
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber"):
        setattr(other, keyword, header[keyword].value)
    assert (header.ViewPosition, other.ViewPosition) == ("PA", "AP")
    other.save_as(folder / "second.dcm")
    return StudyFiles(str(header.StudyInstanceUID), (normal, folder / "second.dcm")), str(other.SOPInstanceUID)


def test_a_site_that_wants_maps_gets_them_proved_and_named_in_the_report(tmp_path: Path):
    [chest], [head] = chest_studies(1), head_studies(1)
    both, abnormal = two_views(tmp_path)
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        place = {"host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": orthanc.ae_title}
        node = Node(
            tmp_path / "node",
            sections={
                "complete": {"quiet_s": {"CR": 1.0, "DX": 1.0, "CT": 2.0}},
            },
            destinations=[{"name": "maps", "send": ["sr", "heatmap"], **place}, {"name": "plain", **place}],
        )
        orthanc.register("triage", "TRIAGE", node.port)
        with running_node(node):
            for study in (chest, head, both):
                dcmsend(study.files, node.port)
            node.wait_for(3, ("delivered",))
            details = {
                s.study_instance_uid: node.get(f"/api/studies/{s.study_instance_uid}") for s in (chest, head, both)
            }
        for study, classes in ((chest, [SECONDARY_CAPTURE]), (head, [SECONDARY_CAPTURE, PARAMETRIC_MAP])):
            held, rows = objects_of(orthanc, study), details[study.study_instance_uid]["outbox"]
            assert {row["state"] for row in rows} == {"committed"}
            maps = {row["sop_instance_uid"] for row in rows if row["kind"] == "heatmap"}
            assert {row["destination"] for row in rows if row["kind"] == "heatmap"} == {"maps"}
            assert maps == {str(ds.SOPInstanceUID) for uid in classes for ds in held[uid]}
            assert len(maps) == len(classes)
            with_maps, without = sorted(held[COMPREHENSIVE_3D_SR], key=lambda ds: -len(images_named(ds, "121200")))
            assert images_named(with_maps, "121200") == maps
            assert images_named(without, "121200") == set()
            evidence = with_maps.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
            referenced = {str(i.ReferencedSOPInstanceUID) for s in evidence for i in s.ReferencedSOPSequence}
            assert maps < referenced
            [capture] = held[SECONDARY_CAPTURE]
            source = dcmread(study.files[0], stop_before_pixels=True)
            assert capture.ContentQualification == "RESEARCH"
            assert (capture.PatientID, capture.PatientName) == (source.PatientID, source.PatientName)
            assert capture.pixel_array.std() > 10
        # Of two radiographs the map and the report are of the more abnormal one.
        held = objects_of(orthanc, both)
        assert {str(i.ReferencedSOPInstanceUID) for i in held[SECONDARY_CAPTURE][0].SourceImageSequence} == {abnormal}
        assert images_named(held[COMPREHENSIVE_3D_SR][0], "121112") == {abnormal}
        [parametric] = objects_of(orthanc, head)[PARAMETRIC_MAP]
        assert parametric.FrameOfReferenceUID == dcmread(head.files[0], stop_before_pixels=True).FrameOfReferenceUID
        values = np.frombuffer(parametric.FloatPixelData, dtype=np.float32)
        assert 0 <= values.min() < values.max()
        assert not list((node.data_dir / "work").iterdir())  # nothing left on the tray
