"""Objects per second of reception: this node's listener, dcmtk's storescp and Orthanc, in one run.

    .venv/bin/python -m tests.bench.reception [--objects 300] [--rounds 3] [--json]

The same head CT slices (copies with UIDs of their own) are sent by dcmsend on one association to each receiver in turn,
round by round, another one first in every round. The node synchronises every object, its folder and its ledger to the
disk before it answers 0x0000; Orthanc synchronises its files, storescp nothing. dcmtk runs with TCP_NODELAY=1: without
it it waits 40 ms per object (Nagle's algorithm).
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid
from rich.console import Console
from rich.table import Table

from tests.support.node import Node, running_node
from tests.support.orthanc import running_orthanc
from tests.support.peers import dcmtk_environment, find_program, free_port, wait_until
from tests.support.studies import dcmsend, head_studies


def copies(folder: Path, count: int) -> list[Path]:
    """Write `count` slices of real head CTs under new UIDs, one study."""
    folder.mkdir(parents=True)
    sources = [file for study in head_studies(6) for file in study.files]
    study, series = generate_uid(), generate_uid()
    paths = []
    for number in range(count):
        ds = dcmread(sources[number % len(sources)])
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, series, generate_uid()
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        paths.append(folder / f"{number:05d}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


@contextmanager
def running_storescp(folder: Path) -> Iterator[int]:
    """Run dcmtk's storescp; yields its port."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [find_program("storescp"), "--output-directory", str(folder), "+xa", str(port)]
    process = subprocess.Popen(command, env=dcmtk_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _echoes(port), 20, "storescp")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


def _echoes(port: int) -> bool:
    command = [find_program("echoscu"), "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(objects: int, rounds: int) -> dict[str, dict[str, float]]:
    """Measure every receiver in turn, `rounds` times; returns medians."""
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        orthanc = stack.enter_context(running_orthanc(folder / "orthanc"))
        storescp = stack.enter_context(running_storescp(folder / "storescp"))
        node = stack.enter_context(running_node(Node(folder / "node", roles=["listener"])))
        receivers: dict[str, Callable[[list[Path]], None]] = {
            "triage-node": lambda files: dcmsend(files, node.port),
            "storescp": lambda files: dcmsend(files, storescp, "STORESCP"),
            "Orthanc": lambda files: dcmsend(files, orthanc.dicom_port, orthanc.ae_title),
        }
        size = 0
        for number in range(rounds + 1):  # the first is for warming up
            files = copies(folder / f"round{number}", objects)
            size = sum(file.stat().st_size for file in files)
            turn = number % len(receivers)
            for receiver, send in [*receivers.items()][turn:] + [*receivers.items()][:turn]:
                os.sync()  # nobody waits for what another one, or these copies, left to be written
                started = time.monotonic()
                send(files)
                if number:
                    rates.setdefault(receiver, []).append(objects / (time.monotonic() - started))
    return {
        receiver: {
            "objects_per_s": statistics.median(found),
            "mb_per_s": statistics.median(found) * size / objects / 1e6,
            "ratio_to_storescp": statistics.median(
                mine / limit for mine, limit in zip(found, rates["storescp"], strict=True)
            ),
        }
        for receiver, found in rates.items()
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = run(arguments.objects, arguments.rounds)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    table = Table(title=f"reception of {arguments.objects} CT slices, medians of {arguments.rounds} rounds")
    for heading in ("receiver", "objects/s", "MB/s", "ratio to storescp"):
        table.add_column(heading, justify="left" if heading == "receiver" else "right")
    for receiver, row in figures.items():
        table.add_row(receiver, *(f"{value:.2f}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
