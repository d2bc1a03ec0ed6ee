"""What a report says: the record that the report task hands over."""

import math
from dataclasses import dataclass, field
from datetime import datetime

from triage import __version__
from triage.config.schema import Rank
from triage.errors import ReportError
from triage.messages import Priority, Score
from triage.report import codes

MODALITIES = frozenset(codes.PROCEDURE)


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Who says so: the bundle that scored, or the input gate that declined."""

    name: str
    version: str
    digest: str
    parameters: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReportInput:
    """The result of one study revision.

    Attributes
    ----------
    modality : str
        ``"CXR"`` or ``"BCT"``.
    revision : int
        The study's revision, from 1; becomes Instance Number (0020,0013).
    score : Score or None
        What the score worker found; None if the study never reached it.
    priority : Priority or None
        Suggested reading priority of a scored study.
    reason : str
        Why there is no score. Empty for a scored study.
    rank : triage.config.schema.Rank
        The thresholds: the flag is "Yes" from `rank.high_percentile` on, and "Undetermined" below, never "No".
    notes : str
        Which images were scored, and what was done to them.
    station : str
        The node's AE title; names the device observer.
    created_at : datetime.datetime
        When the report was made, with its zone; becomes Content Date and Time. The same record gives the same bytes.

    Raises
    ------
    ReportError
        If it holds neither a usable score nor a reason, or a number that is not finite.
    """

    modality: str
    revision: int
    score: Score | None = None
    priority: Priority | None = None
    reason: str = ""
    rank: Rank = field(default_factory=Rank)
    notes: str = ""
    station: str = "TRIAGE"
    created_at: datetime

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ReportError(f"no report is defined for modality {self.modality!r}")
        if self.revision < 1:
            raise ReportError("revisions count from 1")
        if self.not_scored:
            return
        if self.score is None:
            raise ReportError("a report needs a score or the reason why there is none")
        if not (all(map(math.isfinite, self._numbers.values())) and 0 <= self.score.percentile <= 100):
            raise ReportError("a score that is not finite cannot be reported as a score")

    @property
    def not_scored(self) -> str:
        """The reason why the study has no score; empty if it has one."""
        return self.reason or (self.score.not_scored if self.score else "")

    @property
    def is_declined(self) -> bool:
        """Whether the input gate declined the study, so that nobody knows what it shows."""
        return self.score is None

    @property
    def suspected_abnormality(self) -> bool:
        """Whether the study is flagged: scored, and at or above the percentile for HIGH."""
        return bool(self.score and not self.not_scored and self.score.percentile >= self.rank.high_percentile)

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm that speaks."""
        score = self.score
        if score is None or not score.bundle_name:
            return Algorithm(name=f"{codes.MODEL_NAME} input gate", version=__version__, digest="", parameters=())
        return Algorithm(
            name=score.bundle_name,
            version=score.bundle_version or "unversioned",
            digest=score.bundle_digest,
            parameters=(
                f"bundle-sha256={score.bundle_digest}",
                f"calibration={score.calibration}",
                f"high-percentile={self.rank.high_percentile:g}",
                f"medium-percentile={self.rank.medium_percentile:g}",
                f"node={__version__}",
                f"compute={score.compute}",
            ),
        )

    @property
    def _numbers(self) -> dict[str, float]:
        """All numbers that the report states, by name."""
        score = self.score
        if score is None:
            return {}
        named = {
            "log_posterior": score.log_posterior,
            "percentile": score.percentile,
            "combined": score.combined,
            "flows": score.flows,
            "set_classifier": score.set_classifier,
            "local_classifier": score.local_classifier,
            "p_value": score.p_value,
            "calibrated": score.calibrated,
            "prevalence": score.prevalence,
        }
        named |= {f"percentile of {name}": value for name, value in sorted(score.percentiles.items())}
        return {name: float(value) for name, value in named.items() if value is not None}

    @property
    def statement(self) -> str:
        """Everything the report states, as one text: two results that differ in it need two SOP Instance UIDs."""
        numbers = {} if self.not_scored else self._numbers
        told = [f"{name}={value.hex()}" for name, value in numbers.items()]
        words = (str(self.priority or ""), str(self.suspected_abnormality), self.not_scored, self.notes)
        return "|".join([*told, *words])
