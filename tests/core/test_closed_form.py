"""Erasing by least squares: what it leaves of a concept, what stays, and what it reads of a job."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.func import functional_call

from unsee_core.answers import EraseProgress, Report
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.concept_figures import concept_figures
from unsee_core.encoder import EncoderTail, apply_factors, hidden_before, token_vectors, tokenize
from unsee_core.erase_pairs import erase_pairs, led_pairs, name_nothing, pairs_of
from unsee_core.errors import InvalidRequestError
from unsee_core.held import LEAST_STRENGTH, _LookedAt, choose_strength, held_rows
from unsee_core.inversion import invert, templates_of
from unsee_core.job import AnchoredConcept, Concept, ConceptKind, EraseJob
from unsee_core.joint_solve import Recipe
from unsee_core.lora import LoraFactors, LoraPair
from unsee_core.methods import EraseContext, Erasure, check_job, closed_form
from unsee_core.methods.base import InForce
from unsee_core.metric import cross_attention_metric, seen_distance
from unsee_core.near_words import same_names, stand_in
from unsee_core.neighbours import names_of, stand_in_of
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import HELD_OUT
from unsee_core.pseudo_words import PseudoWord, placeholder
from unsee_core.report import make_report
from unsee_core.vocabulary import Vocabulary

CLIENT_IMAGES = Path(__file__).parents[2] / "bench" / "images"
WORDS = Vocabulary(nouns=("dog", "cat", "fish"), looks=("sepia",))
OTHERS = Vocabulary(nouns=("dog", "fish"), looks=("sepia",))
QUICK: Mapping[str, object] = {"method": "closed_form", "strength": 1.0}


def finish(context: EraseContext, recipe: Recipe | None = None) -> tuple[Erasure, list[EraseProgress]]:
    steps, progress = closed_form.erase(context, recipe) if recipe else closed_form.run(context), []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            return end.value, progress


def reported(context: EraseContext, factors: LoraFactors) -> Report:
    steps = make_report(context, factors)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            report: Report = end.value
            return report


def a_context(pipeline: Pipeline, *, pictures: int = 0, **changes: object) -> EraseContext:
    files = sorted((CLIENT_IMAGES / "cat").glob("*.png"))[:pictures]
    job = EraseJob(Concept("cat"), images=tuple(file.read_bytes() for file in files), **(QUICK | changes))  # type: ignore[arg-type]
    images = tuple(Image.open(file).convert("RGB") for file in files)
    return EraseContext(pipeline, job, images, check_job(job, pipeline))


def ratio(pipeline: Pipeline, factors: LoraFactors, concept: Concept) -> float:
    """Return how much of a concept is left in templates that no solve saw."""
    job = EraseJob(concept, method="closed_form")
    context = EraseContext(pipeline, job, (), check_job(job, pipeline))
    encoder, metric = ChangedEncoder(context, factors), cross_attention_metric(pipeline.unet)
    return concept_figures(context, encoder, metric, stand_in_of(context)).erase_ratio


def drift(pipeline: Pipeline, factors: LoraFactors, *prompts: str) -> float:
    """Return how far prompts moved, as a share of how far they are from the empty one; the largest."""
    tail = EncoderTail(pipeline, factors.first_layer)
    hidden = hidden_before(pipeline, tokenize(pipeline, ["", *prompts])[0], factors.first_layer)
    before, after = tail(hidden), functional_call(tail, apply_factors(tail, [(factors, 1.0)]), (hidden,))
    metric = cross_attention_metric(pipeline.unet)
    distance = seen_distance(metric, before[1:], before[:1].expand_as(before[1:]))
    return float((seen_distance(metric, after, before)[1:] / distance).max())


@pytest.fixture(autouse=True)
def templates_that_the_model_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the held-out templates the first two: the embedded model knows no engravings and no rain."""
    readable = {kind: templates[:2] for kind, templates in HELD_OUT.items()}
    monkeypatch.setattr("unsee_core.concept_figures.HELD_OUT", readable)


