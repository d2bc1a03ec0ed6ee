"""However much a study says or holds, no more is done than a head is worth."""

from pathlib import Path

import pytest
from pydicom import Dataset

from tests.support.images import Slices, Store, enhanced, reason_of, with_
from workers.images import Source
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
