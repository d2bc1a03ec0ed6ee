"""The local classifier on head CTs: what it learns of artificial blood, and how a slice is compared with normals'."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.support.heads import a_head, from_middle
from triage.manifest import Local
from workers.flows.intracranial import inside_skull
from workers.flows.local_classifier import LocalClassifier
from workers.flows.local_volume import NOTHING, Reading, SliceStandard
from workers.lab.fit_local import fit_local
from workers.lab.heads import Heads, folds, without
from workers.lab.image_set import ImageSet
from workers.lab.planted_blood import Head, with_blood
from workers.lab.presets import LocalRecipe

SPEC = Local(
    size=(48, 48), widths=(8, 8, 12, 16), members=2, window=(14, 94), neighbours=1, top=0.008, slices=2, smooth=0.7,
    symmetric=True, extent=1.0, weights=(1, 0, 0),
)  # fmt: skip
SIZE, SPACING_MM = (14, 48, 48), (7.0, 3.6, 3.6)
RECIPE = LocalRecipe(spec=SPEC, steps=220, pairs=4, set_weight=0, plantings=4, spacing_mm=SPACING_MM)
CPU = torch.device("cpu")


def heads(first: int, count: int) -> ImageSet:
    keys = tuple(f"head {number}" for number in range(first, first + count))
    return ImageSet(np.stack([a_head(number, SIZE) for number in range(first, first + count)]), keys, keys)


@cache
def fitted() -> dict[str, torch.Tensor]:
    return fit_local(RECIPE, heads(0, 4), heads(2, 4), seed=0, device=CPU)


def bleeding(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a head that nothing was trained on with a ball of blood, and how far that is, mm."""
    pixels = a_head(100 + seed, SIZE)
    rng = np.random.default_rng(seed)
    middle = np.array([rng.integers(5, 9), rng.integers(17, 31), rng.integers(19, 29)])
    off = [(np.arange(n) - m) * s for n, m, s in zip(pixels.shape, middle, SPACING_MM, strict=True)]
    z, y, x = np.meshgrid(*off, indexing="ij", sparse=True)
    away = np.sqrt(z**2 + y**2 + x**2)
    soft = ndimage.gaussian_filter((away < 12).astype(float), (0.3, 0.5, 0.5))
    return np.rint(pixels * (1 - soft) + 76 * soft).astype(np.uint8), away


def test_it_finds_blood_in_heads_it_never_saw_and_says_where() -> None:
    classifier = LocalClassifier(SPEC, fitted(), CPU)
    well = [classifier(a_head(200 + number, SIZE)) for number in range(4)]
    found = [bleeding(number) for number in range(4)]
    assert np.mean([classifier(ill) > one for ill, _ in found for one in well]) > 0.8
    maps = classifier.maps(np.stack([ill for ill, _ in found]), (14, 24, 24))
    ranks = []
    for one, (_, away) in zip(maps, found, strict=True):
        near = away.reshape(14, 24, 2, 24, 2).min((2, 4)) < 12
        blood, brain = one[near], one[~near & (one > NOTHING)]
        ranks.append(np.mean(blood[:, None] > brain))
    assert np.mean(ranks) > 0.8


def test_nothing_outside_the_skull_is_ever_marked() -> None:
    classifier = LocalClassifier(SPEC, fitted(), CPU)
    pixels = a_head(300, SIZE)
    pixels[:, 20:28, :3] = 76  # as bright as blood, beside the head
    whole = classifier.maps(pixels[None], (14, 24, 24))[0]
    outside = from_middle(pixels.shape).reshape(14, 24, 2, 24, 2).min((2, 4)) > 1
    assert (whole[outside] == NOTHING).all()
    assert whole.max() > NOTHING
    air = np.zeros_like(pixels)
    assert np.isnan(classifier(air))  # what was not looked at is not normal
    assert (classifier.maps(air[None], (7, 12, 12)) == NOTHING).all()


def test_a_coarser_map_keeps_the_highest() -> None:
    classifier = LocalClassifier(SPEC, fitted(), CPU)
    ill, _ = bleeding(0)
    fine, coarse = (classifier.maps(ill[None], size)[0] for size in ((14, 24, 24), (7, 6, 6)))
    assert np.array_equal(coarse, fine.reshape(7, 2, 6, 4, 6, 4).max((1, 3, 5)))


