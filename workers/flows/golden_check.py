"""Does a machine score a bundle's golden input as it was scored when the bundle was made? Asked before any patient's.

The recorded score is a CPU's, so this also holds a GPU to the CPU: by no more than `GATE_NATS` in the log ratio.
"""

from dataclasses import dataclass
from math import inf

import numpy as np

from triage.errors import MachineError
from triage.messages import ModelInput
from workers.flows.classifiers import classifier_values
from workers.flows.engine import Engine
from workers.flows.golden_input import GoldenInput
from workers.flows.precision import GATE_NATS

TOLERANCE = 1e-5
"""Relative to a flow's whole log density: float32 arithmetic on another processor stays far below it."""

LOGIT_TOLERANCE = 1e-2
"""Of a classifier's value."""


@dataclass(frozen=True, kw_only=True)
class GoldenCheck:
    """How far a machine is from the golden score.

    Attributes
    ----------
    error, tolerated : float
        The largest error of a level's part, and what is tolerated, nats; a precision that is a preview is held to the
        ratio alone.
    ratio_error : float
        That of the log ratio, nats.
    logit_error : float
        The largest of the classifiers' values; 0 if the bundle has none.
    """

    error: float
    tolerated: float
    ratio_error: float
    logit_error: float

    @property
    def passed(self) -> bool:
        """Whether the arithmetic can be trusted."""
        flows = self.error <= self.tolerated and self.ratio_error <= GATE_NATS
        return flows and self.logit_error <= LOGIT_TOLERANCE

    @property
    def problem(self) -> str:
        """What is off, and by how much; "" if it passed."""
        if self.passed:
            return ""
        logits = f" and {self.logit_error:.3g} in a classifier's value" if self.logit_error else ""
        return f"scores its golden input {max(self.error, self.ratio_error):.3g} nats{logits} off"


def check_golden(engine: Engine) -> GoldenCheck:
    """Score the golden input of an engine's bundle and compare.

    Raises
    ------
    BundleError
        If the golden input cannot be read.
    """
    bundle = engine.bundle
    golden = GoldenInput.load(bundle)
    score = engine.score(ModelInput(modality=bundle.modality, pixels=golden.pixels))
    off = np.array([score.levels_normal, score.levels_mixture]) - golden.levels
    normal, mixture = off
    scale = max(abs(score.log_prob_normal), abs(score.log_prob_mixture), 1.0)
    values = classifier_values(score)
    errors = [abs(value - golden.values.get(name, inf)) for name, value in values.items()]
    return GoldenCheck(
        error=float(np.abs(off).max()),
        tolerated=TOLERANCE * scale if engine.precision == "float32" else inf,
        ratio_error=float(abs((mixture - normal).sum())),
        logit_error=float(np.max([0.0, *errors])),  # a NaN stays one, and fails
    )


def require_golden(engine: Engine) -> GoldenCheck:
    """Check the golden input, and refuse a machine that doesn't score it as the bundle's maker did.

    Raises
    ------
    MachineError
        If the arithmetic can't be trusted.
    BundleError
        If the golden input cannot be read.
    """
    check = check_golden(engine)
    if check.problem:
        raise MachineError(
            f"bundle {engine.bundle.name} {check.problem} on {engine.device}: this machine scores nothing",
            remedy='set worker.device = "cpu" or get the bundle again; `triage-node models verify` tells more',
        )
    return check
