"""Several processes that train one flow together (``torchrun``), each on its own share of every batch.

Gradients are summed over the processes before every step, so that all take the same step; the process of rank 0 alone
writes. A process that runs alone is a group of one and communicates with nobody.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from triage.errors import ConfigurationError
from workers.flows.engine import choose_device

WAIT = timedelta(hours=12)  # others wait while rank 0 calibrates and writes


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes
    ----------
    rank, size : int
        This process's number, and how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; all get the same bits."""
        if self.size == 1:
            return
        together = list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in together])
        dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in together])
        for tensor, part in zip(together, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    @torch.no_grad()
    def share(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by rank 0's."""
        if self.size > 1:
            for tensor in tensors:
                shared = tensor.contiguous()  # NCCL takes no other; an orthogonal matrix is kept by columns
                dist.broadcast(shared, 0)
                tensor.copy_(shared)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()


def will_lead() -> bool:
    """Whether this process will be its group's rank 0, which is known before it joins: ``torchrun`` says so."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def current() -> Group:
    """Return the group that this process joined; a group of one if it joined none."""
    if dist.is_available() and dist.is_initialized():
        return Group(dist.get_rank(), dist.get_world_size())
    return Group()


def join(device: str) -> tuple[Group, torch.device]:
    """Join the group that ``torchrun`` started, if it did; return it and this process's device.

    Raises
    ------
    BundleError
        If this machine has no such device.
    ConfigurationError
        If the processes can't reach each other, or a device is named that only one of them can have.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group(), choose_device(device)
    if device.startswith("cuda:"):
        raise ConfigurationError("several processes cannot share one GPU", remedy="use --device auto")
    kind = choose_device(device)
    if kind.type == "cuda":
        kind = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(kind)
    if not dist.is_initialized():
        try:
            dist.init_process_group("nccl" if kind.type == "cuda" else "gloo", timeout=WAIT)
        except (RuntimeError, ValueError) as exc:
            raise ConfigurationError(
                "the processes of this run cannot reach each other", remedy="use torchrun"
            ) from exc
    return current(), kind


def leave() -> None:
    """Leave the group, if this process is in one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