def test_most_pairs_differ_in_the_blood_alone() -> None:
    rng = np.random.default_rng(0)
    clean, planted, place, of_mixture = Heads(RECIPE, heads(0, 1), heads(1, 1), rng).draw(12)
    assert clean.shape == planted.shape == (12, 3, 48, 48)
    assert place.shape == (12, 1, 48, 48)
    assert 0 < of_mixture.sum() < 12
    assert (place.flatten(1).amax(1) > 0.5).all()
    away = torch.from_numpy(ndimage.binary_dilation(place[:, 0].numpy() > 0, iterations=1))
    brighter = (planted - clean)[:, 1]
    own = [bool(one[~far].max() <= 6) for one, far in zip(brighter, away, strict=True)]
    assert 3 <= sum(own) < 12  # others are pairs of two slices of one head
    assert (
        torch.stack(
            [one[at > 0.5].mean() for one, at, same in zip(brighter, place[:, 0], own, strict=True) if same]
        ).mean()
        > 5
    )
    with pytest.raises(ValueError, match="no head"):
        air = ImageSet(np.zeros((1, 4, 48, 48), np.uint8), ("air",), ("air",))
        Heads(RECIPE, air, air, rng).draw(1)


def test_every_network_leaves_out_its_share_of_both_sets() -> None:
    normal, mixture = heads(0, 6), heads(3, 9)
    left_out = folds(normal, mixture, SPEC)
    assert set(left_out) == {*normal.patients, *mixture.patients}
    assert sorted(left_out[patient] for patient in normal.patients) == [0, 0, 0, 1, 1, 1]
    parts = [without(normal, member, left_out).patients for member in range(2)]
    assert set(parts[0]) | set(parts[1]) == set(normal.patients)
    assert not set(parts[0]) & set(parts[1])
    assert folds(heads(0, 3), mixture, SPEC) == {}  # too few to leave one out
    assert folds(normal, mixture, SPEC.model_copy(update={"members": 1})) == {}


def test_a_slice_is_compared_with_the_same_of_normals() -> None:
    rng = np.random.default_rng(0)
    usual = np.linspace(-3, 3, 32)
    normals = usual + rng.normal(0, 0.5, (40, 32))
    normals[:, :4] = np.nan  # no brain in any
    standard = SliceStandard.of([normals, normals + 10])
    assert standard.centre[0, 6:30] == pytest.approx(usual[6:30], abs=0.4)
    assert standard.centre[1] - standard.centre[0] == pytest.approx(np.full(32, 10), abs=1e-9)
    assert (standard.scale > 0).all()
    by_slice = np.stack([usual, usual + 10])
    by_slice[:, 20] += 5
    by_slice[:, :4] = np.nan
    found = standard(by_slice)
    assert found.argmax() == 20
    assert (found[:4] == NOTHING).all()
    again = SliceStandard.from_tensors(standard.tensors())
    assert again is not None
    assert np.array_equal(again(by_slice), found)
    empty = SliceStandard.of([np.full((2, 5), np.nan)])  # nothing to go by: as it is
    assert np.array_equal(empty(np.ones((1, 5))), np.ones(5))


def test_a_slice_with_little_brain_stands_back() -> None:
    pixels = a_head(0, SIZE)
    logits = np.zeros((1, 14, 24, 24))
    reading = Reading.of(logits, inside_skull(pixels), SPEC.model_copy(update={"members": 1}))
    standard = SliceStandard(np.zeros((1, 14)), np.ones((1, 14)))
    plain, discounted = (reading.standardised(standard, extent).max((1, 2)) for extent in (0.0, 1.0))
    area = reading.inside.sum((1, 2))
    shown = area > 0
    assert (plain[shown] == 0).all()
    assert discounted[shown] == pytest.approx(np.log(area[shown] / area.max()))
    assert np.nanmax(reading.by_slice(0.008)) == 0
    # What ranks goes by the same: the slice that stands out on the map is the one that counts.
    spec = SPEC.model_copy(update={"members": 1, "extent": 1.0})
    assert reading.slices(standard, spec)[shown] == pytest.approx(discounted[shown])
    assert (reading.slices(standard, spec)[~shown] == NOTHING).all()


def test_little_brain_lowers_what_ranks() -> None:
    tensors, blood = fitted(), bleeding(400)[0]
    lowered, plain = (
        LocalClassifier(SPEC.model_copy(update={"extent": extent, "weights": (1.0, 0.0, 0.0)}), tensors, CPU)(blood)
        for extent in (1.0, 0.0)
    )
    assert lowered < plain


def test_planted_blood_stands_out_of_its_own_head() -> None:
    classifier, head = LocalClassifier(SPEC, fitted(), CPU), Head.of(a_head(400, SIZE), SPACING_MM)
    planted = [with_blood(head, np.random.default_rng(seed)) for seed in range(6)]
    seen = [np.rint(made).astype(np.uint8) for made, place in planted if (place > 0.5).sum() > 15]
    assert len(seen) >= 3
    assert np.mean([classifier(one) > classifier(head.values.astype(np.uint8)) for one in seen]) > 0.6