@pytest.fixture(scope="module")
def no_cat(pipeline: Pipeline) -> LoraFactors:
    """The factors that erase "cat" from the embedded model, from its name alone."""
    return finish(a_context(pipeline))[0].factors


def test_a_concept_is_gone_and_so_are_its_other_names(pipeline: Pipeline, no_cat: LoraFactors) -> None:
    assert ratio(pipeline, no_cat, Concept("cat")) < 0.25
    assert ratio(pipeline, no_cat, Concept("kitten")) < 0.7


def test_neighbours_and_the_empty_prompt_stay(pipeline: Pipeline, no_cat: LoraFactors) -> None:
    assert ratio(pipeline, no_cat, Concept("tiger")) > 0.9
    assert drift(pipeline, no_cat, "a dog", "a photo of a tiger", "pixel art of a fox") < 0.2
    tail = EncoderTail(pipeline, no_cat.first_layer)
    hidden = hidden_before(pipeline, tokenize(pipeline, ["", "a cat"])[0], no_cat.first_layer)
    changed = functional_call(tail, apply_factors(tail, [(no_cat, 1.0)]), (hidden,)) - tail(hidden)
    assert changed[0].norm() < 0.2 * changed[1].norm()


def test_a_vocabulary_of_which_hardly_anything_is_left_is_enough(pipeline: Pipeline) -> None:
    small = replace(pipeline, vocabulary=Vocabulary(nouns=("cat", "dog"), looks=("sepia",)))
    factors = finish(a_context(small))[0].factors
    assert ratio(pipeline, factors, Concept("cat")) < 0.4
    assert drift(pipeline, factors, "a dog", "a photo of a dog") < 0.15


def test_the_anchor_takes_the_concepts_place(pipeline: Pipeline) -> None:
    factors = finish(a_context(pipeline, anchor="dog"))[0].factors
    tail, metric = EncoderTail(pipeline, factors.first_layer), cross_attention_metric(pipeline.unet)
    hidden = hidden_before(pipeline, tokenize(pipeline, ["a cat", "a dog"])[0], factors.first_layer)
    (cat, dog), (became, _) = tail(hidden), functional_call(tail, apply_factors(tail, [(factors, 1.0)]), (hidden,))
    assert seen_distance(metric, became[None], dog[None]) < 0.4 * seen_distance(metric, cat[None], dog[None])


def test_a_style_leaves_the_thing_it_was_applied_to(pipeline: Pipeline) -> None:
    factors = finish(a_context(pipeline))[0].factors
    job = EraseJob(Concept("sepia", kind="style"), **QUICK)  # type: ignore[arg-type]
    factors = finish(EraseContext(pipeline, job, (), check_job(job, pipeline)))[0].factors
    tail, metric = EncoderTail(pipeline, factors.first_layer), cross_attention_metric(pipeline.unet)
    hidden = hidden_before(pipeline, tokenize(pipeline, ["a fox in sepia style", "a fox"])[0], factors.first_layer)
    (styled, plain), (became, _) = tail(hidden), functional_call(tail, apply_factors(tail, [(factors, 1.0)]), (hidden,))
    assert seen_distance(metric, became[None], plain[None]) < 0.4 * seen_distance(metric, styled[None], plain[None])


def test_retain_prompts_of_the_request_move_less(pipeline: Pipeline) -> None:
    prompt = "a lemon beside a cat"
    free, held = (finish(a_context(pipeline, retain_prompts=r))[0].factors for r in ((), (prompt,) * 32))
    assert drift(pipeline, held, prompt) < 0.7 * drift(pipeline, free, prompt)


def test_what_an_adapter_in_force_changed_is_taken_into_account(pipeline: Pipeline, no_cat: LoraFactors) -> None:
    context = a_context(pipeline)
    again = finish(replace(context, in_force=(InForce("sha256:0", no_cat, ("cat",)),)))[0].factors
    size = [sum(float((pair.b @ pair.a).norm()) for pair in f.pairs.values()) for f in (no_cat, again)]
    assert size[1] < 0.7 * size[0]


