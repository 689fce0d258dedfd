"""Pseudo-words in prompts, and how pictures become one."""

import hashlib
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.func import functional_call

from tests.core.factors import random_factors
from unsee_core.encoder import EncoderTail, apply_factors, hidden_before, token_vectors, tokenize, with_positions
from unsee_core.errors import InvalidRequestError
from unsee_core.image_loss import encode_latents
from unsee_core.inversion import Budget, Encode, Inversion, InversionProgress, invert
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import PseudoWord, hidden_before_words, placeholder, prompt_vectors

CATS = sorted((Path(__file__).parents[2] / "bench" / "images" / "cat").glob("*.png"))
SMALL = Budget(tokens=2, steps=30, batch=2, restarts=1)
WORD = placeholder(0)


def cats(pipeline: Pipeline) -> Tensor:
    return encode_latents(pipeline, [Image.open(path).convert("RGB") for path in CATS])


def inverting(
    pipeline: Pipeline, budget: Budget = SMALL, *, seed: int = 0, encode: Encode | None = None
) -> Generator[InversionProgress, None, Inversion]:
    generator = torch.Generator().manual_seed(seed)
    return invert(pipeline, cats(pipeline), encode or EncoderTail(pipeline, 0), budget, generator=generator)


def finish(steps: Generator[InversionProgress, None, Inversion]) -> tuple[Inversion, list[InversionProgress]]:
    progress = []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as end:
            return end.value, progress


def real_word(pipeline: Pipeline, text: str) -> PseudoWord:
    ids = pipeline.tokenizer(text, add_special_tokens=False).input_ids
    return PseudoWord(WORD, token_vectors(pipeline, torch.tensor(ids)))


@pytest.mark.parametrize("layer", [0, 2])
def test_a_pseudo_word_with_a_words_own_vectors_is_that_word(pipeline, layer):
    word = real_word(pipeline, "sports car")
    read = hidden_before_words(pipeline, [f"a {WORD} on a table", WORD, f"{WORD}, {WORD}"], [word], layer)
    ids, _ = tokenize(pipeline, ["a sports car on a table", "sports car", "sports car, sports car"])
    torch.testing.assert_close(read, hidden_before(pipeline, ids, layer), rtol=0, atol=1e-5)


@pytest.mark.parametrize("prompt", ["", "Large, 3 cats; " * 30, "a photo of a cat"])
def test_prompts_without_a_pseudo_word_are_read_as_ever(pipeline, prompt):
    for words in ([], [real_word(pipeline, "dog")]):
        expected = token_vectors(pipeline, tokenize(pipeline, [prompt])[0])
        torch.testing.assert_close(prompt_vectors(pipeline, [prompt], words), expected, rtol=0, atol=0)


def test_a_pseudo_word_that_does_not_fit_is_cut_and_the_prompt_still_ends(tiny_pipeline):
    word = PseudoWord(WORD, torch.ones(6, tiny_pipeline.encoder_width))
    vectors = prompt_vectors(tiny_pipeline, ["a " * 73 + WORD], [word])
    assert vectors.shape == (1, 77, tiny_pipeline.encoder_width)
    assert (vectors[0] == 1).all(-1).sum() == 2
    end = token_vectors(tiny_pipeline, torch.tensor(tiny_pipeline.tokenizer.eos_token_id))
    torch.testing.assert_close(vectors[0, -1], end)


def test_the_loss_on_fixed_noise_falls_and_never_rises_as_told(tiny_pipeline):
    found, progress = finish(inverting(tiny_pipeline, replace(SMALL, steps=60, learning_rate=2.0)))
    losses = [event.loss for event in progress]
    assert losses == sorted(losses, reverse=True)
    assert found.loss == losses[-1] < losses[0]
    assert found.word.vectors.shape == (2, tiny_pipeline.encoder_width)
    assert [event.step for event in progress] == list(range(1, found.steps + 1))


def test_the_best_restart_counts_and_each_starts_elsewhere(tiny_pipeline):
    """Among several seeds there is one whose best restart is not the last."""
    places = set()
    for seed in range(6):
        found, progress = finish(inverting(tiny_pipeline, replace(SMALL, restarts=3), seed=seed))
        assert [event.restart for event in progress] == [1] * 30 + [2] * 30 + [3] * 30
        lowest = [progress[end].loss for end in (29, 59, 89)]
        assert found.steps == 90
        assert len(set(lowest)) == 3
        assert found.loss == min(lowest)
        places.add(lowest.index(found.loss))
    assert places - {2}


def test_a_restart_that_gains_nothing_ends_early(tiny_pipeline):
    """Through an encoder that tells nothing of the word there is nothing to gain."""
    budget = replace(SMALL, steps=100, patience=20)
    found, progress = finish(inverting(tiny_pipeline, budget, encode=lambda hidden: 0 * hidden))
    assert found.steps == len(progress) == 20


def test_the_same_seed_finds_the_same_vectors_bit_for_bit_and_another_seed_others(tiny_pipeline):
    first, again, other = (finish(inverting(tiny_pipeline, seed=seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first.word.vectors, again.word.vectors)
    assert not torch.equal(first.word.vectors, other.word.vectors)


def test_it_is_the_given_encoder_that_is_read(tiny_pipeline):
    tail = EncoderTail(tiny_pipeline, 0)
    changed = apply_factors(tail, [(random_factors(tiny_pipeline, 1, 2), 1.0)])
    plain, _ = finish(inverting(tiny_pipeline))
    attacked, _ = finish(inverting(tiny_pipeline, encode=lambda hidden: functional_call(tail, changed, (hidden,))))
    assert not torch.equal(plain.word.vectors, attacked.word.vectors)


def test_closing_stops_at_once(tiny_pipeline):
    steps = inverting(tiny_pipeline)
    next(steps)
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)


def test_the_model_and_the_global_generator_stay_as_they_were(tiny_pipeline):
    modules = (tiny_pipeline.text_encoder, tiny_pipeline.unet, tiny_pipeline.vae)

    def digest() -> str:
        values = (value for module in modules for value in module.state_dict().values())
        return hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()

    encode = EncoderTail(tiny_pipeline, 0)
    before, state = digest(), torch.get_rng_state()
    finish(inverting(tiny_pipeline, replace(SMALL, steps=3), encode=encode))
    assert digest() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(value.grad is None and not value.requires_grad for value in tiny_pipeline.text_encoder.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"tokens": 0}, "tokens: got 0, allowed 1-16"), ({"learning_rate": float("nan")}, "learning_rate: got nan")],
)
def test_a_budget_that_cannot_be_spent_is_refused(changes, message):
    with pytest.raises(InvalidRequestError, match=message):
        replace(SMALL, **changes)


def test_gradients_reach_the_vectors_through_positions_and_encoder(tiny_pipeline):
    vectors = torch.zeros(1, tiny_pipeline.encoder_width, requires_grad=True)
    hidden = with_positions(tiny_pipeline, prompt_vectors(tiny_pipeline, [WORD], [PseudoWord(WORD, vectors)]))
    EncoderTail(tiny_pipeline, 0)(hidden)[0, -1, 0].backward()
    assert vectors.grad.abs().max() > 0
