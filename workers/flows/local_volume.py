"""What the local classifier makes of a head CT: its logits within the skull, slice by slice against normals' slices.

Every slice of a head has its own false alarms (the skull's base most of all), so a slice is compared with the same one
of normal heads that the network wasn't trained on. Outside the skull nothing is ever marked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from triage.manifest import Local
from workers.flows.intracranial import Mask

Maps = npt.NDArray[np.float64]

CENTRE, SCALE = "slices.centre", "slices.scale"
#: Of places outside the skull, and the least of any: standard deviations.
NOTHING = -9.0
_CENTRE_WEIGHT, _SPREAD_WEIGHT = 1.0, 2.0  # heads' worth of the mean over all slices
_NEAR = 2.0  # slices over which normals are averaged


@dataclass(frozen=True)
class Reading:
    """The logits of one head by place.

    Attributes
    ----------
    logits : numpy.ndarray
        float64, (M, D, h, w), one a network, smoothed within the skull.
    inside : numpy.ndarray
        bool, (D, h, w): within the skull.
    """

    logits: Maps
    inside: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, logits: Maps, mask: Mask, spec: Local) -> Self:
        """Take the networks' logits, (M, D, h, w), of a head whose skull has ``mask`` inside, (D, H, W)."""
        found = torch.from_numpy(mask).float().unsqueeze(1)
        inside = adaptive_max_pool2d(found, logits.shape[-2:])[:, 0].numpy() > 0
        if spec.smooth:
            weight = np.maximum(ndimage.gaussian_filter(inside.astype(np.float64), spec.smooth), 1e-3)
            logits = np.stack([ndimage.gaussian_filter(one * inside, spec.smooth) / weight for one in logits])
        return cls(logits, inside)

    def by_slice(self, top: float) -> Maps:
        """Return the mean of the highest logits of every slice, (M, D); NaN where there is no brain."""
        count = max(1, round(top * self.inside[0].size))
        found = np.full(self.logits.shape[:2], np.nan)
        for number in np.flatnonzero(self.inside.any((1, 2))):
            within = np.sort(self.logits[:, number][:, self.inside[number]], 1)
            found[:, number] = within[:, -count:].mean(1)
        return found

    def standardised(self, standard: "SliceStandard", extent: float) -> Maps:
        """Return the mean map of the networks, (D, h, w), in spreads above normals; see `triage.manifest.Local`."""
        spreads = ((self.logits - standard.centre[..., None, None]) / standard.scale[..., None, None]).mean(0)
        lowered = np.maximum(spreads - self._lowered(extent)[:, None, None], NOTHING)
        found: Maps = np.where(self.inside, lowered, NOTHING)
        return found

    def slices(self, standard: "SliceStandard", spec: Local) -> Maps:
        """Return by how many spreads every slice's highest logits are above normals', lowered as the map is, (D,)."""
        found: Maps = np.maximum(standard(self.by_slice(spec.top)) - self._lowered(spec.extent), NOTHING)
        return found

    def _lowered(self, extent: float) -> Maps:
        area = self.inside.sum((1, 2))
        found: Maps = extent * np.log(max(int(area.max()), 1) / np.maximum(area, 1))
        return found


@dataclass(frozen=True)
class SliceStandard:
    """What the highest logits of normals' slices are: mean and spread, float64, (M, D)."""

    centre: Maps
    scale: Maps

    @classmethod
    def shapes(cls, spec: Local, slices: int) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of its tensors in ``local.safetensors``."""
        return dict.fromkeys((CENTRE, SCALE), (spec.members, slices))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self | None:
        """Return what the file says; None if it says nothing of slices."""
        if CENTRE not in tensors:
            return None
        return cls(*(tensors[name].cpu().numpy().astype(np.float64) for name in (CENTRE, SCALE)))

    @classmethod
    def of(cls, normals: list[Maps]) -> Self:
        """Take it from normals' slices: for every network a (N, D) of heads that it wasn't trained on, NaN: no brain.

        Few heads are there, so a slice's neighbours count as well, and all slices a little.
        """
        centres, scales = zip(*(_smooth_moments(values) for values in normals), strict=True)
        return cls(np.stack(centres), np.stack(scales))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors for the file."""
        return {CENTRE: torch.from_numpy(self.centre), SCALE: torch.from_numpy(self.scale)}

    def __call__(self, by_slice: Maps) -> Maps:
        """Return slices' logits, (M, D), in spreads above normals, the networks' mean, (D,); `NOTHING` for no brain."""
        found: Maps = np.nan_to_num(((by_slice - self.centre) / self.scale).mean(0), nan=NOTHING)
        return found


def _smooth_moments(values: Maps) -> tuple[Maps, Maps]:
    there = np.isfinite(values)
    if there.sum() < 2:
        return np.zeros(values.shape[1]), np.ones(values.shape[1])

    def near(sums: Maps) -> Maps:
        smooth: Maps = ndimage.gaussian_filter1d(sums.astype(np.float64), _NEAR, mode="nearest")
        return smooth

    known = np.where(there, values, 0.0)
    count = near(there.sum(0))
    centre = (near(known.sum(0)) + _CENTRE_WEIGHT * known.sum() / there.sum()) / (count + _CENTRE_WEIGHT)
    away = np.where(there, values - centre, 0.0) ** 2
    usual = away.sum() / there.sum()
    spread = (near(away.sum(0)) + _SPREAD_WEIGHT * usual) / (count + _SPREAD_WEIGHT)
    return centre, np.sqrt(np.maximum(spread, 1e-6))