def test_the_report_is_of_what_is_served_with_the_adapters_in_force(pipeline: Pipeline, no_cat: LoraFactors) -> None:
    job = EraseJob(Concept("kitten"), **QUICK)  # type: ignore[arg-type]
    context = EraseContext(pipeline, job, (), check_job(job, pipeline))
    beside = replace(context, in_force=(InForce("sha256:0", no_cat, ("cat", "dog")),))
    factors = finish(beside)[0].factors
    alone, served = (reported(one, factors) for one in (context, beside))
    assert served.erase_ratio < 0.2 < 0.6 < alone.erase_ratio  # the adapter had little left to do


def test_what_need_not_stay_is_what_the_adapters_in_force_erase_too(pipeline: Pipeline, no_cat: LoraFactors) -> None:
    beside = replace(a_context(pipeline), in_force=(InForce("sha256:0", no_cat, ("dog",)),))
    assert names_of(beside) == names_of(a_context(pipeline)) | same_names(pipeline, ["dog"])


def test_a_word_is_learned_in_the_kinds_templates_through_all_that_is_in_force(
    pipeline: Pipeline, no_cat: LoraFactors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closed_form, "INVERSION_STEPS", 1)
    hidden, plain = hidden_before(pipeline, tokenize(pipeline, ["a cat"])[0], 0), EncoderTail(pipeline, 0)
    moved, learned_in = [], []

    def watched(*arguments: Any, **named: Any) -> Any:
        moved.append(float((arguments[2](hidden) - plain(hidden)).norm()))
        learned_in.append(named["templates"])
        return invert(*arguments, **named)

    monkeypatch.setattr(closed_form, "invert", watched)
    style = a_context(pipeline, pictures=1, options={"image_words": 1, "harden": 1})
    style = replace(style, job=replace(style.job, concept=Concept("sepia", kind="style")))
    for in_force in ((), (InForce("sha256:0", no_cat, ("cat",)),)):
        finish(replace(style, in_force=in_force))
    assert moved[0] == 0  # for image_words nothing is changed yet
    assert moved[2] > 3 * moved[1] > 0  # "a cat" is not what erasing sepia moves
    assert moved[3] > 3 * moved[1]
    assert learned_in == [templates_of("style")] * 4
    finish(replace(style, settings=replace(style.settings, strength=0.5)))
    assert 0.3 * moved[1] < moved[5] < 0.7 * moved[1]


@pytest.mark.parametrize(("by", "chosen"), [(0.2, LEAST_STRENGTH), (-0.2, 1.0)])
def test_what_has_moved_before_any_change_is_not_put_down_to_its_strength(
    pipeline: Pipeline, by: float, chosen: float
) -> None:
    """The tail's last MLP is half as large again, which the change makes worse, or mends in part."""
    held = held_rows(pipeline, frozenset({"cat"}), (), Recipe(layers=1), 3)
    path = f"encoder.layers.{pipeline.encoder_layers - 1}.mlp.fc2"
    tail = EncoderTail(pipeline, 3)
    weight = tail.get_parameter(f"{path}.weight")
    change = LoraPair(a=torch.eye(weight.shape[1]), b=by * weight.clone())
    factors = LoraFactors({f"text_model.{path}": change})
    weight.mul_(1.5)
    changed = EncoderTail(pipeline, 3)
    changed.get_parameter(f"{path}.weight").mul_(1.5 + by)
    moved = [replace(part, now=[*changed.states(part.now)][-1]) for part in held]
    looked_at = _LookedAt(tail, held, cross_attention_metric(pipeline.unet))
    at_zero, at_one = looked_at.drift(factors.scaled(0.0)), looked_at.drift_of(moved)
    assert (at_one > at_zero) == (by > 0)
    assert choose_strength(pipeline, tail, held, moved, factors, 1.3, 0.9 * min(at_zero, at_one)) == chosen
    for most in (1.0, 1.3):
        assert choose_strength(pipeline, tail, held, moved, factors, most, 1e3) == most
    if by > 0:
        halfway = choose_strength(pipeline, tail, held, moved, factors, 1.3, at_zero + 0.9 * (at_one - at_zero))
        assert halfway == pytest.approx(0.9, abs=1e-3)


