"""Images altered as another machine or posture would: pairs alike, so that no alteration tells the two apart.

Everything is drawn for N pairs and holds for the second N images as for the first.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from workers.flows.local_classifier import blurred
from workers.lab.presets import LocalRecipe


def recoloured(images: Tensor, recipe: LocalRecipe, generator: torch.Generator) -> Tensor:
    """Return images, (2 N, c, h, w), as other machines might have delivered them; the second N like the first."""
    count, s = len(images) // 2, recipe.strength

    def draw(low: float, high: float) -> Tensor:
        return _drawn(count, low, high, generator).view(-1, 1, 1, 1)

    if recipe.spec.window is None:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        images = ((images - low) / (high - low + 1e-3)).clamp_min(1e-4) ** torch.exp(s * draw(-0.35, 0.35))
        y, x = (torch.linspace(-1, 1, n) for n in images.shape[-2:])
        x, y = x[None, :], y[:, None]
        shade = draw(-0.1, 0.1) * x + draw(-0.1, 0.1) * y + draw(-0.1, 0.1) * (x.square() + y.square())
        images, noise = images * (1 + s * shade), 0.02
    else:  # a CT's grey values are Hounsfield units, no matter of taste
        images, noise = images * (1 + s * draw(-0.05, 0.05)) + s * draw(-3, 3), 2.0
    sigma = float(torch.rand(1, generator=generator)) * 0.7 + 0.4
    soft = blurred(images.flatten(0, 1).unsqueeze(1), sigma).view(images.shape)
    images = images + s * draw(-0.8, 1.0) * (soft - images)
    grain = torch.randn((count, *images.shape[1:]), generator=generator)
    return images + torch.cat([grain, grain]) * draw(0, noise * s)


def moves(count: int, strength: float, generator: torch.Generator, *, mirrored: bool = True) -> Tensor:
    """Draw how to turn, zoom, stretch and shift images, and to mirror half of them: affine maps, (2 N, 2, 3)."""

    def some(low: float, high: float) -> Tensor:
        return strength * _drawn(count, low, high, generator)

    mirror = torch.where(_drawn(count, 0, 1, generator) < (0.5 if mirrored else 0), -1.0, 1.0)
    turn, zoom, stretch = some(-0.15, 0.15), torch.exp(some(-0.12, 0.12)), torch.exp(some(-0.06, 0.06))
    rows = [
        torch.stack([mirror * turn.cos() * zoom * stretch, -turn.sin() * zoom, some(-0.08, 0.08)], 1),
        torch.stack([mirror * turn.sin() * zoom, turn.cos() * zoom / stretch, some(-0.08, 0.08)], 1),
    ]
    return torch.stack(rows, 1)


def moved(images: Tensor, ways: Tensor, *, outside: Literal["border", "zeros"] = "border") -> Tensor:
    """Return images, (N, c, h, w), moved by affine maps, (N, 2, 3)."""
    where = functional.affine_grid(ways, list(images.shape), align_corners=False)
    return functional.grid_sample(images, where, padding_mode=outside, align_corners=False)


def _drawn(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    one = torch.rand(count, generator=generator) * (high - low) + low
    return torch.cat([one, one])
