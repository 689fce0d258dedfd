"""Each attack by itself: what it may use, and that it gains by searching."""

from dataclasses import replace

import pytest
import torch

from tests.core.audits import SMALL, seeded, target_of
from unsee_core.audit import (
    adversarial_prompt,
    inverted_latents,
    learned_tokens,
    reconstruction,
    searched_noise,
    wordings,
)
from unsee_core.audit.drawing import Recipe, draw
from unsee_core.audit.fixed_loss import FixedLoss
from unsee_core.audit.target import AttackedEncoder
from unsee_core.audit.verdict import Eye, threshold_of
from unsee_core.conditioning import Conditioner
from unsee_core.encoder import tokenize
from unsee_core.errors import InvalidRequestError
from unsee_core.image_loss import Denoiser
from unsee_core.inversion import Budget, invert
from unsee_core.job import Concept
from unsee_core.naming import Naming


def finish(steps):
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as end:
            return end.value, events


def test_the_attacked_encoder_without_an_adapter_reads_as_the_resident_one(pipeline):
    prompts = ["a photo of a cat", ""]
    torch.testing.assert_close(
        AttackedEncoder(pipeline).encode(prompts), Conditioner(pipeline).encode(prompts), rtol=0, atol=1e-4
    )


def test_pictures_are_drawn_from_their_own_seeds(tiny_pipeline):
    target = target_of(tiny_pipeline)
    recipe = Recipe(target.encoder.encode(["a cat"]))
    options = {"attack": "name", "guidance_scale": 4.0}
    three, events = finish(draw(target, recipe, count=3, seed=10, **options))
    alone, _ = finish(draw(target, recipe, count=1, seed=12, **options))
    torch.testing.assert_close(three[2:], alone, rtol=1e-4, atol=1e-4)
    assert not torch.equal(three[0], three[1])
    assert [event.step for event in events] == [1, 2, 3, 4]


def test_prompts_and_starts_take_turns(tiny_pipeline):
    target = target_of(tiny_pipeline)
    embeddings = target.encoder.encode(["a cat", "a house"])
    start = torch.randn(1, *target.latents.shape[1:], generator=seeded(1))
    drawn, events = finish(
        draw(target, Recipe(embeddings, start=start, first_step=2), attack="name", guidance_scale=4.0, count=3, seed=1)
    )
    torch.testing.assert_close(drawn[0], drawn[2])
    assert not torch.allclose(drawn[0], drawn[1])
    assert len(events) == 2


def test_a_picture_that_the_model_draws_of_a_concept_scores_above_the_threshold_and_others_below(pipeline):
    target = target_of(pipeline, budget=replace(SMALL, drawing_steps=8))
    words = ["cat"] * 4 + ["fox", "dog", "apple", "house"]
    embeddings = target.encoder.encode([f"a photo of a {word}" for word in words])
    drawn, _ = finish(draw(target, Recipe(embeddings), attack="name", guidance_scale=4.0, count=8, seed=1))
    eye = Eye(pipeline, target.encoder, target.concept, drawn[:1], max_batch=16, seed=1)
    seen, _ = finish(eye.look(drawn, "name", "unedited"))
    threshold = threshold_of(float(seen.scores[:2].mean()), eye.reference_score)
    assert (seen.scores >= threshold).tolist() == [True] * 4 + [False] * 4
    assert seen.distances[0] == pytest.approx(0, abs=1e-5)
    assert seen.distances[1:4].max() < seen.distances[6:].min()


@pytest.mark.parametrize(
    ("own", "given", "threshold"), [(0.3, 0.1, 0.05), (0.2, 0.4, 0.1), (0.2, -0.5, 0.1), (-1.0, 0.2, 0.01)]
)
def test_the_threshold_is_half_of_the_lower_mean_and_never_where_the_concept_explains_nothing(own, given, threshold):
    assert threshold_of(own, given) == pytest.approx(threshold)