def test_the_strength_is_chosen_where_none_is_given(pipeline: Pipeline) -> None:
    erasure, _ = finish(a_context(pipeline, strength=None))
    assert LEAST_STRENGTH < erasure.strength <= 1
    assert ratio(pipeline, erasure.factors, Concept("cat")) < 0.4


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("style", {}),
        ("person", {}),
        ("brand", {}),
        ("object", {"stand_in": False}),
        *(("object", {option: True}) for option in closed_form.RESISTING),
    ],
)
def test_where_nothing_takes_the_concepts_place_or_attacks_are_to_fail_it_is_erased_harder(
    pipeline: Pipeline, kind: ConceptKind, options: Mapping[str, bool]
) -> None:
    gentle = closed_form.recipe_of("object", a_context(pipeline).settings)
    harder = closed_form.recipe_of(kind, a_context(pipeline, options=options).settings)
    assert harder.retain_weight < gentle.retain_weight
    assert harder.most_strength > gentle.most_strength == 1


def test_an_erasure_goes_by_its_kind_and_options_beyond_strength_1(pipeline: Pipeline) -> None:
    style = a_context(pipeline, strength=None)
    style = replace(style, job=replace(style.job, concept=Concept("sepia", kind="style")))
    resisting = a_context(pipeline, strength=None, options={"random_prefixes": True})
    assert finish(style)[0].strength > finish(resisting)[0].strength > 1


def test_the_same_job_gives_the_same_factors_and_leaves_the_model_alone(
    pipeline: Pipeline, no_cat: LoraFactors
) -> None:
    before = {name: value.clone() for name, value in pipeline.text_encoder.state_dict().items()}
    again, progress = finish(a_context(pipeline, seed=5))
    for path, pair in no_cat.pairs.items():
        assert torch.equal(pair.a, again.factors.pairs[path].a)
        assert torch.equal(pair.b, again.factors.pairs[path].b)
    assert all(torch.equal(value, before[name]) for name, value in pipeline.text_encoder.state_dict().items())
    assert [(p.phase, p.step, p.total) for p in progress] == [("prepare", 1, 1), *(("train", i, 3) for i in (1, 2, 3))]


def test_rank_and_layers_are_those_asked_for(pipeline: Pipeline) -> None:
    factors = finish(a_context(pipeline, rank=3, options={"layers": 2}))[0].factors
    assert factors.layers == (pipeline.encoder_layers - 2, pipeline.encoder_layers - 1)
    assert {pair.rank for pair in factors.pairs.values()} == {3}


@pytest.mark.parametrize("option", ["image_words", "harden"])
def test_what_learns_from_images_is_refused_without_any(pipeline: Pipeline, option: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"images: got 0, allowed 1-16 with closed_form.{option} above 0"):
        a_context(pipeline, options={option: 1})


def test_words_learned_from_images_are_erased_too(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "INVERSION_STEPS", 2)
    plain, _ = finish(a_context(pipeline, pictures=2))
    for options, phase in (({"image_words": 1}, "prepare"), ({"harden": 1}, "harden")):
        other, progress = finish(a_context(pipeline, pictures=2, options=options))
        assert [p.step for p in progress if p.phase == phase and "inversion" in p.losses] == [1, 2]
        last = f"text_model.encoder.layers.{pipeline.encoder_layers - 1}.mlp.fc2"
        assert not torch.equal(plain.factors.pairs[last].a, other.factors.pairs[last].a)


