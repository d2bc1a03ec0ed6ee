"""Puts the demo on: starts PACS and node, sends the sample studies, waits, and shows what became of them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from triage.config.template import toml_value
from triage.demo.archive import AE_TITLE
from triage.demo.pacs import Pacs, running_pacs
from triage.errors import TriageError
from triage.scu import send_files

_READY_S = 90
_SCORED_S = 150
_ENDED = ("delivered", "unsuitable", "failed")


@dataclass(frozen=True)
class Ports:
    """The four ports of the demo."""

    node: int
    web: int
    pacs: int
    pacs_http: int

    @classmethod
    def from_base(cls, base: int | None) -> "Ports":
        """Return four ports from `base` on, or four that are free now."""
        if base is not None:
            return cls(base, base + 1, base + 2, base + 3)
        sockets = [socket.socket() for _ in range(4)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        numbers = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        return cls(*numbers)


def run_demo(console: Console, ports: Ports, *, keep: bool) -> None:
    """Run the demo; with `keep` node and PACS stay up until Ctrl-C, and the folder stays.

    Raises
    ------
    TriageError
        If a part does not start or a study does not reach its end in time.
    """
    folder = Path(tempfile.mkdtemp(prefix="triage-demo-"))
    try:
        with running_pacs(folder / "pacs", ports.pacs, ports.pacs_http, ports.node) as pacs:
            console.print(f"PACS: {pacs.name}, DICOM port {pacs.port} {pacs.address}", highlight=False)
            with _running_node(folder, ports, console) as token:
                page = f"http://127.0.0.1:{ports.web}/"
                with as_file(files("triage.demo") / "samples") as samples:
                    arrived = _send(console, samples, ports.node)
                items = _wait_until_ended(console, page, token, expected=len(arrived))
                _show(console, arrived, items, pacs)
                if keep:
                    console.print(f"worklist page: {page}  (token: {token})", highlight=False)
                    console.print(f"kept in {folder}; node and PACS run until you press Ctrl-C", highlight=False)
                    _wait_for_interrupt()
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running_node(folder: Path, ports: Ports, console: Console) -> Iterator[str]:
    config = _write_configuration(folder, ports)
    log = folder / "node.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRIAGE_")}
    command = [sys.executable, "-m", "triage.cli.main", "--config", str(config), "serve"]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment, start_new_session=True, text=True
        )
        try:
            with console.status("starting the node: broker, DICOM port, dispatcher, workers, web …"):
                _wait_until_ready(process, log)
            console.print(f"node: AE title TRIAGE, DICOM port {ports.node}", highlight=False)
            yield (folder / "data" / "web.token").read_text().strip()
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _write_configuration(folder: Path, ports: Ports) -> Path:
    tree: dict[str, dict[str, Any]] = {
        "listen": {"port": ports.node, "min_free_gib": 0.2},
        "complete": {"quiet_s": {"CR": 1, "DX": 1, "CT": 2}},
        "web": {"port": ports.web},
        "[destination]": {"name": "demo-pacs", "host": "127.0.0.1", "port": ports.pacs, "ae_title": AE_TITLE},
    }
    lines = ['data_dir = "data"']
    for section, values in tree.items():
        lines += ["", f"[{section}]", *(f"{key} = {toml_value(value)}" for key, value in values.items())]
    path = folder / "triage.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _wait_until_ready(process: "subprocess.Popen[str]", log: Path) -> None:
    ready = threading.Event()

    def read() -> None:
        for line in process.stdout or ():
            if line.strip() == "ready":
                ready.set()

    threading.Thread(target=read, daemon=True).start()
    deadline = time.monotonic() + _READY_S
    while not ready.wait(0.2):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise TriageError(f"the node did not start:\n{tail}", remedy="run: triage-node doctor")


def _send(console: Console, samples: Path, port: int) -> list[str]:
    """Send the samples study by study; returns the Study Instance UIDs in the order of sending."""
    arrived: list[str] = []
    with console.status("sending chest X-rays and head CTs …"):
        for study in sorted(path for path in samples.iterdir() if path.is_dir() or path.suffix == ".dcm"):
            sent = send_files([study], "127.0.0.1", port, "TRIAGE", calling_ae_title="DEMOMODALITY")
            if sent.failed:
                raise TriageError(f"the node did not take {sent.failed} objects of {study.name}")
            arrived += sent.study_instance_uids
    console.print(f"sent {len(arrived)} studies through the DICOM port", highlight=False)
    return arrived


def _wait_until_ended(console: Console, page: str, token: str, expected: int) -> list[dict[str, Any]]:
    columns = (TextColumn("scored and delivered {task.completed} of {task.total}"), BarColumn(), TimeElapsedColumn())
    headers = {"Authorization": f"Bearer {token}"}
    deadline = time.monotonic() + _SCORED_S
    with Progress(*columns, console=console) as bar, httpx.Client(headers=headers, trust_env=False) as client:
        task = bar.add_task("wait", total=expected)
        while True:
            items: list[dict[str, Any]] = client.get(f"{page}api/worklist?limit=200").raise_for_status().json()["items"]
            ended = sum(item["state"] in _ENDED for item in items)
            bar.update(task, completed=ended)
            if ended >= expected:
                return items
            if time.monotonic() > deadline:
                states = json.dumps({item["accession_number"]: item["state"] for item in items})
                raise TriageError(f"not every study came to its end in {_SCORED_S} s: {states}")
            time.sleep(0.3)


def _show(console: Console, arrived: list[str], items: list[dict[str, Any]], pacs: Pacs) -> None:
    reports = pacs.reports_by_study()
    table = Table(title="the worklist, before and after")
    for heading in ("now", "was", "moved", "patient", "mod.", "priority", "pctl.", "state", "SR"):
        right = heading in ("now", "was", "pctl.", "SR")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for rank, item in enumerate(items, start=1):
        before = arrived.index(item["study_instance_uid"]) + 1
        moved = f"▲ {before - rank}" if rank < before else f"▼ {rank - before}" if rank > before else "="
        percentile = "" if item["percentile"] is None else f"{item['percentile']:.0f}"
        state = f"not scored: {item['reason']}" if item["state"] == "unsuitable" else item["state"]
        table.add_row(
            str(rank), str(before), moved, item["patient_name"].replace("^", ", "), item["modality"],
            item["priority"] or "", percentile, state, str(reports.get(item["study_instance_uid"], 0)),
        )  # fmt: skip
    console.print(table)
    console.print("was: place by arrival. pctl.: abnormality percentile. SR: Structured Reports now in the PACS.")
    console.print(
        "A prioritisation aid for research, not a diagnosis: a study that is not flagged is not a normal study.",
        style="italic",
    )


def _wait_for_interrupt() -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
