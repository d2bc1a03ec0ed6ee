"""Two processes under torchrun train the flow that one process trains from the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support import parallel_stage
from triage.errors import ConfigurationError
from workers.lab.parallel import Group, current, join

ROOT = Path(__file__).parents[2]


def torchrun(out: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    answer = subprocess.run(
        [sys.executable, *launcher, "-m", "tests.support.parallel_stage", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr


def test_two_processes_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    parallel_stage.main(tmp_path / "alone.safetensors")
    torchrun(tmp_path / "together.safetensors")
    alone, together = (load_file(tmp_path / f"{name}.safetensors") for name in ("alone", "together"))
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        assert torch.allclose(value, together[name], rtol=1e-4, atol=1e-5), name
    checkpoints = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.checkpoint")}
    assert checkpoints == {"alone/normal.checkpoint", "together/normal.checkpoint"}


def test_alone_nothing_is_joined_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group, device = join("cpu")
    assert (group, device.type, current()) == (Group(), "cpu", Group())
    value = torch.tensor([1.5])
    group.add([value])
    group.share([value])
    group.wait()
    assert value.item() == 1.5


def test_one_gpu_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigurationError, match="share one GPU"):
        join("cuda:0")
