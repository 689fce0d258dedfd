"""The two halves: nothing is in both, every object has its place, and neighbours lie on either side."""

import pytest

from bench.splits import (
    FAMILIES,
    MEASURED_LOOKS,
    MEASURED_OBJECTS,
    REPORTED_HALF,
    REPORTED_LOOKS,
    TUNING_HALF,
    TUNING_LOOKS,
    TUNING_OBJECTS,
    near_neighbours,
)
from training.world import LOOKS, OBJECTS


def test_every_object_and_look_is_in_exactly_one_half():
    assert sorted(TUNING_HALF + REPORTED_HALF) == sorted(OBJECTS)
    assert sorted(TUNING_LOOKS + REPORTED_LOOKS) == sorted(LOOKS[1:])
    assert len(TUNING_HALF) == len(REPORTED_HALF) == 25


def test_the_shorter_lists_come_from_their_halves():
    assert set(TUNING_OBJECTS) <= set(TUNING_HALF)
    assert set(MEASURED_OBJECTS) <= set(REPORTED_HALF)
    assert set(MEASURED_LOOKS) <= set(REPORTED_LOOKS)


def test_every_family_of_more_than_one_is_in_both_halves():
    members = sorted(name for family in FAMILIES.values() for name in family)
    assert members == sorted(OBJECTS)
    for family in FAMILIES.values():
        assert len(family) == 1 or (set(family) & set(TUNING_HALF) and set(family) & set(REPORTED_HALF)), family


@pytest.mark.parametrize("name", OBJECTS)
def test_five_neighbours_lie_in_both_halves_and_the_own_family_comes_first(name: str):
    near = near_neighbours(name)
    assert len(set(near)) == 5
    assert name not in near
    family = next(family for family in FAMILIES.values() if name in family)
    kin = [other in family for other in near]
    assert kin == sorted(kin, reverse=True)
    assert sum(kin) == min(5, len(family) - 1)
    assert set(near) & set(TUNING_HALF)
    assert set(near) & set(REPORTED_HALF)


def test_the_neighbours_of_a_cat_are_its_kin():
    assert near_neighbours("cat") == ("fox", "tiger", "wolf", "lion", "dog")
