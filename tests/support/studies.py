"""Real studies from ../shared/data, and sending them with dcmtk's dcmsend."""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from tests.support.peers import dcmtk_environment, find_program, shared


@dataclass(frozen=True)
class StudyFiles:
    """A study's files."""

    study_instance_uid: str
    files: tuple[Path, ...]


def study_of(path: Path) -> StudyFiles:
    """Return the study whose file, or folder of files, this is."""
    files = tuple(sorted(path.rglob("*.dcm"))) if path.is_dir() else (path,)
    header = dcmread(files[0], stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
    return StudyFiles(str(header.StudyInstanceUID), files)


def chest_studies(count: int) -> list[StudyFiles]:
    """Return `count` chest X-rays, normal and abnormal ones in turn."""
    paths = sorted(shared("data", "dicom_cxr").glob("*.dcm"))
    normal = [p for p in paths if "normal" in p.name]
    abnormal = [p for p in paths if "normal" not in p.name]
    mixed = [path for pair in zip(abnormal, normal, strict=True) for path in pair]
    return [study_of(path) for path in mixed[:count]]


def head_studies(count: int) -> list[StudyFiles]:
    """Return `count` head CTs, with and without hemorrhage in turn."""
    folders = sorted(shared("data", "dicom_bct").iterdir(), key=lambda p: p.name[::-1])
    with_ich = [p for p in folders if not p.name.endswith("noich")]
    without = [p for p in folders if p.name.endswith("noich")]
    mixed = [path for pair in zip(with_ich, without, strict=True) for path in pair]
    return [study_of(path) for path in mixed[:count]]


def dcmsend(files: Sequence[Path], port: int, ae_title: str = "TRIAGE", calling: str = "DCMSEND") -> None:
    """Send files in their own transfer syntaxes, as dcmsend decides on contexts.

    Raises
    ------
    subprocess.SubprocessError
        Unless every one is answered 0000: dcmsend itself ends well once everything is sent, whatever the answers.
    """
    with tempfile.NamedTemporaryFile(mode="r") as report:
        command = [find_program("dcmsend"), "-aet", calling, "-aec", ae_title, "--decompress-never",
                   "--create-report-file", report.name, "127.0.0.1", str(port), *map(str, files)]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, env=dcmtk_environment(), timeout=120)
        statuses = re.findall(r"^DIMSE Status\s*: (.*)$", report.read(), re.MULTILINE)
    if statuses != ["0x0000 (Success)"] * len(files):
        raise subprocess.SubprocessError(f"{len(files)} objects sent, answered {sorted(set(statuses))}")
