"""However much a study says or holds, no more is done than a head is worth."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from tests.support.images import (
    Slices,
    Store,
    again,
    by_position,
    enhanced,
    reason_of,
    score_input,
    second_series,
    set_pixels,
    stored,
    with_,
)
from workers.images import Prepared, Source, bct
from workers.images.frames import MAX_FRAMES, frames_of

pytest_plugins = ["tests.support.images"]

MANY = "the image's header does not describe as many frames as it says that there are"


@pytest.mark.parametrize("said", [2, 2**31 - 1])
def test_frames_that_the_header_only_counts_are_none(store: Store, head: Slices, said: int) -> None:
    """One refusal, at once: nothing is done as often as a header's number says."""
    (ds,) = with_(head[:1], NumberOfFrames=said)
    frames, refused = frames_of(Source("slice", Path("not read")), ds)
    assert ([exc.message for exc in refused], frames) == ([MANY], [])
    assert reason_of(store([ds])) == MANY


@pytest.mark.parametrize("more", [-1, 1])
def test_an_enhanced_ct_that_counts_otherwise_than_it_describes_is_refused(
    store: Store, head: Slices, more: int
) -> None:
    (multi,) = with_([enhanced(head, everything_shared=True)], NumberOfFrames=len(head) + more)
    assert reason_of(store([multi])) == MANY


def test_an_instance_of_more_frames_than_any_head_has_is_not_looked_at(head: Slices) -> None:
    multi = enhanced(head[:1], everything_shared=True)
    multi.NumberOfFrames = MAX_FRAMES + 1
    multi.PerFrameFunctionalGroupsSequence = [Dataset()] * (MAX_FRAMES + 1)
    frames, refused = frames_of(Source("instance", Path("not read")), multi)
    assert ([exc.message for exc in refused], frames) == ([f"an image of {MAX_FRAMES + 1} frames, more than 4096"], [])


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "agent",
    ["0," * 40 + "X", "0" * 60_000 + "X", "KM " * 20_000, "NO " * 20_000 + "WITH", "OHNE" + " " * 60_000 + "\nX"],
)
def test_an_agent_s_name_is_read_at_once_whatever_it_is(head: Slices, agent: str) -> None:
    """Tried in every way that it can be cut into "none"s, the first would hold a worker for good."""
    with pytest.warns(UserWarning, match="length") if len(agent) > 64 else nullcontext():
        (ds,) = with_(head[:1], ContrastBolusAgent=agent)
    (frame,), _ = frames_of(Source("slice", Path("not read")), ds)
    assert frame.contrast is not agent.startswith("OHNE")


def times_read(monkeypatch: pytest.MonkeyPatch, sources: list[Source]) -> tuple[int, Prepared]:
    """Return how often a file was read with its pixels until a study was prepared, and the study."""
    read: list[str] = []
    whole = Source.dataset

    def counted(source: Source) -> Dataset:
        read.append(source.sop_instance_uid)
        return whole(source)

    with monkeypatch.context() as patched:
        patched.setattr(Source, "dataset", counted)
        found = score_input(sources)
    return len(read), found


def test_instances_that_show_the_same_places_are_read_one_after_another(
    store: Store, head: Slices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frame by frame of either in turn, the whole file would be parsed for every one."""
    multi = enhanced(by_position(head), everything_shared=True)
    twice = store([multi, *again([multi])])
    count, found = times_read(monkeypatch, twice)
    assert count == 3  # both to compare them, one to score it
    assert f"{len(head)} of {2 * len(head)} slices of the series" in found.notes


def test_instances_that_show_every_second_place_are_read_once(
    store: Store, head: Slices, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered = by_position(head)
    whole = score_input(store([enhanced(ordered, everything_shared=True)]))
    halves = store([enhanced(ordered[start::2], everything_shared=True) for start in (0, 1)])
    count, found = times_read(monkeypatch, halves)
    assert count == 2
    assert np.array_equal(found.model_input.pixels, whole.model_input.pixels)


def test_what_is_longer_than_a_head_is_refused_before_it_is_decoded(
    store: Store, head: Slices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source, "dataset", None)  # nothing is decoded
    body = [ds for _ in range(5) for ds in again(by_position(head))]
    for n, ds in enumerate(body):
        ds.ImagePositionPatient[2] = 5.0 * n
    assert reason_of(store(body)) == f"the slices cover {5 * len(body)} mm, more than a head"
    assert reason_of(store([*body, *again(body)])) == "several slices lie at the same position"
    monkeypatch.setattr(bct, "MAX_SLICES", len(head) - 1)
    assert reason_of(store(head)) == f"{len(head)} slices, more than a head has"


def test_of_a_study_no_more_than_so_many_slices_are_decoded(
    store: Store, head: Slices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two series that come first show no head; whether the third is looked at hangs on how much is left for it."""
    others = [with_(second_series(head), KVP=120, ImageType=None) for _ in range(2)]
    for ds in (ds for other in others for ds in other):
        set_pixels(ds, np.zeros_like(stored(ds)))
    sources = store([*others[0], *others[1], *with_(head, KVP=140)])
    monkeypatch.setattr(bct, "MAX_DECODED", 3 * len(head))
    assert set(score_input(sources).sources) == {ds.SOPInstanceUID for ds in head}
    monkeypatch.setattr(bct, "MAX_DECODED", 3 * len(head) - 1)
    not_seen = f"not looked at: more than {3 * len(head) - 1} slices that may show a head"
    assert reason_of(sources) == f"no tissue in the images; {not_seen}"
    count, found = times_read(monkeypatch, sources[len(head) :])
    assert set(found.sources) == {ds.SOPInstanceUID for ds in head}
    assert count == 2 * len(head)


def test_slices_that_came_first_but_were_too_many_are_told_as_not_looked_at(
    store: Store, head: Slices, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = with_(second_series(by_position(head)[1:]), KVP=140)
    monkeypatch.setattr(bct, "MAX_DECODED", len(fewer))
    found = score_input(store([*with_(head, KVP=120), *fewer]))
    assert set(found.sources) == {ds.SOPInstanceUID for ds in fewer}
    told = f"slices that came first not looked at: more than {len(fewer)} slices that may show a head"
    assert [note for note in found.notes if "came first" in note] == [told]
