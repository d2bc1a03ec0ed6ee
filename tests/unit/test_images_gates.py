"""That the gates keep their rates: a fixed sample of real images and of impostors, of patients who tuned no network."""

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest

from tests.bench import false_chests, false_heads, false_heads_odd, false_heads_structured, true_chests
from tests.bench.impostors import passes_chest, passes_head
from tests.bench.true_heads import built, ill
from tests.support.heads import volume_of
from tests.support.peers import shared
from workers.images.level import brain_hu
from workers.images.resample import head_frame
from workers.lab.gates.chest import halves

Hu = np.ndarray


def untouched(name: str, count: int) -> np.ndarray:
    images = halves(shared("data", f"{name}.npz"))[1]
    return images[np.random.default_rng(0).permutation(len(images))[:count]]


def test_chests_of_other_patients_pass() -> None:
    for name in ("cxr_adult", "cxr_children"):
        passed = [passes_chest(image.astype(np.float32) / 255) for image in untouched(name, 100)]
        assert np.mean(passed) >= 0.98


def test_ill_chests_and_chests_otherwise_exposed_pass() -> None:
    """What needs eyes most must not be taken for something else."""
    rng = np.random.default_rng(0)
    some = np.concatenate([untouched(name, 6) for name in ("cxr_adult", "cxr_children")])
    pictures = [*true_chests.ill(some, rng), *true_chests.exposed(some, rng)]
    refused = Counter(family for family, picture in pictures if not passes_chest(picture))
    assert refused.total() <= 0.03 * len(pictures), refused
    assert max(refused.values(), default=0) <= 3, refused


def test_what_is_no_frontal_chest_is_refused() -> None:
    rng = np.random.default_rng(0)
    pictures = [*false_chests.drawn(1, rng), *false_chests.cut(untouched("cxr_adult", 4), rng)]
    passed = [family for family, picture in pictures if passes_chest(picture)]
    assert len(pictures) > 60
    assert len(passed) <= 0.02 * len(pictures), passed


@pytest.fixture(scope="module")
def volumes() -> list[Hu]:
    return [volume / 255 * 120 - 20.0 for volume in untouched("bct_ctich", 3)]


def test_heads_of_other_patients_pass(volumes: list[Hu]) -> None:
    assert all(passes_head(hu) for hu in volumes)


def test_what_is_no_head_is_refused(volumes: list[Hu]) -> None:
    rng = np.random.default_rng(0)
    false = [*false_heads.of_head(volumes[0], volumes[1], rng), *false_heads.drawn(rng)]
    passed = [family for family, hu in islice(false, 1, None, 3) if passes_head(hu)]
    assert not passed


def test_heads_of_other_builds_and_positions_pass(volumes: list[Hu]) -> None:
    refused = [name for name, hu in built(volumes) if not passes_head(hu)]
    assert not refused


def test_a_head_with_neck_and_shoulders_passes_and_two_heads_do_not(volumes: list[Hu]) -> None:
    """And what is taken for its brain's density is not muscle's."""
    y, x = np.mgrid[-100:100:128j, -100:100:128j]
    neck, shoulders = (np.where(np.hypot(y / 55, x / wide) < 1, 58.0, -20.0) for wide in (43, 99))
    for hu, other in pairwise(volumes):
        whole = np.concatenate([[shoulders] * 20, [neck] * 8, hu])
        assert passes_head(whole)
        assert not passes_head(np.concatenate([hu, other]))
        found, alone = (brain_hu(volume, head_frame(volume)) for volume in (volume_of(whole, 5.0), volume_of(hu, 5.0)))
        assert abs(found - alone) < 1


def test_heads_with_large_lesions_pass(volumes: list[Hu]) -> None:
    """What needs eyes most must not be taken for a phantom."""
    heads = [*ill(volumes, np.random.default_rng(0))]
    refused = [name for name, hu in heads if not passes_head(hu)]
    assert len(refused) <= 0.06 * len(heads), refused


def test_phantoms_and_things_are_refused() -> None:
    rng = np.random.default_rng(0)
    false = [*false_heads_structured.drawn(rng), *false_heads_odd.drawn(rng)]
    assert not [family for family, hu in false if passes_head(hu)]


def test_structure_within_a_skull_is_no_brain(volumes: list[Hu], monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is the network that sees it: bounds of size, bone and density don't."""
    rng = np.random.default_rng(0)
    false = [*false_heads_structured.composites(volumes, rng), *false_heads_odd.composites(volumes, rng)][::2]
    passed, refused = [], []
    for family, hu in false:
        (passed if passes_head(hu) else refused).append((family, hu))
    assert len(passed) <= 0.3 * len(false), [family for family, _ in passed]
    monkeypatch.setattr("workers.images.gate_bct.MIN_LOGIT", -np.inf)
    monkeypatch.setattr("workers.images.gate_bct.MIN_LOGIT_TURNED", -np.inf)
    assert len(passed) + sum(passes_head(hu) for _, hu in refused) > 0.5 * len(false)


LOOKS = [
    ("turned by 90 degrees", "_check_likeness"),
    ("slices reversed", "_check_upright"),
    ("interleaved with another head", "_check_order"),
    ("two heads", "_check_likeness"),
    ("vertex on another head", "_check_seams"),
]


@pytest.fixture(scope="module")
def impostors(volumes: list[Hu]) -> dict[str, list[Hu]]:
    """What each look is there for, made of every two neighbouring heads."""
    made = [dict(false_heads.of_head(hu, other, np.random.default_rng(1))) for hu, other in pairwise(volumes)]
    return {family: [families[family] for families in made] for family, _ in LOOKS}


@pytest.mark.parametrize(("family", "check"), LOOKS)
def test_each_look_at_a_head_is_needed(
    impostors: dict[str, list[Hu]], family: str, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some impostor of the kind is refused by that look alone, or by the network."""
    false = impostors[family]
    assert not any(passes_head(hu) for hu in false)
    monkeypatch.setattr(f"workers.images.gate_bct.{check}", lambda *_: None)
    for threshold in ("MIN_LOGIT", "MIN_LOGIT_TURNED"):
        monkeypatch.setattr(f"workers.images.gate_bct.{threshold}", -np.inf)
    assert any(passes_head(hu) for hu in false)
