"""DICOM values and numbers as a person reads them, and the templates' environment that knows how."""

from datetime import datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from triage import __version__
from triage.calibration import COMBINED, FLOWS, LOCAL_CLASSIFIER, SET_CLASSIFIER
from triage.ledger import State
from triage.messages import Priority
from triage.rank import ORDER_IN_WORDS
from triage.web.schemas import WorklistItem

TEMPLATES = Path(__file__).parent / "templates"
_PENDING = {State.RECEIVING, State.COMPLETE, State.PREPARING, State.SCORING}


def readable_name(person_name: str) -> str:
    """Return a DICOM PN as a person reads it: ``"Doe^Jane^^Dr"`` becomes ``"Doe, Jane (Dr)"``.

    Of the alphabetic, ideographic and phonetic groups the first that is filled is shown.

    References
    ----------
    PS3.5 section 6.2.1.
    """
    groups = [group.strip() for group in person_name.split("=")]
    shown = next((group for group in groups if group.strip("^ ")), "")
    family, given, middle, prefix, suffix = ([part.strip() for part in shown.split("^")] + [""] * 5)[:5]
    name = ", ".join(part for part in (family, " ".join(p for p in (given, middle) if p)) if part)
    extra = " ".join(part for part in (prefix, suffix) if part)
    return f"{name} ({extra})" if name and extra else name or extra


def readable_date(value: str) -> str:
    """Return a DICOM DA as ``YYYY-MM-DD``; anything else as it is."""
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if len(value) == 8 and value.isdecimal() else value


def readable_wait(seconds: float) -> str:
    """Return a waiting time in its two largest units."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{int(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def readable_percentile(value: float | None) -> str:
    """Return a percentile, cut rather than rounded: a 99.97 is not a 100."""
    return "" if value is None else f"{int(value * 10) / 10:.1f}"


def estimates_in_words(item: WorklistItem) -> str:
    """Return every estimator's percentile, and what calibration makes of the score, as a tooltip."""
    shown = [name for name in (FLOWS, SET_CLASSIFIER, LOCAL_CLASSIFIER, COMBINED) if name in item.percentiles]
    words = [f"{name.replace('_', ' ')} {readable_percentile(item.percentiles[name])}" for name in shown]
    parts = [f"Abnormality percentiles: {', '.join(words)}"] if words else []
    if item.p_value is not None:
        parts.append(f"p-value of normal {item.p_value:.2g}")
    if item.calibrated is not None:
        among = "" if item.prevalence is None else f", where {_share(item.prevalence)} of studies have one"
        parts.append(f"probability of an abnormality {_share(item.calibrated)}{among}")
    return "; ".join(parts)


def _share(probability: float) -> str:
    """Return a probability in percent; only what is certain is 0 or 100."""
    least = 0.01
    if 0 < probability < least:
        return "below 1%"
    return "above 99%" if 1 - least < probability < 1 else f"{probability:.0%}"


def viewer_link(template: str, study_instance_uid: str) -> str:
    """Return the viewer's address of a study; empty unless the template is an http(s) address."""
    if urlsplit(template).scheme not in {"http", "https"}:
        return ""
    return template.replace("{study_instance_uid}", quote(study_instance_uid, safe=""))


def verdict(item: WorklistItem) -> tuple[str, str]:
    """Return how the page shows the model's say: (style, words). "Not scored" never looks like a low score."""
    if item.state == State.FAILED:
        return "failed", "FAILED"
    if item.priority is None:
        return ("pending", "pending") if item.state in _PENDING else ("unscored", "NOT SCORED")
    if item.priority is Priority.LOW:
        return "low", "LOW · unflagged"
    return item.priority.value.lower(), item.priority.value


def inherited(item: WorklistItem) -> str:
    """Return what is said of a priority that was suggested by an earlier score; it stays unless one is as high."""
    if item.priority is None or item.percentile == item.percentile_now:
        return ""
    return f"{item.priority} of an earlier score" if item.state == State.FAILED else "of an earlier score"


def _clock(value: datetime) -> str:
    return value.strftime("%H:%M:%S UTC")


def make_environment() -> Environment:
    """Return the templates' environment: everything is escaped, a misspelt variable is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": readable_name,
        "date": readable_date,
        "wait": readable_wait,
        "percentile": readable_percentile,
        "estimates": estimates_in_words,
        "verdict": verdict,
        "inherited": inherited,
        "clock": _clock,
    }
    environment.globals |= {"version": __version__, "order_in_words": ORDER_IN_WORDS}
    return environment
