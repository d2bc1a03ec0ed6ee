"""A real Orthanc: Debian's ``orthanc`` package, run with a configuration and a storage of its own."""

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.peers import find_program, free_port, wait_until

READY_S = 30


@dataclass
class Orthanc:
    """An Orthanc to start, stop and start again; what it keeps lies in `folder`.

    Attributes
    ----------
    modalities : dict
        ``(AE title, host, port)`` by name of those who may query it and whom it sends commitment reports to.
    options : mapping
        Further keys of its configuration.
    """

    folder: Path
    modalities: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    ae_title: str = "ORTHANC"
    dicom_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def destination(self) -> dict[str, Any]:
        """The keys of a ``[[destination]]`` that sends to it."""
        return {"name": "pacs", "host": "127.0.0.1", "port": self.dicom_port, "ae_title": self.ae_title}

    def write_configuration(self) -> Path:
        """Write its JSON configuration and return the path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration: dict[str, Any] = {
            "Name": "test",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "Plugins": [],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": False,
            "DicomAet": self.ae_title,
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": True,
            "DicomModalities": {name: list(modality) for name, modality in self.modalities.items()},
            "StableAge": 1,
            **self.options,
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(configuration, indent=1))
        return path

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = find_program("Orthanc")
        command = [program, str(self.write_configuration())]
        with (self.folder / "orthanc.log").open("ab") as errors:
            self.process = subprocess.Popen(command, stdout=errors, stderr=errors, cwd=self.folder)
        wait_until(self._answers, READY_S, f"Orthanc; its log is {self.folder / 'orthanc.log'}")

    def stop(self) -> None:
        """Stop it; its storage stays."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def kill(self) -> None:
        """SIGKILL it; its storage stays."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def register(self, name: str, ae_title: str, port: int, host: str = "127.0.0.1") -> None:
        """Let an application entity query it and get its commitment reports; also while it runs."""
        self.modalities[name] = (ae_title, host, port)
        if self.process is not None:
            self._request("PUT", f"/modalities/{name}", json.dumps([ae_title, host, port]).encode())

    def count_reports(self, study_instance_uid: str = "") -> int:
        """Return how many SRs it holds, of a study or of all."""
        query = {"Modality": "SR"}
        if study_instance_uid:
            query["StudyInstanceUID"] = study_instance_uid
        return len(self.find(**query))

    def get(self, path: str) -> Any:
        """GET a route of its REST API as JSON."""
        return self._request("GET", path).json()

    def file(self, orthanc_id: str) -> bytes:
        """Return an instance's file."""
        return self._request("GET", f"/instances/{orthanc_id}/file").content

    def upload(self, content: bytes) -> None:
        """Store a file through its REST API."""
        self._request("POST", "/instances", content)

    def find(self, **query: str) -> list[str]:
        """Return the Orthanc identifiers of the instances that match DICOM keywords."""
        body = json.dumps({"Level": "Instance", "Query": query}).encode()
        found: list[str] = self._request("POST", "/tools/find", body).json()
        return found

    def _request(self, method: str, path: str, content: bytes | None = None) -> httpx.Response:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        answer = httpx.request(method, url, content=content, timeout=20, trust_env=False)
        return answer.raise_for_status()

    def _answers(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            log = (self.folder / "orthanc.log").read_text(errors="replace")
            pytest.fail("Orthanc ended: " + "\n".join(log.splitlines()[-10:]))
        try:
            return bool(self.get("/system"))
        except httpx.HTTPError:
            return False


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start one that keeps its storage in `folder`, and stop it at the end of the block."""
    orthanc = Orthanc(folder)
    try:
        orthanc.start()
        yield orthanc
    finally:
        orthanc.stop()
