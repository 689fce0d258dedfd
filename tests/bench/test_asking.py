"""What the quality bench asks: in held-out templates, the same for every method, and enough of it."""

from itertools import chain

import pytest

from bench.asking import IN_LOOKS, PLAIN, Sizes, asked_of
from bench.budgets import BUDGETS
from bench.splits import LOOK_HALVES, OBJECT_HALVES, near_neighbours
from training.world import BACKGROUND_TEMPLATES, LOOK_TEMPLATES, LOOKS, OBJECTS, PLAIN_TEMPLATES, SYNONYMS, prompt
from unsee_core.job import Concept
from unsee_core.prompts import forget_prompts, held_out_prompts

SIZES = Sizes(erased=20, retained=60, near=15, pairs=12, synonyms=6)


def test_no_template_was_trained_on_by_the_model_or_is_known_to_an_erasure():
    trained = {prompt(template, ("cat",)) for template in PLAIN_TEMPLATES}
    trained |= {prompt(template, ("cat",), "sepia") for template in LOOK_TEMPLATES}
    trained |= {template.format("a cat", background="blue") for template in BACKGROUND_TEMPLATES}
    for concept in (Concept("cat"), Concept("sepia", kind="style")):
        things = {word.replace(thing, "a cat") for word in known(concept) for thing in ("a dog", "a house", "a car")}
        trained |= things | known(concept)
    asked = {prompt(template, ("cat",)) for template in PLAIN}
    asked |= {prompt(template, ("cat",), "sepia") for template in IN_LOOKS}
    assert len(asked) == len(PLAIN) + len(IN_LOOKS)
    assert not asked & trained


def known(concept: Concept) -> set[str]:
    return {*forget_prompts(concept), *held_out_prompts(concept)}


@pytest.mark.parametrize("name", ["dog", "train", "hot dog", "house"])
def test_an_objects_questions_ask_for_what_they_say(name: str):
    asked = asked_of(name, SIZES)
    assert [len(part) for part in asked.parts().values()] == [20, 60, 15, 12, 6 if name in SYNONYMS else 0]
    assert {question.objects for question in asked.erased} == {(name,)}
    assert {question.look for question in asked.erased} == set(LOOKS)
    assert all(name not in question.objects for question in (*asked.retained, *asked.near))
    assert {question.objects[0] for question in asked.retained} == set(OBJECTS) - {name}
    assert {question.objects[0] for question in asked.near} == set(near_neighbours(name))
    assert all(name in question.objects and len(question.objects) == 2 for question in asked.pairs)
    assert not any(f" {name}" in f" {question.text}" for question in asked.synonyms)
    assert len(set(asked.all())) == len(asked.all())


def test_a_looks_questions_ask_for_what_they_say():
    asked = asked_of("sepia", SIZES)
    assert {question.look for question in (*asked.erased, *asked.synonyms)} == {"sepia"}
    assert "sepia" not in {question.look for question in asked.retained}
    assert not any("sepia" in question.text for question in asked.synonyms)
    assert (asked.near, asked.pairs) == ((), ())


def test_what_must_stay_is_asked_in_the_same_way_whatever_is_erased():
    dog, cat = asked_of("dog", SIZES), asked_of("cat", SIZES)
    retained = set(dog.retained) & set(cat.retained)
    assert len(retained) >= 45
    shared_seeds = {question.seed for question in dog.retained} & {question.seed for question in cat.retained}
    assert len(shared_seeds) == len(retained)


@pytest.mark.parametrize("budget", ["standard", "full"])
@pytest.mark.parametrize("half", ["held-out"])
def test_every_figure_of_a_row_rests_on_three_hundred_pictures(budget: str, half: str):
    concepts = BUDGETS[budget].concepts(half)
    for names in (OBJECT_HALVES[half], LOOK_HALVES[half]):
        parts = [asked_of(name, BUDGETS[budget].sizes(name)).parts() for name in names if name in concepts]
        totals = {part: sum(len(each[part]) for each in parts) for part in parts[0]}
        assert all(total >= 300 for total in totals.values() if total), totals


def test_the_small_budget_has_six_objects_and_two_looks_and_its_main_figures_rest_on_three_hundred():
    concepts = BUDGETS["small"].concepts("held-out")
    assert len([name for name in concepts if name in OBJECTS]) == 6
    assert len([name for name in concepts if name in LOOKS]) == 2
    for kind, parts in (("objects", ("erased", "retained", "near")), ("looks", ("erased", "retained"))):
        names = [name for name in concepts if (name in OBJECTS) == (kind == "objects")]
        for part in parts:
            assert sum(len(asked_of(n, BUDGETS["small"].sizes(n)).parts()[part]) for n in names) >= 300


def test_another_seed_asks_the_same_from_other_latents():
    asked = asked_of("dog", SIZES)
    assert asked.from_other_latents(0) == asked
    others = [asked.from_other_latents(seed).all() for seed in (0, 1, 2)]
    assert len({question.seed for question in chain.from_iterable(others)}) == 3 * len(
        {question.seed for question in asked.all()}
    )
    assert [[question.text for question in questions] for questions in others] == [[q.text for q in asked.all()]] * 3


@pytest.mark.parametrize("half", ["tuning", "held-out"])
@pytest.mark.parametrize("budget", list(BUDGETS))
def test_no_budget_leaves_its_half(budget: str, half: str):
    assert set(BUDGETS[budget].concepts(half)) <= {*OBJECT_HALVES[half], *LOOK_HALVES[half]}
