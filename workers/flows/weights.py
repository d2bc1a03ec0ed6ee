"""A bundle's two flows on disk and in memory; levels that they share are stored once."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from triage.bundles import MIXTURE, NORMAL, Bundle
from triage.errors import BundleError
from triage.manifest import Architecture
from workers.flows.glow import Glow
from workers.flows.tensors import read, write


def is_shared(name: str, architecture: Architecture) -> bool:
    """Whether a tensor of a flow's state belongs to a level that both flows share."""
    kind, number, *_ = name.split(".")
    return kind in {"levels", "priors"} and int(number) < architecture.shared_levels


def save_flows(normal: Glow, mixture: Glow, folder: Path) -> None:
    """Write ``normal.safetensors`` and ``mixture.safetensors``; the second without the shared levels.

    Raises
    ------
    BundleError
        If levels that the architecture calls shared differ.
    """
    states = normal.state_dict(), mixture.state_dict()
    for name, tensor in states[0].items():
        if is_shared(name, normal.architecture) and not torch.equal(tensor, states[1][name]):
            raise BundleError(f"the flows differ in {name}, which they are to share", remedy="train the bundle again")
    own = {name: tensor for name, tensor in states[1].items() if not is_shared(name, normal.architecture)}
    for file, state in ((NORMAL, states[0]), (MIXTURE, own)):
        write(state, folder / file)


def load_flows(bundle: Bundle, device: torch.device) -> tuple[Glow, Glow]:
    """Return a bundle's flows of normal and of all images, ready to score; shared levels are one object in both.

    Raises
    ------
    BundleError
        If the weights are not those of the bundle's architecture, or not all finite.
    """
    normal = _load(bundle, NORMAL, {}, device)
    shared = {name: t for name, t in normal.state_dict().items() if is_shared(name, bundle.architecture)}
    mixture = _load(bundle, MIXTURE, shared, device)
    for number in range(bundle.architecture.shared_levels):
        mixture.levels[number] = normal.levels[number]
        if number < len(mixture.priors):
            mixture.priors[number] = normal.priors[number]
    return normal, mixture


def _load(bundle: Bundle, file: str, shared: Mapping[str, Tensor], device: torch.device) -> Glow:
    flow = Glow(bundle.architecture)
    own = {name: tuple(tensor.shape) for name, tensor in flow.state_dict().items() if name not in shared}
    flow.load_state_dict(read(bundle, file, own) | dict(shared))
    return flow.requires_grad_(False).eval().to(device)
