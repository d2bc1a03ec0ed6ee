"""A machine that doesn't score a bundle's golden input as its maker did scores no patient, and loses none."""

from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.support.cli import run
from tests.support.node import Node, running_node
from tests.support.peers import shared, wait_until
from tests.support.studies import dcmsend
from triage.bundles import GOLDEN, Bundle, models_folder, write_bundle
from triage.config.schema import Models
from triage.errors import MachineError
from workers.flows.engine import Engine
from workers.flows.golden_check import LOGIT_TOLERANCE, GoldenCheck, require_golden
from workers.flows.precision import GATE_NATS
from workers.lab.evaluation.scores import score_images


def off_by(folder: Path, tensor: str, error: float) -> Bundle:
    """Return cxr-starter with another golden score, as if this machine had gone wrong by so much."""
    shipped = Bundle.open(models_folder(Models()) / "cxr-starter")
    copytree(shipped.folder, folder)
    golden = load_file(folder / GOLDEN)
    golden[tensor] = golden[tensor] + error / golden[tensor].numel()
    save_file(golden, folder / GOLDEN)
    return write_bundle(folder, shipped.manifest, shipped.calibration, shipped.card)


def test_a_ratio_beyond_the_gate_fails_however_near_the_levels_are() -> None:
    check = GoldenCheck(error=0.2, tolerated=2.0, ratio_error=GATE_NATS, logit_error=LOGIT_TOLERANCE)
    assert check.passed
    assert not replace(check, ratio_error=1.01 * GATE_NATS).passed
    assert not replace(check, error=2.1).passed
    assert not replace(check, logit_error=np.nan).passed


@pytest.mark.parametrize(
    ("tensor", "allowed"), [("levels_normal", 0.02), ("levels_mixture", 0.02), ("local_classifier", LOGIT_TOLERANCE)]
)
def test_flows_and_classifiers_are_held_to_their_bounds(tensor: str, allowed: float, tmp_path: Path) -> None:
    for share in (0.5, -0.5):
        assert require_golden(Engine(off_by(tmp_path / f"good{share}", tensor, share * allowed), "cpu")).passed
    for share in (2.5, -2.5, np.nan):
        engine = Engine(off_by(tmp_path / f"bad{share}", tensor, share * allowed), "cpu")
        with pytest.raises(MachineError, match=r"scores its golden input .* off on cpu: this machine scores nothing"):
            require_golden(engine)


def test_nothing_is_evaluated_or_calibrated_on_such_a_machine(tmp_path: Path) -> None:
    bundle = off_by(tmp_path / "off", "levels_normal", 3.0)
    with pytest.raises(MachineError):
        score_images(bundle, [], "cpu")
    with np.load(shared("data", "cxr_adult.npz")) as arrays:
        np.savez(tmp_path / "site.npz", x=arrays["x"][:400:10])
    command = ("models", "calibrate", str(bundle.folder), "--reference", "site.npz", "--out", "new")
    calibrated = run(*command, cwd=tmp_path)
    assert calibrated.returncode == 1
    assert "scores its golden input" in calibrated.stderr
    assert not (tmp_path / "new").exists()


def test_a_node_on_such_a_machine_takes_studies_and_shows_them(tmp_path: Path) -> None:
    off_by(tmp_path / "models" / "cxr-starter", "levels_normal", 3.0)
    node = Node(tmp_path / "node", sections={"models": {"dir": str(tmp_path / "models"), "bct": ""}})
    node.start(wait=False)
    try:
        wait_until(lambda: '"role": "score", "exit_code": 1' in node.log.read_text(), 90, "the score worker's end")
        assert "scores its golden input" in node.log.read_text()
        wait_until((node.data_dir / "web.token").exists, 90, "the web role")
        dcmsend(sorted(shared("data", "dicom_cxr").glob("*.dcm"))[:1], node.port)
        (study,) = node.wait_for(1, ("preparing", "scoring"))
        assert study["priority"] is None
        doctor = run("--config", str(node.folder / "triage.toml"), "doctor", cwd=node.folder)
        assert doctor.returncode == 1
        assert "cxr-starter scores its golden input" in doctor.stdout
        assert node.stop() == 0
    finally:
        node.kill()


def test_on_a_sound_machine_the_score_worker_tells_how_near_it_is(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", sections={"models": {"bct": ""}}, roles=("broker", "score"))
    with running_node(node):
        assert '"golden_ratio_error_nats"' in node.log.read_text()
