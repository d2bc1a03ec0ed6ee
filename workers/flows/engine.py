"""Scores: a bundle's weights on a device, and one model input in, one score out."""

import re
import time
from functools import cached_property

import numpy as np
import torch

from triage.bundles import Bundle
from triage.calibration import COMBINED, FLOWS, LOCAL_CLASSIFIER, SET_CLASSIFIER
from triage.errors import BundleError
from triage.messages import ModelInput, Score
from workers.flows.classifiers import Classifiers
from workers.flows.fused import FusedFlows
from workers.flows.measure import Measurer
from workers.flows.posterior import Posterior, coarse
from workers.flows.precision import DTYPES, Precision, require_precision
from workers.flows.relevance import Mapper
from workers.flows.replay import fastest
from workers.flows.transform import FlowGrid
from workers.flows.weights import load_flows


def choose_device(name: str) -> torch.device:
    """Return the device named ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; auto takes a GPU if there is one.

    On a GPU convolutions and products then compute in float32 by reproducible algorithms: not in TF32, as cuDNN would,
    and cuBLAS where the environment asks for it (``TORCH_ALLOW_TF32_CUBLAS_OVERRIDE``, as in some containers).

    Raises
    ------
    BundleError
        If there is no such device, or not on this machine.
    """
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    torch.backends.cuda.matmul.allow_tf32 = False
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise BundleError(f"there is no device {name!r}", remedy="choose auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BundleError(f"this machine has no device {name}", remedy="choose auto or cpu (worker.device, --device)")
    return device


class Engine:
    """A bundle, loaded once and kept warm.

    Parameters
    ----------
    bundle : Bundle
        Verified by `Bundle.open`.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    precision : str
        ``"float32"``; or ``"bfloat16"`` for the coupling nets: a preview, refused unless it passes `check_precision`
        with this bundle on this device.

    Raises
    ------
    BundleError
        If the weights don't fit the bundle, the device doesn't exist or the precision doesn't do for the bundle.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", *, precision: Precision = "float32") -> None:
        self.bundle = bundle
        self.device = choose_device(device)
        self.precision: Precision = precision
        self.template = np.asarray(bundle.calibration.template)
        if self.template.size != coarse(np.zeros(bundle.preprocessing.size, np.uint8)).size:
            problem = f"bundle {bundle.name}: the calibration's template is not of its grid"
            raise BundleError(problem, remedy="get the bundle again")
        self.flows = FusedFlows(load_flows(bundle, self.device), dtype=DTYPES[precision])
        self.classifiers = Classifiers.load(bundle, self.device)
        if precision != "float32":
            require_precision(bundle, self.device, precision)
        run = fastest(self.flows, bundle.transform.views)
        self.measure = Measurer(run, self.classifiers, FlowGrid.of(bundle.manifest), self.device)

    @cached_property
    def posterior(self) -> Posterior:
        """The training modules, for whoever needs gradients; scores come from `flows`."""
        return Posterior(*load_flows(self.bundle, self.device))

    @cached_property
    def mapper(self) -> Mapper | None:
        """What makes the bundle's relevance maps; None if it makes none."""
        return Mapper.load(self.bundle, lambda: self.posterior, self.classifiers)

    @property
    def compute(self) -> str:
        """Device and precision of the flows' arithmetic; sums are float64."""
        preview = "" if self.precision == "float32" else " couplings, preview"
        return f"{self.device} {self.precision}{preview}"

    def score(self, model_input: ModelInput) -> Score:
        """Score one image.

        Raises
        ------
        BundleError
            If the image isn't of the bundle's modality, grid and grey levels.
        """
        self._check_fits(model_input)
        bundle, calibration, pixels = self.bundle, self.bundle.calibration, model_input.pixels
        started = time.perf_counter()
        measured = self.measure(pixels[None])
        model_time_s = time.perf_counter() - started
        values = measured.values[0]
        normal, mixture = measured.levels[:, 0, 0]  # the image's own; its other views count in the statistic alone
        found = measured.quantities(0, pixels, self.template)
        reason = calibration.check(found) or calibration.check(found | measured.averaged(0))
        statistics = {name: float(numbers[0]) for name, numbers in measured.estimates(calibration).items()}
        combined = statistics[COMBINED]
        return Score(
            log_prob_normal=float(normal.sum()) + measured.cell,
            log_prob_mixture=float(mixture.sum()) + measured.cell,
            log_posterior=float(normal.sum() - mixture.sum()),
            percentile=calibration.percentile(combined) if np.isfinite(combined) else 0.0,
            combined=combined,
            flows=statistics[FLOWS],
            set_classifier=values.get(SET_CLASSIFIER),
            local_classifier=values.get(LOCAL_CLASSIFIER),
            percentiles=calibration.percentiles(statistics),
            p_value=calibration.p_value(combined),
            calibrated=calibration.calibrated(combined),
            prevalence=calibration.probability.assumed if calibration.probability else None,
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
