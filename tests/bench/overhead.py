"""What the node itself costs: last C-STORE response → SR stored in Orthanc, less quiet time, less model time.

    .venv/bin/python -m tests.bench.overhead [--rounds 5] [--json]

Every round sends one chest X-ray and one head CT, one after the other, each to an idle node, and as the named limit
sends the same study straight to another such Orthanc: dcmsend's own time for that is what no node could beat by much.
"""

import argparse
import json
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support.node import Node, running_node
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.studies import StudyFiles, chest_studies, dcmsend, head_studies
from triage.config import load
from triage.ledger import open_ledger

QUIET_S = 2.0


def measure(study: StudyFiles, node: Node, orthanc: Orthanc, direct: Orthanc) -> dict[str, float]:
    """Return the seconds of one study's road."""
    started = time.monotonic()
    dcmsend(study.files, direct.dicom_port, direct.ae_title)
    straight_s = time.monotonic() - started
    dcmsend(study.files, node.port)
    last_store = time.monotonic()
    while not orthanc.count_reports(study.study_instance_uid):
        if time.monotonic() - last_store > 120:
            raise TimeoutError("no report")
        time.sleep(0.01)
    total_s = time.monotonic() - last_store
    with closing(open_ledger(load(node.folder / "triage.toml").configuration)) as ledger:
        found = ledger.study(study.study_instance_uid)
    model_s = found.score.model_time_s if found is not None and found.score is not None else 0.0
    overhead_s = total_s - QUIET_S - model_s
    return {
        "total_s": total_s,
        "model_s": model_s,
        "overhead_s": overhead_s,
        "straight_to_orthanc_s": straight_s,
        "overhead_to_straight": overhead_s / straight_s,
    }


def run(rounds: int) -> dict[str, dict[str, float]]:
    """Measure both modalities and return medians."""
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_orthanc(folder / "orthanc") as orthanc, running_orthanc(folder / "direct") as direct:
            target = {"name": "pacs", "host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": orthanc.ae_title}
            node = Node(
                folder / "node",
                sections={"complete": {"quiet_s": dict.fromkeys(("CR", "DX", "CT"), QUIET_S)}},
                destinations=[target],
            )
            orthanc.register("triage", "TRIAGE", node.port)
            with running_node(node):
                # One of each to warm up: the first report pays for negotiation and imports.
                chests, heads = chest_studies(rounds + 1), head_studies(min(rounds + 1, 6))
                for kind, studies in (("CXR", chests), ("BCT", heads)):
                    rows = [measure(study, node, orthanc, direct) for study in studies][1:]
                    figures[kind] = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
                    figures[kind]["studies"] = len(rows)
    return figures


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 20))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = run(arguments.rounds)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    table = Table(title="medians, seconds")
    table.add_column("figure")
    for kind in figures:
        table.add_column(kind, justify="right")
    for key in next(iter(figures.values())):
        table.add_row(key, *(f"{figures[kind][key]:.3f}" for kind in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
