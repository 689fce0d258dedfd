"""Images alone: they become the concept's words, and the word that may be their name is not held."""

from dataclasses import replace

import pytest
import torch

from tests.core.erasing import a_context, finish
from unsee_core.answers import EraseProgress
from unsee_core.encoder import EncoderTail, token_vectors
from unsee_core.job import Concept
from unsee_core.methods import METHODS, from_images
from unsee_core.methods.base import EraseContext
from unsee_core.methods.from_images import (
    candidates_for,
    clear_name,
    known_words,
    named_by_images,
    near_words,
)
from unsee_core.near_words import same_names
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import everyday_words, forget_prompts, retain_prompts
from unsee_core.pseudo_words import PseudoWord, named_only, placeholder

TOKENS = (1, 2)


def named(context: EraseContext) -> tuple[EraseContext, list[EraseProgress]]:
    steps, progress = named_by_images(context), []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            return end.value, progress


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_images, "STEPS", 3)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("kind", ["object", "style", "person", "brand"])
def test_where_no_name_is_clear_the_pseudo_words_take_it_and_the_kind_stays(
    tiny_pipeline, kind, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(from_images, "CLEAR", 0.0)
    context, progress = named(a_context(tiny_pipeline, concept=Concept("told", kind=kind)))
    assert context.job.concept == Concept(placeholder(0), (placeholder(1),), kind)
    assert tuple(len(word.vectors) for word in context.words) == TOKENS
    total = 6 + min(from_images.CANDIDATES, len(known_words(tiny_pipeline, kind)))
    assert [(event.phase, event.step, event.total) for event in progress] == [
        ("prepare", i, total) for i in range(1, total + 1)
    ]
    assert context.near_words
    assert set(context.near_words) <= set(everyday_words(kind))


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(("kind", "name"), [("object", "cat"), ("style", "pixel art")])
def test_what_the_images_show_is_named_and_nothing_near_it_is_left_unheld(pipeline: Pipeline, kind, name):
    context, _ = named(
        a_context(pipeline, name, concept=Concept("", kind=kind), method="closed_form", steps=None, rank=None)
    )
    assert same_names(pipeline, [context.job.concept.name]) == same_names(pipeline, [name])
    assert context.job.concept.synonyms == (placeholder(0), placeholder(1))
    assert context.near_words == ()
    assert named_only(context.job.concept) == Concept(context.job.concept.name, (), kind)


def test_a_name_is_clear_of_what_means_something_else_and_not_of_its_own_synonyms(pipeline: Pipeline):
    words = ("dog", "kitten", "cat")
    assert clear_name(pipeline, words, [0.30, 0.201, 0.200]) == "cat"
    assert clear_name(pipeline, words, [0.203, 0.201, 0.200]) == ""
    assert clear_name(pipeline, ("cat", "kitten"), [0.1, 0.2]) == ""  # nothing to be clear of


def test_candidates_are_every_pseudo_words_nearest_first(pipeline: Pipeline):
    encoder, known = EncoderTail(pipeline, 0), known_words(pipeline, "object")
    words = [
        PseudoWord(
            placeholder(i),
            token_vectors(
                pipeline, pipeline.tokenizer(name, add_special_tokens=False, return_tensors="pt").input_ids[0]
            ),
        )
        for i, name in enumerate(("cat", "guitar"))
    ]
    found = candidates_for(pipeline, encoder, words, "object", known)
    assert set(found[:2]) == {"cat", "guitar"}
    assert len(found) == len(set(found)) == from_images.CANDIDATES
    assert set(found) <= set(known)


@pytest.mark.usefixtures("few_steps")
def test_what_was_named_can_be_erased_by_a_method_and_its_seed_decides_the_bytes(tiny_pipeline):
    def erased(seed: int) -> dict[str, bytes]:
        context, _ = named(a_context(tiny_pipeline, steps=1, seed=seed))
        factors, _ = finish(METHODS["few_shot_lora"].run(context))
        return {path: pair.b.numpy().tobytes() for path, pair in factors.pairs.items()}

    assert erased(1) == erased(1) != erased(2)


@pytest.mark.usefixtures("few_steps")
def test_the_forget_prompts_are_read_with_the_vectors_and_not_as_letters(tiny_pipeline):
    context, _ = named(a_context(tiny_pipeline, steps=1))
    other = tuple(replace(word, vectors=word.vectors + 0.1) for word in context.words)
    one, two = (
        finish(METHODS["few_shot_lora"].run(replace(context, words=words)))[0] for words in (context.words, other)
    )
    assert any(not torch.equal(pair.b, two.pairs[path].b) for path, pair in one.pairs.items())


@pytest.mark.parametrize(("kind", "name"), [("object", "dog"), ("style", "pixel art")])
def test_a_pseudo_word_with_a_words_own_vectors_is_near_that_word_and_few_others(pipeline: Pipeline, kind, name):
    ids = pipeline.tokenizer(name, add_special_tokens=False).input_ids
    word = PseudoWord(placeholder(0), token_vectors(pipeline, torch.tensor(ids)))
    near = near_words(pipeline, EncoderTail(pipeline, 0), [word], kind)
    assert name in near
    assert len(near) <= 5


def test_retain_prompts_leave_out_what_lies_near():
    concept = Concept(placeholder(0))
    assert any("cat" in prompt.split() for prompt in retain_prompts(concept))
    assert not any("cat" in prompt.split() for prompt in retain_prompts(concept, ["cat"]))
    assert f"a photo of a {placeholder(0)}" in forget_prompts(concept)


def test_near_words_are_not_held_by_the_retain_term(tiny_pipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("unsee_core.near_words.SAME", 0.0)  # random weights tell no two words apart
    context = a_context(tiny_pipeline, steps=3)
    one, two = (
        finish(METHODS["few_shot_lora"].run(replace(context, near_words=near)))[0] for near in ((), ("dog", "tree"))
    )
    assert any(not torch.equal(pair.b, two.pairs[path].b) for path, pair in one.pairs.items())