def test_random_prefixes_let_less_of_the_concept_through_behind_other_words(pipeline: Pipeline) -> None:
    context = a_context(pipeline, options={"random_prefixes": True})
    recipe = closed_form.recipe_of("object", context.settings)
    plain, prefixed = (finish(context, replace(recipe, prefixes=n))[0].factors for n in (0, recipe.prefixes))
    behind = ("octopus pen peach cake", "background drawing panda spaceship panda", "lion nch rose lion", "house at at")
    metric = cross_attention_metric(pipeline.unet)
    noun = stand_in(pipeline, Concept("cat"), names_of(a_context(pipeline)))
    left = []
    for factors in (plain, prefixed):
        encoder = ChangedEncoder(a_context(pipeline), factors)
        before, after = encoder([f"{words} a photo of a cat" for words in behind])
        goal, _ = encoder([f"{words} a photo of a {noun}" for words in behind])
        left.append(float((seen_distance(metric, after, goal) / seen_distance(metric, before, goal)).mean()))
    assert left[1] < 0.9 * left[0]


def test_beyond_goes_on_away_from_the_concept_but_not_beside_other_things(
    pipeline: Pipeline, no_cat: LoraFactors
) -> None:
    def way(factors: LoraFactors, prompt: str, becomes: str) -> float:
        """Return how far the prompt's end went towards what it becomes, as a share of the way."""
        before, after = ChangedEncoder(a_context(pipeline), factors)([prompt, becomes])
        ends = [len(pipeline.tokenizer(text).input_ids) - 1 for text in (prompt, becomes)]
        start, goal, now = before[0, ends[0]], before[1, ends[1]], after[0, ends[0]]
        return float((now - start) @ (goal - start) / (goal - start).square().sum())

    beyond = finish(a_context(pipeline, options={"beyond": True}))[0].factors
    for prompt, becomes in (("a photo of a cat", "a photo"), ("an icon of a cat", "an icon")):
        assert way(beyond, prompt, becomes) > 1.0
        assert way(beyond, prompt, becomes) > way(no_cat, prompt, becomes) + 0.1
    assert way(beyond, "a cat and a rocket", "a rocket") < 1.0


def test_beyond_an_anchor_nothing_is_led(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidRequestError, match=r"anchor: got 'dog', allowed none with closed_form\.beyond"):
        a_context(pipeline, anchor="dog", options={"beyond": True})


def test_a_text_names_nothing_where_neither_the_vocabulary_nor_a_template_has_a_word_of_it() -> None:
    texts = ("a photo", "a photo of a dog", "sepia style", "two fishes on a table", "a tree", "")
    assert name_nothing(texts, WORDS) == {0, 2, 5}


def test_pairs_say_what_each_prompt_becomes() -> None:
    pairs = dict(erase_pairs(Concept("cat"), "", OTHERS, beside=2))
    assert pairs["a photo of a cat"] == "a photo"
    assert pairs["a cat on a table"] == "on a table"
    assert pairs["sepia of a cat"] == "sepia"
    assert "a dog" in {rest for prompt, rest in pairs.items() if " and " in prompt and "dog" in prompt}
    assert not any("cat" in rest for rest in pairs.values())


def test_pairs_with_an_anchor_differ_in_it_alone() -> None:
    pairs = erase_pairs(Concept("cat"), "owl", OTHERS, beside=2)
    assert all(prompt.replace("a cat", "an owl").replace("cat", "owl") == rest for prompt, rest in pairs)


def test_a_style_is_taken_off_things() -> None:
    pairs = dict(erase_pairs(Concept("sepia", kind="style"), "", WORDS, beside=3))
    assert pairs["art in sepia style"] == "art"
    assert set(pairs.values()) >= {"a dog", "a cat", "a fish"}
    assert all("sepia" not in rest for rest in pairs.values())
    assert dict(pairs_of(Concept("sepia", kind="style"), "", ("a {} version of {x}",))) == {
        "a sepia version of a dog": "a dog"
    }


