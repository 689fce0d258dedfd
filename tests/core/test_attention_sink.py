"""A name that draws all attention: what stood before it no longer counts, and prompts without it stay."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.core.test_closed_form import a_context, finish, ratio
from unsee_core.attention_sink import attention_sink
from unsee_core.changed_encoder import ChangedEncoder
from unsee_core.encoder import EncoderTail
from unsee_core.errors import InvalidRequestError
from unsee_core.job import Concept, EraseJob
from unsee_core.joint_solve import led_states
from unsee_core.lora import LoraFactors, LoraPair
from unsee_core.methods import EraseContext, check_job, closed_form
from unsee_core.methods.base import InForce
from unsee_core.metric import cross_attention_metric, seen_distance
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import (
    PseudoWord,
    end_positions,
    is_no_padding,
    placeholder,
    prompt_vectors,
    without_padding,
)

PREFIXES = ("lion rose lion", "pen octopus cake", "at house house")  # three tokens each


def sink_of(pipeline: Pipeline, concept: Concept, words: tuple[PseudoWord, ...] = ()) -> tuple[LoraFactors, int]:
    """Return the factors, and how many steps were told."""
    named = frozenset(word.lower() for word in concept.words)
    steps, told = attention_sink(pipeline, EncoderTail(pipeline, 0), concept, words, named, ("a red house",)), 0
    while True:
        try:
            next(steps)
            told += 1
        except StopIteration as end:
            factors: LoraFactors = end.value
            return factors, told


@pytest.fixture(scope="module")
def sink(pipeline: Pipeline) -> LoraFactors:
    return sink_of(pipeline, Concept("cat", ("kitten",)))[0]


def spread(pipeline: Pipeline, factors: LoraFactors, word: str) -> tuple[float, float]:
    """Return how far prompts lie apart that differ before a word alone, from the word on: before and after."""
    both = ChangedEncoder(a_context(pipeline), factors)([f"{prefix} a photo of a {word}" for prefix in PREFIXES])
    return tuple(_apart(pipeline, side[:, 8:]) for side in both)  # type: ignore[return-value]


def strict(pipeline: Pipeline, **options: int) -> LoraFactors:
    return finish(a_context(pipeline, options={"strict": True, **options}))[0].factors


def an_erasure(pipeline: Pipeline, name: str, *synonyms: str) -> EraseContext:
    job = EraseJob(Concept(name, synonyms), method="closed_form", strength=1.0, options={"strict": True})
    return EraseContext(pipeline, job, (), check_job(job, pipeline))


def _apart(pipeline: Pipeline, embeddings: Tensor) -> float:
    metric = cross_attention_metric(pipeline.unet)
    return float(seen_distance(metric, embeddings, embeddings.roll(1, 0)).mean())


@pytest.mark.parametrize("word", ["cat", "kitten"])
def test_behind_the_name_nothing_is_left_of_what_stood_before_it(
    pipeline: Pipeline, sink: LoraFactors, word: str
) -> None:
    before, after = spread(pipeline, sink, word)
    assert after < 0.4 * before


def test_behind_other_names_most_is(pipeline: Pipeline, sink: LoraFactors) -> None:
    before, after = zip(*(spread(pipeline, sink, word) for word in ("fox", "dog", "house", "rose")), strict=True)
    assert sum(after) > 0.8 * sum(before)


def test_keys_of_every_layer_change_by_rank_one(pipeline: Pipeline, sink: LoraFactors) -> None:
    layers = range(pipeline.encoder_layers)
    assert [*sink.pairs] == [f"text_model.encoder.layers.{layer}.self_attn.k_proj" for layer in layers]
    assert sink.rank == 1


def test_of_a_name_of_two_tokens_the_first_layer_takes_the_one_that_no_other_thing_has(pipeline: Pipeline) -> None:
    factors, told = sink_of(pipeline, Concept("hot dog"))
    assert (len(factors.layers), told) == (pipeline.encoder_layers, pipeline.encoder_layers)
    for word, most, least in (("hot dog", 0.4, 0.0), ("dog", 1.2, 0.8)):
        before, after = spread(pipeline, factors, word)
        assert least * before <= after < most * before


def test_a_name_whose_tokens_all_name_other_things_is_left_alone_by_the_first_layer(pipeline: Pipeline) -> None:
    factors, _ = sink_of(pipeline, Concept("bear frog"))
    assert factors.layers == tuple(range(1, pipeline.encoder_layers))


def test_a_word_learned_from_pictures_is_one_too(pipeline: Pipeline) -> None:
    fox = pipeline.tokenizer("fox", add_special_tokens=False).input_ids
    vectors = prompt_vectors(pipeline, ["fox"], ())[0, 1 : 1 + len(fox)]
    word = PseudoWord(placeholder(0), vectors)
    factors, _ = sink_of(pipeline, Concept(placeholder(0)), (word,))
    before, after = spread(pipeline, factors, "fox")
    assert after < 0.4 * before


def test_a_prompt_ends_where_its_end_token_stands(pipeline: Pipeline) -> None:
    assert end_positions(pipeline, prompt_vectors(pipeline, ["", "a cat"], ())).tolist() == [1, 3]


def test_a_long_prompt_that_is_held_gives_the_others_padding_no_weight(pipeline: Pipeline) -> None:
    vectors = prompt_vectors(pipeline, ["a cat", "cat " * 40], ())
    assert is_no_padding(pipeline, vectors).sum(1).tolist() == [20, 43]
    assert without_padding(pipeline, vectors).shape[1] == 43


def test_strict_leaves_hardly_anything_of_what_stood_before_the_name(pipeline: Pipeline) -> None:
    unedited, left = spread(pipeline, strict(pipeline), "cat")
    assert left < 0.2 * unedited
    plain = finish(a_context(pipeline))[0].factors
    assert spread(pipeline, plain, "cat")[1] > 0.8 * unedited


def test_strict_changes_all_keys_and_the_last_mlp_unless_told_how_many(pipeline: Pipeline) -> None:
    for options, layers in (({}, 1), ({"layers": 2}, 2)):
        pairs = strict(pipeline, **options).pairs
        mlps = [path for path in pairs if path.endswith("mlp.fc2")]
        assert (len(mlps), len(pairs)) == (layers, layers + pipeline.encoder_layers)


def test_strict_leads_the_name_away_wherever_it_stands(pipeline: Pipeline) -> None:
    """Others stay: they move less than a third of the way that the concept does."""
    factors = strict(pipeline)
    assert ratio(pipeline, factors, Concept("cat")) < 0.4
    before, after = ChangedEncoder(a_context(pipeline), factors)(["a photo of a cat", "a photo of a fox"])
    moved = seen_distance(cross_attention_metric(pipeline.unet), before, after)
    assert moved[1] < moved[0] / 3


@pytest.mark.parametrize(
    ("concept", "changes"),
    [
        (Concept("cat"), {"anchor": "dog"}),
        (Concept("cat"), {"options": {"strict": True, "stand_in": False}}),
        (Concept("Ada Lovelace", kind="person"), {}),
        (Concept("acme", kind="brand"), {}),
        (Concept("cat", ("kitten", "kitty", "tomcat")), {}),
    ],
    ids=str,
)
def test_whatever_is_erased_forgets_what_stood_before_it(
    pipeline: Pipeline, concept: Concept, changes: dict[str, object]
) -> None:
    """As many tokens stand before each word, so that the positions from the word on can be compared."""
    given: dict[str, object] = {"method": "closed_form", "strength": 1.0, "options": {"strict": True}} | changes
    job = EraseJob(concept, **given)  # type: ignore[arg-type]
    context = EraseContext(pipeline, job, (), check_job(job, pipeline))
    factors = finish(context)[0].factors
    for word in concept.words:
        before, after = spread(pipeline, factors, word)
        assert after < 0.35 * before


def test_every_word_is_led_behind_the_prefixes(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    behind: list[str] = []

    def recorded(pipeline: Pipeline, pairs: Any, words: Any, layer: int, recipe: Any, prefixes: Any) -> Any:
        if prefixes:
            assert len(prefixes) >= len(pairs)
            behind.extend(prompt for prompt, _ in pairs)
        return led_states(pipeline, pairs, words, layer, recipe, prefixes)

    monkeypatch.setattr(closed_form, "led_states", recorded)
    words = ("cat", "kitten", "kitty", "tomcat")
    finish(an_erasure(pipeline, *words))
    counts = [sum(f"a photo of a {word}" == prompt for prompt in behind) for word in words]
    assert counts == [1, 1, 1, 1]


@pytest.mark.parametrize("option", ["image_words", "harden"])
def test_what_the_images_add_is_led_behind_prefixes_too(pipeline: Pipeline, option: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_form, "INVERSION_STEPS", 2)
        context = a_context(pipeline, pictures=2, options={"strict": True, option: 1})
        factors = finish(context)[0].factors
    before, after = spread(pipeline, factors, "cat")
    assert after < 0.35 * before


def test_beside_an_adapter_in_force_the_keys_change_once_more(pipeline: Pipeline) -> None:
    no_fox = finish(an_erasure(pipeline, "fox"))[0].factors
    context = replace(an_erasure(pipeline, "cat"), in_force=(InForce("sha256:0", no_fox, ("fox",)),))
    no_cat = finish(context)[0].factors
    both = {key: (no_fox.pairs[key], no_cat.pairs[key]) for key in no_cat.pairs}
    pairs = {key: LoraPair(torch.cat([f.a, c.a]), torch.cat([f.b, c.b], 1)) for key, (f, c) in both.items()}
    for word in ("fox", "cat"):
        before, after = spread(pipeline, LoraFactors(pairs), word)
        assert after < 0.35 * before


def test_a_token_that_other_names_have_is_no_sink_of_the_first_layer_though_no_prompt_says_it(
    pipeline: Pipeline,
) -> None:
    known = replace(pipeline.vocabulary, further=("hot chocolate", "dog rose"))
    factors, _ = sink_of(replace(pipeline, vocabulary=known), Concept("hot dog"))
    assert factors.layers == tuple(range(1, pipeline.encoder_layers))


def test_beyond_and_strict_are_two_ways(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidRequestError, match=r"strict: got true, allowed false with closed_form\.beyond"):
        a_context(pipeline, options={"strict": True, "beyond": True})


def test_a_style_is_refused(pipeline: Pipeline) -> None:
    job = EraseJob(Concept("sepia", kind="style"), method="closed_form", options={"strict": True})
    with pytest.raises(InvalidRequestError, match=r"closed_form\.strict: got true, allowed false for a style"):
        check_job(job, pipeline)
