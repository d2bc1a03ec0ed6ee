"""Two processes under torchrun train the flow that one process trains from the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support import parallel_stage
from tests.support.cli import started
from tests.support.peers import wait_until
from tests.support.rsna import make_rsna
from tests.support.training import endless
from triage.errors import ConfigurationError
from triage.manifest import Architecture
from workers.flows.glow import Glow
from workers.lab.parallel import Group, current, join

ROOT = Path(__file__).parents[2]


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def torchrun(out: Path) -> None:
    answer = subprocess.run(
        [*TORCHRUN, "tests.support.parallel_stage", str(out)],
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


@pytest.mark.timeout(600)
def test_of_two_processes_one_talks(tmp_path: Path) -> None:
    """What is wrong with the images, how far reading and training are, and what is kept when it is told to end."""
    make_rsna(tmp_path / "rsna", {0: 60, 1: 20, 2: 20})
    next((tmp_path / "rsna").glob("*/*.dcm")).unlink()
    checkpoint, log = tmp_path / "b.training" / "normal.checkpoint", tmp_path / "log"
    command = endless(tmp_path / "b", ["--rsna", str(tmp_path / "rsna")])
    with started(*TORCHRUN, "triage.cli.main", *command, cwd=ROOT, log=log) as both:
        wait_until(checkpoint.exists, 240, "a checkpoint")
        both.terminate()
        both.wait(60)
    said = log.read_text()
    for once in ("images_missing", "RSNA sets", "reading 1/", "normal 1/", "interrupted; kept in"):
        assert said.count(once) == 1, said


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


def test_what_is_kept_by_columns_is_shared_as_nccl_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gloo takes any strides, so that two processes on a CPU can't show it."""
    sent = []

    def broadcast(tensor: torch.Tensor, source: int) -> None:
        assert tensor.is_contiguous()
        sent.append(source)
        tensor.fill_(3)

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    flow = Glow(Architecture(size=(4, 4), grey_levels=16, depth=1, widths=(4, 4), convolution="plain"))
    tensors = list(flow.state_dict().values())
    assert not all(tensor.is_contiguous() for tensor in tensors)
    Group(rank=0, size=2).share(tensors)
    assert sent == [0] * len(tensors)
    assert all((tensor == 3).all() for tensor in flow.state_dict().values())