def test_no_pair_leads_to_the_concept_or_another_name_of_it() -> None:
    words = Vocabulary(nouns=("dog", "kitten", "fish"), looks=("sepia",))
    one = AnchoredConcept(Concept("house"), "")
    (pairs,) = led_pairs([one], {"house", "kitten"}, words, beside=3)
    assert "a house and a house" not in dict(pairs)
    assert not any("kitten" in text or "house" in becomes for text, becomes in pairs)
    assert "a fish" in dict(pairs).values()


def test_an_anchor_that_names_the_concept_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidRequestError, match="anchor: got 'two Cats', allowed words without 'cats'"):
        a_context(pipeline, anchor="two Cats")


def test_an_anchor_that_is_another_word_for_the_concept_is_taken_at_its_word():
    words = replace(OTHERS, nouns=("cat", "kitten", "dog"))
    one = AnchoredConcept(Concept("cat"), "kitten")
    (pairs,) = led_pairs([one], {"cat", "kitten"}, words, beside=3)
    assert dict(pairs)["a photo of a cat"] == "a photo of a kitten"
    assert not any("a cat" in becomes for _, becomes in pairs)


def test_what_would_name_nothing_names_the_stand_in() -> None:
    one = AnchoredConcept(Concept("cat"))
    (without,) = led_pairs([one], {"cat"}, WORDS, beside=2)
    (pairs,) = led_pairs([one], {"cat"}, WORDS, beside=2, stand_ins=["owl"])
    nothing = name_nothing([becomes for _, becomes in without], WORDS)
    assert [prompt for prompt, _ in pairs] == [prompt for prompt, _ in without]
    assert [pair for i, pair in enumerate(pairs) if i not in nothing] == [
        pair for i, pair in enumerate(without) if i not in nothing
    ]
    said = dict(pairs)
    assert (said["cat"], said["a cat"], said["cats"]) == ("owl", "an owl", "owls")
    assert said["sepia of a cat"] == "sepia of an owl"
    assert not any("owl" in becomes for i, (_, becomes) in enumerate(pairs) if i not in nothing)


def test_an_anchor_leaves_nothing_to_stand_in_for() -> None:
    one = AnchoredConcept(Concept("cat"), "owl")
    pairs = led_pairs([one], {"cat"}, WORDS, beside=2)
    assert led_pairs([one], {"cat"}, WORDS, beside=2, stand_ins=["dog"]) == pairs


def test_a_stand_in_is_a_noun_unlike_an_object_and_nothing_that_is_named(pipeline: Pipeline) -> None:
    cat = Concept("cat")
    nouns = frozenset(noun.lower() for noun in pipeline.vocabulary.nouns)
    found = stand_in(pipeline, cat, {"cat", "kitten", "kitty"})
    assert found in nouns - {"cat", "kitten", "kitty", "tiger", "lion", "wolf"}
    assert stand_in(pipeline, cat, {"cat", found}) in nouns - {"cat", found}
    assert stand_in(pipeline, cat, nouns - {"dog", "fish", "rocket"}) == "fish"
    assert stand_in(pipeline, cat, nouns - {"dog", "fish"}) == stand_in(pipeline, cat, nouns) == ""
    assert stand_in(pipeline, Concept("sepia", kind="style"), {"sepia"}) == ""


def test_what_an_adapter_in_force_erases_does_not_stand_in(pipeline: Pipeline, no_cat: LoraFactors) -> None:
    (alone,) = finish(a_context(pipeline))[0].stand_ins
    assert alone in pipeline.vocabulary.nouns
    (beside,) = finish(replace(a_context(pipeline), in_force=(InForce("sha256:0", no_cat, (alone,)),)))[0].stand_ins
    assert beside in set(pipeline.vocabulary.nouns) - {alone}