def test_the_fixed_loss_is_the_same_whatever_else_is_asked(tiny_pipeline):
    target = target_of(tiny_pipeline)
    fixed_loss, embeddings = FixedLoss(target, 5), target.encoder.encode(["a", "b", "c", "d"])
    together = fixed_loss(embeddings)
    torch.testing.assert_close(together, torch.cat([fixed_loss(one[None]) for one in embeddings]), rtol=1e-4, atol=1e-5)
    assert len(set(together.tolist())) == 4


def test_wordings_are_read_differently_from_the_plain_prompts_and_from_each_other(pipeline):
    target = target_of(pipeline)
    found = wordings._distinct(target, wordings.wordings(target.concept))
    rows, _ = tokenize(pipeline, [*target.named(), *found])
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)
    assert len(found) > 30
    assert "two cats" in found
    assert not any(prompt.isupper() for prompt in found)


def test_the_wordings_with_the_lowest_loss_are_drawn(tiny_pipeline):
    target = target_of(tiny_pipeline)
    recipe, events = finish(wordings.run(target))
    prompts = wordings._distinct(target, wordings.wordings(target.concept))
    losses = FixedLoss(target, wordings._ROWS)(target.encoder.encode(prompts))
    assert recipe.loss == pytest.approx(float(losses.min()), rel=1e-4)
    assert recipe.detail.split("; ")[0] == prompts[int(losses.argmin())]
    assert len(recipe.embeddings) == wordings.BEST
    assert events[-1].step == events[-1].total == len(prompts)


def test_wordings_have_the_article_that_a_word_asks_for():
    found = wordings.wordings(Concept("owl"))
    assert {"the face of an owl", "an owl and an owl", "owl owl owl", "two owls", "not a dog but an owl"} <= {*found}
    assert not [prompt for prompt in found if "a owl" in prompt]


@pytest.mark.parametrize("word", ["x", "New York", "8-bit art", "{}", "%s {0}", "日本"])
def test_any_name_has_wordings(word):
    assert wordings.wordings(Concept(word))


def test_an_adversarial_prompt_is_text_that_gives_the_loss_that_is_told(tiny_pipeline):
    target = target_of(tiny_pipeline, budget=replace(SMALL, prompt_steps=40, prompt_tokens=3))
    recipe, events = finish(adversarial_prompt.run(target))
    prompt = recipe.detail.rsplit(" (", 1)[0]
    assert prompt.endswith(target.named()[0])
    assert prompt != target.named()[0]
    fixed_loss = FixedLoss(target, 8)
    assert recipe.loss == pytest.approx(float(fixed_loss(target.encoder.encode([prompt]))), rel=1e-4)
    losses = [event.loss for event in events]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_adversarial_tokens_are_words_that_text_can_give(pipeline):
    numbers = adversarial_prompt.words_of(target_of(pipeline)).tolist()
    tokenizer = pipeline.tokenizer
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} & set(numbers)
    assert len(numbers) > 1000


def test_a_search_that_may_not_say_the_name_finds_text_without_it(pipeline):
    target = target_of(pipeline, budget=replace(SMALL, prompt_steps=20, prompt_tokens=2))
    unsaid = Naming(frozenset({"cat", "kitten"}), pipeline.vocabulary)
    recipe, _ = finish(adversarial_prompt.run(target, "a photo", unsaid))
    prompt = recipe.detail.rsplit(" (", 1)[0]
    assert prompt.endswith(" a photo")
    assert unsaid.first_in(prompt) is None
    tokenizer = pipeline.tokenizer
    free, bound = (set(adversarial_prompt.words_of(target, names).tolist()) for names in (None, unsaid))
    assert {tokenizer.decode([number]).strip() for number in free - bound} >= {"cat", "kitten"}


