"""The flows' own relevance maps, raw: parts of log densities by place, their gradients, and a linear model beside them.

See `workers.flows.relevance` for the kinds, and for what has to be done before any of them is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from workers.flows.glow import Glow, dequantise
from workers.flows.levels import Level, Step
from workers.flows.posterior import Posterior

Maps = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Expected:
    """A linear Gaussian model of normals on the flows' grid: their mean and first principal components.

    Attributes
    ----------
    centre : numpy.ndarray
        float64, the flows' grid: the mean, grey levels.
    basis : numpy.ndarray
        float64, (K, …): orthonormal components.
    """

    centre: Maps
    basis: Maps

    @classmethod
    def of(cls, grey: Grey, components: int) -> Self:
        """Fit to normals, (N, …) on the flows' grid."""
        images = grey.reshape(len(grey), -1).astype(np.float64)
        centre = images.mean(0)
        _, _, basis = np.linalg.svd(images - centre, full_matrices=False)
        return cls(centre.reshape(grey.shape[1:]), basis[:components].reshape(-1, *grey.shape[1:]))

    def difference(self, grey: Grey) -> Maps:
        """Return images, (N, …), less what is expected of them."""
        rest = (grey.astype(np.float64) - self.centre).reshape(len(grey), -1)
        basis = self.basis.reshape(len(self.basis), -1)
        found: Maps = (rest - (rest @ basis.T) @ basis).reshape(grey.shape)
        return found


def contributions(flow: Glow, x: Tensor) -> list[Tensor]:
    """Return every level's part of ln p(x) by position, without the constants.

    Sums over channels and steps of ln s, less half the squared latents; what the actnorms, the 1x1 convolutions and
    the Gaussians' constants add is the same everywhere and for every image.

    Parameters
    ----------
    flow : Glow
        In evaluation; any device.
    x : torch.Tensor
        (N, 1, …), values in (-1/2, 1/2).

    Returns
    -------
    list of torch.Tensor
        One a level, finest first, float64, (N, …) on the level's grid, nats.
    """
    parts: list[Tensor] = []
    levels = [level for level in flow.levels if isinstance(level, Level)]
    for number, level in enumerate(levels):
        x = level.squeeze(x)[0]
        part = torch.zeros(len(x), *x.shape[2:], dtype=torch.float64, device=x.device)
        for step in level.steps:
            x, log_scale = _step(step, x)
            part = part + log_scale
        latent = x
        if level is not levels[-1]:
            x, latent = x.chunk(2, dim=1)
            prior = flow.prior(number)
            if prior is not None:
                part = part - prior.net(x)[:, 1::2].sum(1, dtype=torch.float64)
                latent = prior(x, latent)[0]
        parts.append(part - 0.5 * latent.square().sum(1, dtype=torch.float64))
    return parts


def _step(step: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a step's output and the logarithm of its coupling's scale, summed over channels."""
    if not isinstance(step, Step):
        raise TypeError("not a step of flow")
    z, log_scale = step.coupling.by_place(step.convolution(step.actnorm(x)[0])[0])
    return z, log_scale.sum(1, dtype=torch.float64)


def raw_maps(kind: str, posterior: Posterior, grey: Grey, *, batch: int = 8) -> Maps:
    """Return the raw maps of images, float64, (N, …) on the flows' grid.

    Parameters
    ----------
    kind : str
        See the module.
    posterior : Posterior
        The flows.
    grey : numpy.ndarray
        uint8, (N, …) on the flows' grid.
    batch : int
        Images at once.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    name, _, level = kind.partition(".level")
    if name not in ("ratio", "normal", "gradient", "gradient_normal"):
        raise ValueError(f"there is no map of kind {kind}")
    device = next(posterior.normal.parameters()).device
    found = []
    for start in range(0, len(grey), batch):
        v = torch.from_numpy(grey[start : start + batch].copy()).to(device).unsqueeze(1).float()
        x = dequantise(v, posterior.normal.architecture.grey_levels)
        if name.startswith("gradient"):
            found.append(_gradient(posterior, x, ratio=name == "gradient"))
        else:
            found.append(_parts(posterior, x, ratio=name == "ratio", level=int(level or 0)))
    return np.concatenate([np.empty((0, *grey.shape[1:])), *found])


def _gradient(posterior: Posterior, x: Tensor, *, ratio: bool) -> Maps:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        rising = -posterior.normal.level_parts(x).sum()
        if ratio:
            rising = rising + posterior.mixture.level_parts(x).sum()
        (gradient,) = torch.autograd.grad(rising, x)
    found: Maps = gradient[:, 0].double().cpu().numpy()
    return found


def _parts(posterior: Posterior, x: Tensor, *, ratio: bool, level: int) -> Maps:
    with torch.no_grad():
        parts = [-part for part in contributions(posterior.normal, x)]
        if ratio:
            parts = [a + b for a, b in zip(parts, contributions(posterior.mixture, x), strict=True)]
        chosen: Sequence[Tensor] = parts[level - 1 : level] if level else parts
        whole = torch.zeros_like(x[:, 0], dtype=torch.float64)
        for part in chosen:
            # Spread over the pixels it stands for, so that sums stay sums.
            factor = whole[0].numel() / part[0].numel()
            whole = whole + functional.interpolate(part.unsqueeze(1), size=tuple(whole.shape[1:]))[:, 0] / factor
    found: Maps = whole.cpu().numpy()
    return found
