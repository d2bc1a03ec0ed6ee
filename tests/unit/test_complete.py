"""When a study is complete: the decision, signal by signal."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.ledgers import Clock, ledger_config, receive
from triage import complete
from triage.complete import quiet_time_s
from triage.config.schema import Complete
from triage.dispatch import Completer
from triage.ledger import State, Study, open_ledger

CONFIG = Complete(quiet_s={"CR": 5, "CT": 20}, max_wait_s=900)
BEGAN = 1_790_000_000.0


def completion(study: Study, now: float, config: Complete, count: int | None) -> str | None:
    """The decision of a dispatcher that has seen all of the study come."""
    return complete.completion(study, now, now - study.last_object_at, config, count)


@pytest.fixture
def study() -> Study:
    """Two images at BEGAN, nothing since."""
    texts = (
        "study_instance_uid reason completed_by patient_name patient_id accession_number study_date "
        "study_description manifest_hash result_sop_instance_uid claimed_by notes"
    )
    times = ("released_at", "priority", "percentile", "log_posterior", "score", "read_at", "reported_at")
    return Study(
        id=1,
        revision=1,
        state=State.RECEIVING,
        arrived_at=BEGAN,
        first_object_at=BEGAN,
        last_object_at=BEGAN,
        modality="CR",
        instance_count=2,
        image_count=2,
        stat=False,
        current=True,
        **dict.fromkeys(texts.split(), ""),  # type: ignore[arg-type]
        **dict.fromkeys(times),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("modality", "seconds"), [("CR", 5.0), ("DX", 5.0), ("CT", 20.0), ("MR", 20.0), ("", 20.0)])
def test_quiet_by_modality(study: Study, modality: str, seconds: float) -> None:
    other = replace(study, modality=modality)
    assert quiet_time_s(other, CONFIG) == seconds
    assert completion(other, BEGAN + seconds - 0.01, CONFIG, None) is None
    assert completion(other, BEGAN + seconds, CONFIG, None) == "quiet"


def test_quiet_counts_from_the_last_object(study: Study) -> None:
    busy = replace(study, last_object_at=BEGAN + 100)
    assert completion(busy, BEGAN + 104, CONFIG, None) is None
    assert completion(busy, BEGAN + 105, CONFIG, None) == "quiet"


def test_release_alone_is_only_a_hint(study: Study) -> None:
    released = replace(study, released_at=BEGAN + 1)
    assert completion(released, BEGAN + 2, CONFIG, None) is None
    assert completion(released, BEGAN + 5, CONFIG, None) == "quiet+release"


def test_a_release_before_the_last_object_says_nothing(study: Study) -> None:
    """Another association went on sending."""
    stale = replace(study, released_at=BEGAN - 1)
    assert completion(stale, BEGAN + 5, CONFIG, None) == "quiet"


def test_an_equal_count_completes_at_once(study: Study) -> None:
    assert completion(study, BEGAN + 0.1, CONFIG, 2) == "count"


def test_nothing_here_and_nothing_there_is_not_complete(study: Study) -> None:
    """A dose report that comes before its images."""
    empty = replace(study, image_count=0, instance_count=1)
    assert completion(empty, BEGAN + 0.1, CONFIG, 0) is None


def test_a_destination_that_knows_more_makes_us_wait_until_the_cap(study: Study) -> None:
    for seconds in (1, 5, 899.9):
        assert completion(study, BEGAN + seconds, CONFIG, 3) is None
    assert completion(study, BEGAN + 900, CONFIG, 3) == "cap"


@pytest.mark.parametrize("count", [None, 0, 1])
def test_a_destination_that_knows_less_or_nothing_leaves_it_to_quiet(study: Study, count: int | None) -> None:
    assert completion(study, BEGAN + 4.9, CONFIG, count) is None
    assert completion(study, BEGAN + 5, CONFIG, count) == "quiet"


def test_the_cap_ends_a_study_that_never_falls_silent(study: Study) -> None:
    busy = replace(study, last_object_at=BEGAN + 899)
    assert completion(busy, BEGAN + 899, CONFIG, None) is None
    assert completion(busy, BEGAN + 900, CONFIG, None) == "cap"


def test_the_cap_counts_from_the_revisions_own_first_object(study: Study) -> None:
    late = replace(study, first_object_at=BEGAN + 5000, last_object_at=BEGAN + 5000, revision=2)
    assert completion(late, BEGAN + 5001, CONFIG, None) is None


@pytest.mark.parametrize(
    ("down_s", "step_s"),
    [
        pytest.param(0.0, 0.0, id="as it should be"),
        pytest.param(600.0, 0.0, id="the node was down"),
        pytest.param(0.0, -86_400.0, id="a fast clock is set back"),
        pytest.param(600.0, -86_400.0, id="both"),
    ],
)
def test_quiet_time_is_the_senders_silence(tmp_path: Path, down_s: float, step_s: float) -> None:
    """Neither the time in which nobody could send, nor what somebody does to the clock."""
    clock, ticks = Clock(), Clock(0.0)
    config = ledger_config("", tmp_path).model_copy(update={"complete": CONFIG})
    ledger = open_ledger(config, clock)
    uid = receive(ledger).study_instance_uid
    completers = [Completer(config, ledger, clock, ticks)]

    def is_complete_after(seconds: float) -> bool:
        clock.go(seconds)
        ticks.go(seconds)
        completers[-1].sweep()
        return ledger.study(uid).state is State.COMPLETE

    try:
        assert not is_complete_after(1)
        clock.go(down_s + step_s)
        ticks.go(down_s)
        if down_s:
            completers.append(Completer(config, ledger, clock, ticks))
            assert not is_complete_after(0)
        assert not is_complete_after(3.9)
        assert is_complete_after(1.1)
    finally:
        for completer in completers:
            completer.close()


def test_a_clock_that_is_set_back_does_not_put_the_cap_off(tmp_path: Path, study: Study) -> None:
    ticks = Clock(0.0)
    silence = complete.Silence(ticks)
    now = BEGAN - 86_400
    silence.look([study], now)
    ticks.go(900)
    assert complete.completion(study, now + 900, silence.look([study], now + 900)[study.id], CONFIG, 3) == "cap"
