"""Every report under foreign eyes: dciodvfy, dcentvfy (dicom3tools) and DCMTK's dsrdump."""

import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.support.maps import backdrop, chest, relevance, slices
from tests.support.peers import find_program, missing
from tests.support.reports import (
    CR,
    CT,
    DX,
    ENHANCED_CT,
    header,
    not_scored,
    result,
    score,
)
from triage.report import ReportInput, build_capture, build_parametric_map, build_report, encode
from triage.sop_classes import SR_CLASSES

KINDS = {
    "cr": ([header(CR)], result()),
    "dx": ([header(DX)], result()),
    "three-estimators": (
        [header(DX)],
        result(
            score=score(
                flows=-3.5,
                set_classifier=-1.5,
                local_classifier=2.5,
                combined=0.75,
                percentiles={"flows": 5.0, "set_classifier": 12.5, "local_classifier": 99.0, "combined": 97.25},
                p_value=0.03125,
                calibrated=0.125,
            )
        ),
    ),
    "ct": ([header(CT, instance=i) for i in range(28)], result(modality="BCT")),
    "enhanced-ct": ([header(ENHANCED_CT, NumberOfFrames=40)], result(modality="BCT")),
    "not-scored": ([header(DX)], not_scored()),
    "not-scored-ct": ([header(CT, instance=i) for i in range(3)], not_scored(modality="BCT")),
    "bare": (
        [header(CR, PatientBirthDate=None, PatientSex=None, StudyID=None, StudyTime=None, AccessionNumber=None)],
        result(),
    ),
}
# In the collection, these images' own UIDs have roots that nobody was ever given.
UID_ROOT = "Illegal root for UID"


def tool(name: str) -> str:
    """Return the path of a program of dicom3tools, which the test environment brings."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        missing(f"{name} (dicom3tools) is not installed")
    return str(found)


def run(*command: str | Path) -> str:
    """Return what a validator says."""
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


def errors_of(report: Dataset, folder: Path) -> list[str]:
    """Return the errors that dciodvfy finds in a result of ours."""
    path = folder / "report.dcm"
    path.write_bytes(encode(report))
    said = run(tool("dciodvfy"), path)
    assert {"Comprehensive3DSR", "ComprehensiveSR", "EnhancedSR", "SCImage", "ParametricMap"} & set(said.split()), said
    return [line for line in said.splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("sop_class_uid", SR_CLASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_errors(kind: str, sop_class_uid: str, tmp_path: Path) -> None:
    images, what = KINDS[kind]
    assert errors_of(build_report(images, what, sop_class_uid=sop_class_uid), tmp_path) == []


@pytest.mark.parametrize("sop_class_uid", SR_CLASSES)
@pytest.mark.parametrize("what", [result(revision=2), not_scored(revision=2)], ids=["scored", "not-scored"])
def test_no_errors_in_a_revision(what: ReportInput, sop_class_uid: str, tmp_path: Path) -> None:
    first = build_report([header(DX)], result(), sop_class_uid=sop_class_uid)
    second = build_report([header(DX)], what, sop_class_uid=sop_class_uid, previous=first)
    assert errors_of(second, tmp_path) == []


@pytest.mark.parametrize("images", [chest(CR), chest(DX, PatientOrientation=["L", "F"])], ids=["cr", "dx"])
def test_no_errors_in_a_chests_map_and_the_report_that_names_it(images: list[Dataset], tmp_path: Path) -> None:
    capture = build_capture(images, result(), relevance((32, 32)), backdrop(images))
    assert errors_of(capture, tmp_path) == []
    for sop_class_uid in SR_CLASSES:
        assert errors_of(build_report(images, result(), sop_class_uid=sop_class_uid, maps=[capture]), tmp_path) == []


def test_no_errors_in_a_heads_maps_and_the_report_that_names_them(tmp_path: Path) -> None:
    images, what, shown = slices(), result(modality="BCT"), relevance((4, 16, 16))
    place = backdrop(images, 4)
    assert place.planes is not None
    maps = [build_capture(images, what, shown, place), build_parametric_map(images, what, shown, place.planes)]
    for ds in [*maps, build_report(images, what, maps=maps)]:
        assert errors_of(ds, tmp_path) == []


def test_the_validator_sees_faults(tmp_path: Path) -> None:
    report = build_report([header()], result())
    del report.CompletionFlag
    assert errors_of(report, tmp_path)


@pytest.mark.parametrize("kind", ["dx", "ct"])
def test_the_report_belongs_to_its_images(kind: str, tmp_path: Path) -> None:
    images, what = KINDS[kind]
    own = [_saved(image, tmp_path / f"own{n}.dcm") for n, image in enumerate(images)]
    others = [_saved(header(DX, instance=f"other{n}"), tmp_path / f"other{n}.dcm") for n in range(2)]
    report = tmp_path / "report.dcm"
    report.write_bytes(encode(build_report(images, what)))
    complaint = "not present in"
    right, wrong = run(tool("dcentvfy"), report, *own), run(tool("dcentvfy"), report, *others)
    uid = str(images[0].SOPInstanceUID)
    assert uid not in right, right
    assert uid in wrong, (complaint, wrong)


def test_dcmtk_reads_it(tmp_path: Path) -> None:
    for n, (images, what) in enumerate(KINDS.values()):
        for sop_class_uid in SR_CLASSES:
            path = tmp_path / f"{n}.dcm"
            path.write_bytes(encode(build_report(images, what, sop_class_uid=sop_class_uid)))
            said = run(find_program("dsrdump"), path)
            assert "Imaging Measurement Report" in said, said
            assert not [line for line in said.splitlines() if line.startswith("E:")], said


def test_no_errors_with_the_collections_chests_and_heads(collection: Path, tmp_path: Path) -> None:
    files = sorted(p for folder in ("chest", "ct_head/singles") for p in (collection / folder).iterdir())
    assert len(files) > 10
    sources = [[pydicom.dcmread(path, stop_before_pixels=True, force=True)] for path in files]
    tilted = sorted((collection / "ct_head" / "ge_gantry_tilt").iterdir())
    sources.append([pydicom.dcmread(path, stop_before_pixels=True) for path in tilted])
    built = 0
    for images in sources:
        if "SOPClassUID" not in images[0]:
            continue
        for what in (result(modality="BCT"), not_scored()):
            for sop_class_uid in SR_CLASSES:
                report = build_report(images, what, sop_class_uid=sop_class_uid)
                errors = [e for e in errors_of(report, tmp_path) if UID_ROOT not in e]
                assert errors == [], images[0].filename
                built += 1
    assert built >= 6 * 12


def _saved(image: Dataset, path: Path) -> Path:
    pydicom.dcmwrite(path, image, enforce_file_format=True)
    return path
