"""The demo's PACS: Orthanc if it is installed, else a small archive of our own on pynetdicom."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydicom import dcmread

from triage.demo.archive import AE_TITLE
from triage.errors import TriageError

_START_S = 30


@dataclass(frozen=True)
class Pacs:
    """A running PACS.

    Attributes
    ----------
    name : str
        What it is.
    port : int
        Its DICOM port; the AE title is `triage.demo.archive.AE_TITLE`.
    address : str
        Its web page, empty if it has none.
    folder : pathlib.Path
        Where it keeps its objects.
    """

    name: str
    port: int
    address: str
    folder: Path

    def reports_by_study(self) -> dict[str, int]:
        """Return how many Structured Reports it holds, by Study Instance UID."""
        if self.address:
            return self._ask_orthanc()
        headers = (dcmread(path, stop_before_pixels=True) for path in self.folder.glob("*.dcm"))
        return _count((str(ds.StudyInstanceUID), 1) for ds in headers if ds.Modality == "SR")

    def _ask_orthanc(self) -> dict[str, int]:
        """Count through the REST interface, by routes that the oldest Orthanc in use (1.10, Debian 12) has too."""
        with httpx.Client(base_url=self.address, timeout=10, trust_env=False) as client:
            query = {"Level": "Series", "Expand": True, "Query": {"Modality": "SR"}}
            series = client.post("tools/find", json=query).raise_for_status().json()

            def study_of(one: dict[str, str]) -> str:
                study = client.get(f"studies/{one['ParentStudy']}").raise_for_status().json()
                return str(study["MainDicomTags"]["StudyInstanceUID"])

            return _count((study_of(one), len(one["Instances"])) for one in series)


def _count(found: Iterator[tuple[str, int]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for study, number in found:
        counts[study] = counts.get(study, 0) + number
    return counts


@contextmanager
def running_pacs(folder: Path, port: int, http_port: int, node_port: int) -> Iterator[Pacs]:
    """Run a PACS that knows the node (AE title TRIAGE at `node_port`) while the block runs."""
    folder.mkdir(parents=True)
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
    log = (folder / "pacs.log").open("wb")
    if program is not None:
        command = [program, str(_orthanc_configuration(folder, port, http_port, node_port))]
        pacs = Pacs("Orthanc", port, f"http://127.0.0.1:{http_port}/", folder)
    else:
        command = [sys.executable, "-m", "triage.demo.archive", str(folder), str(port), str(node_port)]
        pacs = Pacs("a small built-in archive (Orthanc is not installed)", port, "", folder)
    environment = {**os.environ, "TCP_NODELAY": "1"}
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        _wait_until_up(process, pacs)
        yield pacs
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _orthanc_configuration(folder: Path, port: int, http_port: int, node_port: int) -> Path:
    path = folder / "orthanc.json"
    path.write_text(json.dumps({
        "Name": "triage-node demo",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
        "DicomAet": AE_TITLE,
        "DicomPort": port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"triage": ["TRIAGE", "127.0.0.1", node_port]},
    }))  # fmt: skip
    return path


def _wait_until_up(process: subprocess.Popen[bytes], pacs: Pacs) -> None:
    import socket

    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with socket.create_connection(("127.0.0.1", pacs.port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise TriageError(
        f"{pacs.name} did not start; see {pacs.folder / 'pacs.log'}", remedy="try other ports: --port-base N"
    )
