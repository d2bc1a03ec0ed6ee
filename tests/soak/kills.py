"""Kills parts of a working node again and again; afterwards every acknowledged study must have its one report.

    .venv/bin/python -m tests.soak.kills [--minutes 10] [--seed 0] [--postgresql]

A modality sends chest X-rays and head CTs (copies with UIDs of their own) without end and sends again what was not
acknowledged. Meanwhile listener, dispatcher, workers, broker, web server, the supervisor itself and the PACS get
SIGKILL at random. Ends with exit code 1 and a list if any acknowledged study has not exactly one committed report of
its last revision.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from pydicom import dcmread
from pydicom.uid import generate_uid
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tests.support.node import Node
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.postgresql import run_postgresql
from tests.support.studies import StudyFiles, chest_studies, dcmsend, head_studies
from triage.config import load
from triage.errors import TriageError
from triage.ledger import Ledger, open_ledger

VICTIMS = ("listener", "dispatcher", "prepare", "score", "broker", "web", "supervisor", "orthanc")
SETTLE_S = 300


@dataclass
class Modality:
    """Sends copies of real studies until told to stop; remembers those that were acknowledged whole."""

    node: Node
    folder: Path
    sources: list[StudyFiles]
    chance: random.Random
    stopped: threading.Event = field(default_factory=threading.Event)
    acknowledged: list[str] = field(default_factory=list)
    retries: int = 0

    def run(self) -> None:
        """Send study after study."""
        while not self.stopped.is_set():
            uid, files = self._copy(self.chance.choice(self.sources))
            while not self._sent(files):
                self.retries += 1
                if self.stopped.wait(0.5):
                    return
            self.acknowledged.append(uid)
            self.stopped.wait(self.chance.uniform(0.2, 1.5))

    def _copy(self, source: StudyFiles) -> tuple[str, list[Path]]:
        study, series = generate_uid(), generate_uid()
        files = []
        for number, path in enumerate(source.files):
            ds = dcmread(path)
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, series, generate_uid()
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            files.append(self.folder / f"{number:03d}.dcm")
            ds.save_as(files[-1], enforce_file_format=True)
        return str(study), files

    def _sent(self, files: list[Path]) -> bool:
        try:
            dcmsend(files, self.node.port)
        except subprocess.SubprocessError:
            return False
        return True


def kill(name: str, node: Node, orthanc: Orthanc) -> None:
    """SIGKILL one part, and start again what nothing else would."""
    if name == "orthanc":
        orthanc.kill()
        orthanc.start()
    elif name == "supervisor":
        node.kill()
        node.start()
    elif node.process is not None:
        for child in psutil.Process(node.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if name in child.cmdline() or (name == "broker" and "valkey" in child.name()):
                    child.kill()
                    return


def unreported(ledger: Ledger, orthanc: Orthanc, acknowledged: list[str]) -> dict[str, str]:
    """Return the acknowledged studies that have not exactly one committed report a revision, and what is wrong.

    A head that was cut off may have been taken for complete; what came later makes a revision with a report of its own.
    An earlier revision has none if it was superseded before.
    """
    wrong = {}
    for uid in acknowledged:
        revisions = ledger.revisions(uid)
        states = [[row.state.value for row in ledger.outbox_of(study.id)] for study in revisions]
        reports = orthanc.count_reports(uid)
        well = states[-1:] == [["committed"]] and all(row in ([], ["committed"]) for row in states)
        if not well or reports != states.count(["committed"]):
            reached = [f"{study.state} ({study.reason})" for study in revisions]
            wrong[uid] = f"{', '.join(reached)}; outbox {states}; {reports} reports in the PACS"
    return wrong


def settle(node: Node, orthanc: Orthanc, acknowledged: list[str]) -> dict[str, str]:
    """Wait for the last results; returns what is wrong in the end."""
    deadline = time.monotonic() + SETTLE_S
    with closing(open_ledger(load(node.folder / "triage.toml").configuration)) as ledger:
        while True:
            try:
                wrong = unreported(ledger, orthanc, acknowledged)
            except (httpx.HTTPError, TriageError) as error:
                wrong = {"nothing can be said": f"{type(error).__name__}: {error}"}
            if not wrong or time.monotonic() > deadline:
                return wrong
            time.sleep(2)


def soak(minutes: float, seed: int, postgresql: bool) -> bool:
    """Run it; returns whether all went well."""
    chance = random.Random(seed)
    console = Console()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        orthanc = stack.enter_context(running_orthanc(folder / "orthanc"))
        sections = {}
        if postgresql:
            sections["ledger"] = {"url": stack.enter_context(run_postgresql()).new_database()}
        node = Node(folder / "node", sections=sections, destinations=[orthanc.destination])
        orthanc.register("triage", "TRIAGE", node.port)
        stack.callback(node.kill)
        node.start()
        (folder / "copies").mkdir()
        modality = Modality(node, folder / "copies", chest_studies(24) + head_studies(6), chance)
        sender = threading.Thread(target=modality.run, daemon=True)
        sender.start()
        killed: Counter[str] = Counter()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("killing", total=60 * minutes)
            started = time.monotonic()
            while time.monotonic() - started < 60 * minutes:
                time.sleep(chance.uniform(1, 8))
                victim = chance.choice(VICTIMS)
                kill(victim, node, orthanc)
                killed[victim] += 1
                said = f"{len(modality.acknowledged)} studies, {sum(killed.values())} kills"
                bar.update(task, completed=time.monotonic() - started, description=said)
        modality.stopped.set()
        sender.join()
        with console.status("waiting for the last results …"):
            wrong = settle(node, orthanc, modality.acknowledged)
        console.print(f"{len(modality.acknowledged)} studies acknowledged, {modality.retries} sendings repeated")
        console.print("killed: " + ", ".join(f"{part} {count}×" for part, count in sorted(killed.items())))
        for uid, what in wrong.items():
            console.print(f"  {uid}: {what}", style="red")
        console.print("every one has its report" if not wrong else f"{len(wrong)} without their one report")
        return not wrong and bool(modality.acknowledged)


def main() -> None:
    """Run and exit 0 or 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgresql", action="store_true", help="keep the ledger in PostgreSQL")
    arguments = parser.parse_args()
    sys.exit(0 if soak(arguments.minutes, arguments.seed, arguments.postgresql) else 1)


if __name__ == "__main__":
    main()
