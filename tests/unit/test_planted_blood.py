"""Artificial blood lies within the skull, is as dense as blood, and is marked where it is."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.heads import BRAIN, SPACING_MM, a_head, from_middle
from workers.flows.intracranial import inside_skull
from workers.lab.planted_blood import (
    LEAST_CONTRAST,
    Head,
    _along_fold,
    _along_skull,
    _in_fluid,
    _intraparenchymal,
    with_blood,
    with_dots,
)

HEAD = Head.of(a_head(0), SPACING_MM)


def test_the_inside_of_a_skull_is_found_though_it_has_a_gap() -> None:
    pixels = a_head(1)
    away, brain = from_middle(HEAD.values.shape), inside_skull(pixels)
    deep = (away < BRAIN - 0.1) & (np.arange(20)[:, None, None] % 19 > 0)
    assert brain[deep].all()
    assert not brain[away > BRAIN + 0.05].any()  # neither bone nor scalp, which is as dense as brain
    pixels[:, :20, 46:50] = 48  # an opening
    assert inside_skull(pixels)[deep].mean() > 0.99
    assert not inside_skull(np.full((4, 96, 96), 48, np.uint8)).any()  # no bone, no inside


@pytest.mark.parametrize("seed", range(8))
def test_it_is_marked_where_it_is_and_nothing_else_brightens(seed: int) -> None:
    made, place = with_blood(HEAD, np.random.default_rng(seed))
    assert made.shape == place.shape == HEAD.values.shape
    assert place.min() >= 0
    assert place.max() <= 1
    assert not place[~HEAD.inside].any()
    assert np.array_equal(made[~HEAD.inside], HEAD.values[~HEAD.inside])
    marked = place > 0
    assert ((made - HEAD.values)[marked] > LEAST_CONTRAST).all()
    assert (made - HEAD.values)[~marked].max() <= LEAST_CONTRAST + 1e-3
    full = place > 0.95
    if full.sum() > 20:
        hu = made[full] - 14
        assert 35 < np.median(hu) < 90


def test_the_same_seed_plants_the_same() -> None:
    one, two = (with_blood(HEAD, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])
    assert not np.array_equal(one[0], with_blood(HEAD, np.random.default_rng(6))[0])


def test_most_of_it_can_be_seen() -> None:
    volumes = [(with_blood(HEAD, np.random.default_rng(seed))[1] > 0.5).sum() for seed in range(12)]
    assert np.mean(np.array(volumes) > 20) > 0.6


def depth_of(kind: Callable[..., tuple[npt.NDArray[np.float64], object]]) -> float:
    """Return the median distance of a kind of hemorrhage to the skull, mm."""
    found = []
    for seed in range(10):
        share = kind(HEAD, np.random.default_rng(seed))[0] * HEAD.inside
        found.extend(HEAD.depth_mm[share > 0.5])
    return float(np.median(found))


def test_each_kind_lies_where_it_does_in_heads() -> None:
    assert depth_of(_along_skull) < 8
    assert depth_of(_intraparenchymal) > depth_of(_along_skull)
    filled = [_in_fluid(HEAD, np.random.default_rng(seed))[0] > 0.5 for seed in range(6)]
    assert np.mean(np.concatenate([HEAD.smooth[where] for where in filled])) < 42  # fluid and its rim
    layers = [_along_fold(HEAD, np.random.default_rng(seed))[0] > 0.5 for seed in range(6)]
    assert 0 < np.mean([where.sum((1, 2)).max() for where in layers]) < 0.25 * HEAD.inside[10].sum()


def test_a_dot_is_tiny_and_bright() -> None:
    dotted = with_dots(HEAD, HEAD.values, np.random.default_rng(1)) - HEAD.values
    assert dotted.max() > 12
    assert (dotted > 5).sum() < 120
    assert not dotted[~HEAD.inside].any()


def test_nothing_is_planted_into_what_is_no_head() -> None:
    air = Head.of(np.zeros((4, 32, 32), np.uint8), SPACING_MM)
    made, place = with_blood(air, np.random.default_rng(0))
    assert not made.any()
    assert not place.any()
    assert np.array_equal(with_dots(air, air.values, np.random.default_rng(0)), air.values)
