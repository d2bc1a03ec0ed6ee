"""What the page makes of DICOM's values."""

import pytest

from triage.web.readable import (
    estimates_in_words,
    readable_date,
    readable_name,
    readable_percentile,
    readable_wait,
    viewer_link,
)
from triage.web.schemas import WorklistItem


@pytest.mark.parametrize(
    ("person_name", "shown"),
    [
        ("Doe^Jane", "Doe, Jane"),
        ("Doe^Jane^Ann^Dr^MD", "Doe, Jane Ann (Dr MD)"),
        ("Doe", "Doe"),
        ("^Jane", "Jane"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou"),
        ("=山田^太郎", "山田, 太郎"),
        ("^^^^=", ""),
        ("", ""),
        ("A^B^C^D^E^F", "A, B C (D E)"),
    ],
)
def test_names(person_name: str, shown: str) -> None:
    assert readable_name(person_name) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [("20260921", "2026-09-21"), ("", ""), ("2026", "2026"), ("2026.9.1", "2026.9.1")]
)
def test_dates(value: str, shown: str) -> None:
    assert readable_date(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3660, "1 h 01 min"), (90_000, "1 d 1 h")],
)
def test_waits(seconds: float, shown: str) -> None:
    assert readable_wait(seconds) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, ""), (99.97, "99.9"), (100.0, "100.0"), (0.0, "0.0")])
def test_percentiles_are_never_rounded_up(value: float | None, shown: str) -> None:
    assert readable_percentile(value) == shown


def test_every_estimate_is_told_in_words() -> None:
    found = {"log_prob_normal": 57.0, "plain_ratio": 28.0, "flows": 73.21, "set_classifier": 99.97, "combined": 80.0}
    item = WorklistItem.model_construct(percentiles=found, p_value=0.031, calibrated=None, prevalence=None)
    words = "Abnormality percentiles: flows 73.2, set classifier 99.9, combined 80.0; p-value of normal 0.031"
    assert estimates_in_words(item) == words
    assert estimates_in_words(WorklistItem.model_construct(percentiles={}, p_value=None, calibrated=None)) == ""


@pytest.mark.parametrize(
    ("probability", "shown"), [(0.0, "0%"), (0.004, "below 1%"), (0.25, "25%"), (0.996, "above 99%"), (1.0, "100%")]
)
def test_only_what_is_certain_is_0_or_100_percent(probability: float, shown: str) -> None:
    item = WorklistItem.model_construct(percentiles={}, p_value=None, calibrated=probability, prevalence=None)
    assert estimates_in_words(item) == f"probability of an abnormality {shown}"
    item.prevalence = 0.1
    assert estimates_in_words(item) == f"probability of an abnormality {shown}, where 10% of studies have one"


@pytest.mark.parametrize(
    ("template", "link"),
    [
        ("https://v/x?StudyInstanceUIDs={study_instance_uid}", "https://v/x?StudyInstanceUIDs=1.2.3"),
        ("http://v/{study_instance_uid}/", "http://v/1.2.3/"),
        ("", ""),
        ("javascript:alert('{study_instance_uid}')", ""),
    ],
)
def test_only_http_viewers_are_linked(template: str, link: str) -> None:
    assert viewer_link(template, "1.2.3") == link
