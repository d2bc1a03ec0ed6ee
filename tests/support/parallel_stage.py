"""Train one tiny stage, alone or as one of torchrun's processes: ``python -m tests.support.parallel_stage OUT``."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.training import stage
from workers.lab.parallel import join, leave


def main(out: Path) -> None:
    """Write the trained weights to ``out`` (rank 0 alone)."""
    torch.set_num_threads(1)
    group, _ = join("cpu")
    made = stage(out.parent / out.stem)
    best = made.run(lambda progress: None)
    if group.leads:
        valid = torch.tensor([row.valid_bpd for row in made.record.epochs])
        save_file(made.flow.state_dict() | {"best": torch.tensor([best]), "valid": valid}, out)
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
