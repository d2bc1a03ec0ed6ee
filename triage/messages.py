"""The typed records that cross rooms, and the only ones that cross the broker.

Nothing here may hold a UID, a name, an identifier or a date of a patient: a job is known by its number alone.
`to_wire` and `from_wire` turn a record into msgpack-able builtins and back.
"""

from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt


class Stage(StrEnum):
    """The stages of the work on a study revision; each has a job row in the ledger and a Celery queue."""

    PREPARE = "prepare"
    SCORE = "score"
    REPORT = "report"


#: A lease in seconds, long enough for a paper-size volume or a study of thousands of images on a slow CPU: work that
#: outlasts its lease is begun anew. The dispatcher takes a dead worker's job back much earlier; only one whose worker
#: lives and hangs waits as long.
LEASE_S = 1800.0


class Priority(StrEnum):
    """Suggested reading priority."""

    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """What the flows see of a study: an integer image on the bundle's grid, or several.

    Attributes
    ----------
    modality : str
        ``"CXR"`` or ``"BCT"``.
    pixels : numpy.ndarray
        uint8, shape (H, W) for CXR, (D, H, W) for BCT (inferior to superior, LPS rows and columns).
    others : tuple of numpy.ndarray
        Further images of the study, each like ``pixels``: the most abnormal one counts.
    relevance : bool
        Whether a relevance map is wanted: it costs time, and most sites have no use for it.
    """

    modality: str
    pixels: npt.NDArray[np.uint8]
    others: tuple[npt.NDArray[np.uint8], ...] = ()
    relevance: bool = False

    def each(self) -> "list[ModelInput]":
        """Return an input for every image."""
        return [replace(self, pixels=pixels, others=()) for pixels in (self.pixels, *self.others)]

    def to_wire(self) -> dict[str, Any]:
        """Return msgpack-able builtins."""
        return {
            "modality": self.modality,
            "shape": list(self.pixels.shape),
            "pixels": np.ascontiguousarray(self.pixels).tobytes(),
            "others": [np.ascontiguousarray(pixels).tobytes() for pixels in self.others],
            "relevance": self.relevance,
        }

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Self:
        """Rebuild the record; raises ``ValueError`` if the bytes do not fill the shape."""
        first, *others = (
            np.frombuffer(pixels, dtype=np.uint8).reshape(wire["shape"])
            for pixels in (wire["pixels"], *wire.get("others", []))
        )
        return cls(
            modality=str(wire["modality"]),
            pixels=first,
            others=tuple(others),
            relevance=bool(wire.get("relevance", False)),
        )


@dataclass(frozen=True, kw_only=True)
class Score:
    """What the score worker found.

    Attributes
    ----------
    log_prob_normal, log_prob_mixture : float
        log p(x|normal) under M0 and log p(x) under M1, nats.
    log_posterior : float
        log p(normal|x) up to a constant = log p(x|normal) - log p(x), nats (paper, equation 3).
    percentile : float
        Abnormality percentile, 0 to 100, of ``combined`` against the bundle's frozen calibration reference.
    flows : float
        The flows' statistic, nats, higher for the more abnormal; see `triage.calibration.Calibration`.
    set_classifier : float or None
        Logit of the set classifier, higher for the more abnormal; None if the bundle has none.
    local_classifier : float or None
        Value of the local classifier, higher for the more abnormal; None if the bundle has none.
    combined : float
        The statistic that ranks: all estimators together, or the flows alone.
    percentiles : dict of str to float
        The abnormality percentile by each estimator, 0 to 100.
    p_value : float or None
        Conformal: the share of reported-normal references at least as abnormal, between 0 and 1; None without any. Of
        several images it is multiplied by their number (Bonferroni), for the most abnormal one was chosen.
    calibrated : float or None
        Probability of an abnormality; None where no labels were calibrated on, and for the most abnormal of several
        images: it would be the probability of one that wasn't chosen.
    prevalence : float or None
        The share of abnormal studies that ``calibrated`` takes for granted.
    levels_normal, levels_mixture : list of float
        Every level's part of the two log densities, nats.
    not_scored : str
        Empty, or the reason why these numbers must not be ranked by.
    images, chosen : int
        How many images were scored, and which of them, from 0, these numbers are of.
    passed_over : str
        Empty, or how many of several images could not be scored, and why: a reader is told.
    bundle_name, bundle_version, bundle_digest, calibration : str
        What scored it and against which reference.
    compute : str
        Device and precision, e.g. ``"cpu float32"``.
    model_time_s : float
        Seconds inside the models, for all images.
    """

    log_prob_normal: float
    log_prob_mixture: float
    log_posterior: float
    percentile: float
    combined: float = 0.0
    flows: float = 0.0
    set_classifier: float | None = None
    local_classifier: float | None = None
    percentiles: dict[str, float] = field(default_factory=dict)
    p_value: float | None = None
    calibrated: float | None = None
    prevalence: float | None = None
    levels_normal: list[float] = field(default_factory=list)
    levels_mixture: list[float] = field(default_factory=list)
    not_scored: str = ""
    images: int = 1
    chosen: int = 0
    passed_over: str = ""
    bundle_name: str = ""
    bundle_version: str = ""
    bundle_digest: str = ""
    calibration: str = ""
    compute: str = ""
    model_time_s: float = 0.0

    @property
    def classifiers(self) -> list[float]:
        """The values of the estimators beside the flows; empty where the flows rank alone."""
        return [value for value in (self.set_classifier, self.local_classifier) if value is not None]

    def to_wire(self) -> dict[str, Any]:
        """Return JSON-able builtins."""
        return asdict(self)

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Self:
        """Rebuild the record; what a newer program added is left out, ``TypeError`` if anything is missing."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in wire.items() if name in known})


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """Where an image is least like normal ones: a map over the bundle's grid, coarser than it.

    Attributes
    ----------
    method : str
        How it was made; see `workers.flows.relevance`.
    values : numpy.ndarray
        uint8, shape (h, w) or (d, h, w), covering the whole grid evenly: standard deviations above the mean of normal
        images at the same place, in units of `STEP`; 0 = at or below that mean, 255 = `TOP` or more.
    """

    STEP: ClassVar[float] = 0.05
    TOP: ClassVar[float] = 255 * STEP

    method: str
    values: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, method: str, deviations: npt.NDArray[np.float64]) -> Self:
        """Return the record of a standardised map; what is not a number counts as 0."""
        steps = np.rint(np.nan_to_num(deviations, nan=0.0) / cls.STEP)
        return cls(method=method, values=np.clip(steps, 0, 255).astype(np.uint8))

    @property
    def deviations(self) -> npt.NDArray[np.float32]:
        """The map in standard deviations above the mean of normals, float32."""
        return self.values.astype(np.float32) * np.float32(self.STEP)

    def to_wire(self) -> dict[str, Any]:
        """Return msgpack-able builtins."""
        return {
            "method": self.method,
            "shape": list(self.values.shape),
            "values": np.ascontiguousarray(self.values).tobytes(),
        }

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> Self:
        """Rebuild the record; raises ``ValueError`` if the bytes do not fill the shape."""
        values = np.frombuffer(wire["values"], dtype=np.uint8).reshape(wire["shape"])
        return cls(method=str(wire["method"]), values=values)