def test_erasing_what_an_adapter_in_force_draws_in_a_concepts_place_leads_both_away(
    pipeline: Pipeline, no_cat: LoraFactors
) -> None:
    cake = stand_in_of(a_context(pipeline))
    in_force = InForce("sha256:0", no_cat, ("cat",), (AnchoredConcept(Concept("cat"), cake),))
    job = EraseJob(Concept(cake), **QUICK)  # type: ignore[arg-type]
    context = replace(EraseContext(pipeline, job, (), check_job(job, pipeline)), in_force=(in_force,))
    metric, prompts = cross_attention_metric(pipeline.unet), ["a photo of a cat", f"a photo of a {cake}"]
    nearer = {}
    for of, knows in (("knows", in_force), ("does not", replace(in_force, replaced=()))):
        factors = finish(replace(context, in_force=(knows,)))[0].factors
        (_, before), (cat, itself) = ChangedEncoder(context, factors)(prompts)
        whole = seen_distance(metric, before[None], itself[None])
        nearer[of] = float(seen_distance(metric, cat[None], before[None]) / whole)
    assert nearer["does not"] < 0.5
    assert nearer["knows"] > 0.8


def test_the_report_measures_against_what_the_method_led_to(pipeline: Pipeline, no_cat: LoraFactors) -> None:
    word = PseudoWord(placeholder(0), token_vectors(pipeline, tokenize(pipeline, ["a dog"])[0])[0, 2:3].float())
    plain = a_context(pipeline)
    unnamed = replace(plain, words=(word,), near_words=("dog", "wolf"))
    beside = replace(plain, in_force=(InForce("sha256:0", no_cat, ("fish",)),))
    for context in (plain, unnamed, beside):
        assert finish(context)[0].stand_ins == (stand_in_of(context),)


def test_an_anchor_of_white_space_is_refused_and_an_empty_one_is_none(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidRequestError, match="anchor: got only white space"):
        a_context(pipeline, anchor="  ")
    assert stand_in_of(a_context(pipeline, anchor="")) == stand_in_of(a_context(pipeline))


@pytest.mark.parametrize(
    "changes", [{"options": {"stand_in": False}}, {"options": {"beyond": True}}, {"anchor": "dog"}], ids=str
)
def test_nothing_stands_in_where_it_is_not_to(pipeline: Pipeline, changes: dict[str, Any]) -> None:
    assert finish(a_context(pipeline, **changes))[0].stand_ins == ("",)


def test_without_a_stand_in_an_object_is_left_out(pipeline: Pipeline) -> None:
    metric, prompts = cross_attention_metric(pipeline.unet), ["a photo of a cat", "a photo"]
    left = []
    for stands_in in (True, False):
        context = a_context(pipeline, options={"stand_in": stands_in})
        erasure, _ = finish(context)
        (cat, photo), (became, _) = ChangedEncoder(context, erasure.factors)(prompts)
        left.append(
            float(seen_distance(metric, became[None], photo[None]) / seen_distance(metric, cat[None], photo[None]))
        )
    assert left[1] < 0.5 < left[0]


def test_what_is_left_falls_with_the_strength_and_not_again_beyond_the_goal(
    pipeline: Pipeline, no_cat: LoraFactors
) -> None:
    left = [ratio(pipeline, no_cat.scaled(strength), Concept("cat")) for strength in (0.0, 0.3, 0.6, 1.0, 1.3)]
    assert left[0] == pytest.approx(1, abs=1e-3)
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.2


def test_another_object_in_its_place_is_none_of_it_left_but_one_that_looks_alike_is(pipeline: Pipeline) -> None:
    left = {}
    for anchor in ("rocket", "kitten"):
        factors = finish(a_context(pipeline, anchor=anchor, strength=1.0))[0].factors
        left[anchor] = ratio(pipeline, factors, Concept("cat"))
    assert left["rocket"] < 0.5
    assert left["kitten"] > left["rocket"] + 0.3