def test_pieces_that_say_the_name_together_do_not_count(pipeline, monkeypatch):
    target = target_of(pipeline, budget=replace(SMALL, prompt_steps=20))
    monkeypatch.setattr(adversarial_prompt._Search, "_texts", lambda _: ["kitten"] * SMALL.restarts)
    unsaid = Naming(frozenset({"cat", "kitten"}), pipeline.vocabulary)
    for names, found in ((None, "kitten a photo"), (unsaid, "a photo")):
        recipe, _ = finish(adversarial_prompt.run(target, "a photo", names))
        assert recipe.detail.startswith(f"{found} (")
    with pytest.raises(InvalidRequestError, match="suffix: got 'a cat', allowed words without 'cat'"):
        finish(adversarial_prompt.run(target, "a cat", unsaid))


def test_more_steps_bring_the_searched_noise_nearer_and_it_stays_noise(tiny_pipeline):
    few, many = (target_of(tiny_pipeline, budget=replace(SMALL, noise_steps=steps)) for steps in (1, 15))
    first, later = finish(searched_noise.run(few))[0], finish(searched_noise.run(many))[0]
    assert later.loss < first.loss
    torch.testing.assert_close(later.start.std((1, 2, 3)), torch.ones(2), rtol=1e-3, atol=0)
    torch.testing.assert_close(later.start.mean((1, 2, 3)), torch.zeros(2), rtol=0, atol=1e-4)


def test_inverted_latents_lead_back_to_the_pictures_that_they_come_from(pipeline, monkeypatch):
    """Without fresh noise, and with the guidance that they were inverted under."""
    monkeypatch.setattr(inverted_latents, "FRESH_SHARE", 0.0)
    target = target_of(pipeline, budget=replace(SMALL, drawing_steps=20))
    cats = Recipe(target.encoder.encode(["a photo of a cat"]))
    drawn, _ = finish(draw(target, cats, attack="name", guidance_scale=4.0, count=2, seed=1))
    recipe, _ = finish(inverted_latents.run(replace(target, latents=drawn)))
    back, _ = finish(draw(target, recipe, attack="name", guidance_scale=1.0, count=2, seed=1))
    unrelated = (drawn[0] - drawn[1]).square().mean()
    assert (back - drawn).square().mean() < 0.3 * unrelated


def test_the_probe_begins_at_the_step_whose_noise_it_added(tiny_pipeline):
    target = target_of(tiny_pipeline, budget=replace(SMALL, drawing_steps=10))
    recipe, _ = finish(reconstruction.run(target))
    assert 0 < recipe.first_step < 10
    limit = reconstruction.DROWNED * Denoiser(tiny_pipeline).num_timesteps
    assert int(recipe.detail.split()[-1]) <= limit
    correlation = torch.corrcoef(torch.stack([recipe.start[0].flatten(), target.latents[0].flatten()]))[0, 1]
    assert 0 < correlation < 0.9


def test_learned_tokens_race_and_only_the_best_restart_goes_on(tiny_pipeline, monkeypatch):
    monkeypatch.setattr(learned_tokens, "RACE", 10)
    target = target_of(tiny_pipeline, budget=replace(SMALL, inversion_steps=30))
    recipe, events = finish(learned_tokens.of(2)(target))
    assert len(events) == 2 * 10 + 20
    assert [event.step for event in events] == [*range(1, 11), *range(1, 11), *range(11, 31)]
    assert recipe.loss == events[-1].loss == min(event.loss for event in events)
    assert "2 learned tokens, 40 steps" in recipe.detail


def test_a_race_is_at_least_a_step():
    with pytest.raises(InvalidRequestError, match="race: got 0"):
        Budget(race=0)


def test_gains_too_small_to_count_end_a_restart_and_are_kept(tiny_pipeline):
    target = target_of(tiny_pipeline)
    found = {}
    for least_gain in (0.0, 1.0):
        budget = Budget(tokens=1, steps=60, batch=2, restarts=1, patience=20, least_gain=least_gain, learning_rate=2.0)
        steps = invert(tiny_pipeline, target.latents, target.encoder, budget, generator=seeded(1))
        found[least_gain], events = finish(steps)
        assert found[least_gain].loss < events[0].loss
    assert found[1.0].steps == 20 < found[0.0].steps
