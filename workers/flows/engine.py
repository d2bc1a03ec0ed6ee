"""Scores: a bundle's weights on a device, and one model input in, one score out."""

import time
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from triage.bundles import MIXTURE, NORMAL, Bundle
from triage.errors import BundleError
from triage.messages import ModelInput, Score
from workers.flows.glow import Glow
from workers.flows.posterior import Posterior, quantities
from workers.flows.transform import to_flow_grid


def choose_device(name: str) -> torch.device:
    """Return the device named ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; auto takes a GPU if there is one.

    Raises
    ------
    BundleError
        If this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BundleError(f"this machine has no device {name}", remedy='set worker.device to "auto" or "cpu"')
    return device


def load_flow(bundle: Bundle, file: str, device: torch.device) -> Glow:
    """Return one of a bundle's flows, ready to score.

    Raises
    ------
    BundleError
        If the weights are not those of the bundle's architecture, or not all finite.
    """
    flow = Glow(bundle.architecture)
    try:
        weights = load_file(Path(bundle.folder) / file)
        flow.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as exc:
        raise BundleError(
            f"bundle {bundle.name}: {file} doesn't hold the weights of its architecture", remedy="get the bundle again"
        ) from exc
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise BundleError(
            f"bundle {bundle.name}: {file} holds weights that are not finite", remedy="get the bundle again"
        )
    return flow.requires_grad_(False).eval().to(device)


class Engine:
    """A bundle, loaded once and kept warm.

    Parameters
    ----------
    bundle : Bundle
        Verified by `Bundle.open`.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises
    ------
    BundleError
        If the weights don't fit the bundle or the device doesn't exist.
    """

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self.bundle = bundle
        self.device = choose_device(device)
        self.template = np.asarray(bundle.calibration.template)
        self.posterior = Posterior(*(load_flow(bundle, file, self.device) for file in (NORMAL, MIXTURE)))

    @property
    def compute(self) -> str:
        """Device and precision of the flows' arithmetic; sums are float64."""
        return f"{self.device} float32"

    def score(self, model_input: ModelInput) -> Score:
        """Score one image.

        Raises
        ------
        BundleError
            If the image isn't of the bundle's modality, grid and grey levels.
        """
        self._check_fits(model_input)
        bundle, calibration = self.bundle, self.bundle.calibration
        grey_levels = bundle.preprocessing.grey_levels
        started = time.perf_counter()
        grey = to_flow_grid(model_input.pixels, bundle.transform, bundle.architecture, grey_levels)
        normal, mixture = (parts[0] for parts in self.posterior.level_parts(grey[None]))
        model_time_s = time.perf_counter() - started
        cell = self.posterior.normal.cell
        log_prob_normal, log_prob_mixture = float(normal.sum()) + cell, float(mixture.sum()) + cell
        reason = calibration.check(quantities(normal, mixture, model_input.pixels, self.template))
        statistic = calibration.statistic(normal.tolist(), mixture.tolist())
        return Score(
            log_prob_normal=log_prob_normal,
            log_prob_mixture=log_prob_mixture,
            log_posterior=float(normal.sum() - mixture.sum()),
            percentile=calibration.percentile(statistic) if np.isfinite(statistic) else 0.0,
            levels_normal=normal.tolist(),
            levels_mixture=mixture.tolist(),
            not_scored=reason,
            bundle_name=bundle.name,
            bundle_version=bundle.version,
            bundle_digest=bundle.digest,
            calibration=calibration.name,
            compute=self.compute,
            model_time_s=model_time_s,
        )

    def _check_fits(self, model_input: ModelInput) -> None:
        bundle, grid = self.bundle, self.bundle.preprocessing
        if model_input.modality != bundle.modality:
            raise BundleError(f"bundle {bundle.name} scores {bundle.modality}, not {model_input.modality}")
        pixels = model_input.pixels
        if pixels.shape != grid.size or pixels.dtype != np.uint8:
            raise BundleError(f"bundle {bundle.name} takes uint8 {grid.size}, not {pixels.dtype} {pixels.shape}")
        if int(pixels.max()) >= grid.grey_levels:
            raise BundleError(
                f"bundle {bundle.name} takes grey values below {grid.grey_levels}, not {int(pixels.max())}"
            )
