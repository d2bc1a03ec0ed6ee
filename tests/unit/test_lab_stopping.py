"""Training that is told to end: what it says, what it leaves, and how it goes on."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.cli import CLI, started
from tests.support.flows import tiny_bundle
from tests.support.peers import wait_until
from tests.support.training import endless, two_sets
from workers.lab.stopping import stoppable


def step(checkpoint: Path) -> int:
    """Return how many steps a checkpoint holds."""
    return int(torch.load(checkpoint, weights_only=True)["state"]["step"])


@pytest.fixture
def sigterm() -> Iterator[None]:
    """SIGTERM as it was: whoever was told to end hears it no more."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.timeout(600)
def test_a_training_that_is_told_to_end_says_what_is_kept_and_goes_on_from_there(tmp_path: Path) -> None:
    checkpoint, log = tmp_path / "b.training" / "normal.checkpoint", tmp_path / "log"
    options = endless(tmp_path / "b", two_sets(tmp_path))
    kept = f"interrupted; kept in {checkpoint.parent}: normal; the same command with --resume goes on from there\n"
    with started(*CLI, *options, cwd=tmp_path, log=log) as process:
        wait_until(checkpoint.exists, 120, "a checkpoint")
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert log.read_text().endswith(kept)
    assert {path.name for path in checkpoint.parent.iterdir()} == {checkpoint.name}

    before = step(checkpoint)
    with started(*CLI, *options, "--resume", cwd=tmp_path, log=log) as process:
        wait_until(lambda: "stage_resumed" in log.read_text(), 120, "the training to go on")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
    said = log.read_text()
    assert kept in said
    resumed = next(json.loads(line) for line in said.splitlines() if "stage_resumed" in line)
    assert (resumed["stage"], resumed["step"]) == ("normal", before)
    assert step(checkpoint) >= before


@pytest.mark.usefixtures("sigterm")
@pytest.mark.parametrize("tells", [True, False])
def test_where_nothing_is_kept_that_is_said(tmp_path: Path, tells: bool, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.training").mkdir()
    (tmp_path / "b.training" / "normal.checkpoint.partial").touch()
    with pytest.raises(SystemExit) as ended, stoppable(tmp_path / "b", tells=tells):
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    said = "interrupted; nothing was kept, for no epoch was complete; the same command begins anew\n"
    assert capsys.readouterr().err == (said if tells else "")
    os.kill(os.getpid(), signal.SIGTERM)  # torchrun's, after the batch system's


@pytest.mark.usefixtures("sigterm")
def test_a_bundle_that_is_there_already_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_bundle(tmp_path / "b")
    with pytest.raises(SystemExit), stoppable(tmp_path / "b", tells=True):
        os.kill(os.getpid(), signal.SIGTERM)
    assert capsys.readouterr().err == f"interrupted; {tmp_path / 'b'} is complete\n"
