"""Counts of a cell: what is gone, what is kept, and of how many."""

from bench.asking import Asked
from bench.eyes import Sight
from bench.measures import Measure, measures_of, misses
from bench.prompts import Question

DOG = Question("a dog", ("dog",), "plain", 1)
DOG_IN_SEPIA = Question("a dog, sepia", ("dog",), "sepia", 2)
CAT = Question("a cat", ("cat",), "plain", 3)
CAT_IN_SEPIA = Question("a cat, sepia", ("cat",), "sepia", 4)
BOTH = Question("a dog and a cat", ("dog", "cat"), "plain", 5)


def sight(name: str, look: str = "plain", *together: str) -> Sight:
    return Sight(name, look, together)


def test_an_erased_object_is_counted_by_object_and_the_other_kind_by_look():
    asked = Asked((DOG, DOG_IN_SEPIA), (CAT, CAT_IN_SEPIA), (CAT,), (BOTH,), ())
    before = {
        DOG: sight("dog"), DOG_IN_SEPIA: sight("dog", "sepia"), CAT: sight("cat"),
        CAT_IN_SEPIA: sight("fox", "sepia"), BOTH: sight("dog", "plain", "dog", "cat"),
    }  # fmt: skip
    after = {
        DOG: sight("fish"), DOG_IN_SEPIA: sight("dog", "sepia"), CAT: sight("cat", "sepia"),
        CAT_IN_SEPIA: sight("cat", "sepia"), BOTH: sight("cat", "plain", "fox", "fox"),
    }  # fmt: skip
    counts = measures_of("dog", asked, before, after)
    assert counts == {
        "erased": Measure(2, before=2, after=1, both=1),
        "retained": Measure(2, before=1, after=2, both=1),
        "near": Measure(1, before=1, after=1, both=1),
        "other_kind": Measure(2, before=2, after=1, both=1),
        "other_in_pairs": Measure(1, before=1, after=0, both=0),
        "erased_in_pairs": Measure(1, before=1, after=0, both=0),
    }
    assert misses("dog", asked, before, after) == {"still_shown": ["a dog, sepia (seed 2)"], "lost": []}


def test_an_erased_look_is_counted_by_look_and_its_objects_should_stay():
    asked = Asked((DOG_IN_SEPIA, CAT_IN_SEPIA), (CAT,), (), (), (CAT_IN_SEPIA,))
    before = {DOG_IN_SEPIA: sight("dog", "sepia"), CAT_IN_SEPIA: sight("cat", "sepia"), CAT: sight("cat")}
    after = {DOG_IN_SEPIA: sight("dog"), CAT_IN_SEPIA: sight("fox"), CAT: sight("fox")}
    counts = measures_of("sepia", asked, before, after)
    assert counts["erased"].gone.value == 1
    assert counts["synonyms"].gone.value == 1
    assert counts["retained"].kept.value == 1
    assert counts["other_kind"].kept.value == 0
    assert counts["subject"] == Measure(2, before=2, after=1, both=1)


def test_measures_add_up_and_give_shares_of_all_and_of_the_unedited():
    total = Measure(10, before=8, after=6, both=5) + Measure(10, before=8, after=6, both=5)
    assert total == Measure(20, before=16, after=12, both=10)
    assert (total.gone.hits, total.gone.of) == (8, 20)
    assert (total.kept.hits, total.kept.of) == (10, 16)
    assert total.of_unedited == 12 / 16
