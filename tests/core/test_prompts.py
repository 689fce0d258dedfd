"""The prompts of an erasure: complete, disjoint, and never for and against the same thing."""

from typing import get_args

import pytest

from unsee_core.job import Concept, ConceptKind
from unsee_core.prompts import (
    HELD_OUT,
    TRAINED,
    anchor_prompts,
    forget_prompts,
    held_out_prompts,
    retain_prompts,
    with_article,
)

KINDS: tuple[ConceptKind, ...] = get_args(ConceptKind)


def test_every_kind_has_templates_to_train_and_others_to_measure():
    assert set(TRAINED) == set(HELD_OUT) == set(KINDS)
    for kind in KINDS:
        assert len(TRAINED[kind]) >= 12
        assert len(HELD_OUT[kind]) >= 6
        assert not set(TRAINED[kind]) & set(HELD_OUT[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_every_forget_prompt_names_the_concept_in_one_of_its_words(kind: ConceptKind):
    concept = Concept("zorb", ("glim", "zorb"), kind)
    for prompts in (forget_prompts(concept), held_out_prompts(concept)):
        assert all("zorb" in prompt or "glim" in prompt for prompt in prompts)
        assert len(set(prompts)) == len(prompts)
        assert not any("{" in prompt for prompt in prompts)
    assert forget_prompts(concept)[0] == "zorb"
    assert "glim" in forget_prompts(concept)


def test_braces_in_a_name_are_just_characters():
    assert forget_prompts(Concept("{a}{x}"))[0] == "{a}{x}"


@pytest.mark.parametrize("kind", KINDS)
def test_retain_prompts_are_many_and_each_there_once(kind: ConceptKind):
    prompts = retain_prompts(Concept("zorb", kind=kind))
    assert 250 < len(prompts) <= 400
    assert len(set(prompts)) == len(prompts)
    assert not set(prompts) & set(forget_prompts(Concept("zorb", kind=kind)))


@pytest.mark.parametrize(
    ("concept", "gone", "kept"),
    [
        (Concept("dog"), "dog", "wolf"),
        (Concept("Cat", ("LION",)), "lion", "tiger"),
        (Concept("apple"), "apples", "orange"),
        (Concept("pixel art", kind="style"), "pixel art", "blueprint"),
    ],
)
def test_no_retain_prompt_names_the_concept_by_any_of_its_words(concept: Concept, gone: str, kept: str):
    prompts = retain_prompts(concept)
    names = [f" {prompt} ".replace(",", " ") for prompt in prompts]
    assert not any(f" {gone} " in name for name in names)
    assert any(kept in name for name in names)


def test_a_word_inside_another_word_is_not_the_concept():
    prompts = retain_prompts(Concept("ship"))
    assert not any(" ship" in f" {prompt}" for prompt in prompts)
    assert any("spoon" in prompt for prompt in retain_prompts(Concept("spo")))


def test_the_style_templates_without_the_style_are_retained():
    prompts = retain_prompts(Concept("pixel art", kind="style"))
    assert "a dog" in prompts
    assert any("blueprint" in prompt for prompt in prompts)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cat", "a cat"), ("apple", "an apple"), ("8-bit art", "an 8-bit art"), ("The Beatles", "The Beatles"),
        (" owl", "an  owl"), ("éclair", "a éclair"),
    ],
)  # fmt: skip
def test_an_article_is_put_before_words_that_have_none(words: str, expected: str):
    assert with_article(words) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_anchor_prompts_are_the_forget_prompts_row_for_row_with_the_anchor_in_place(kind: ConceptKind):
    concept = Concept("zorb", ("glim", "zorb"), kind)
    pairs = list(zip(forget_prompts(concept), anchor_prompts(concept, "dax"), strict=True))
    assert all(anchor == prompt.replace("zorb", "dax").replace("glim", "dax") for prompt, anchor in pairs)


def test_without_an_anchor_an_object_goes_to_nothing_and_a_style_to_the_thing_it_is_applied_to():
    assert set(anchor_prompts(Concept("cat"), "")) == {""}
    style = Concept("sepia", kind="style")
    anchors = dict(zip(forget_prompts(style), anchor_prompts(style, " "), strict=True))
    assert anchors["sepia style"] == ""
    assert all(not anchor or anchor in prompt for prompt, anchor in anchors.items())
    assert len(set(anchors.values())) > 5
