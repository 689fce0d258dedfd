"""The reward method: gradients through truncated denoising, and a score that is pushed no further than its floor."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.core.erasing import a_context, finish
from unsee_core.errors import InvalidRequestError
from unsee_core.job import Concept, SchedulerName
from unsee_core.methods.base import EraseContext
from unsee_core.methods.reward import RECIPES, _Drawing, train
from unsee_core.pipeline import Pipeline
from unsee_core.pseudo_words import PseudoWord, placeholder

STEPS = 3


def context(pipeline: Pipeline, **changes: object) -> EraseContext:
    options = {"layers": 2, "drawing_steps": STEPS}
    return a_context(pipeline, method="reward", **{"steps": 2, "options": options, **changes})


def some_embeddings(pipeline: Pipeline) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (77, pipeline.encoder_width)
    return torch.randn(1, *shape, generator=generator), torch.randn(2, *shape, generator=generator).requires_grad_()


def plainly_drawn(pipeline: Pipeline, seed: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return the latents and their gradient to the embeddings, without checkpoints, by the formula."""
    empty, embeddings = some_embeddings(pipeline)
    generator = torch.Generator().manual_seed(seed)
    kept = int(torch.randint(1, STEPS + 1, (), generator=generator))
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    scheduler = pipeline.make_scheduler(SchedulerName.DDIM)
    scheduler.set_timesteps(STEPS)
    for i, timestep in enumerate(scheduler.timesteps):
        read = embeddings if i >= STEPS - kept else embeddings.detach()
        uncond = pipeline.unet(latents, timestep, empty.expand(2, -1, -1)).sample
        guided = uncond + pipeline.default_guidance_scale * (pipeline.unet(latents, timestep, read).sample - uncond)
        latents = scheduler.step(guided, timestep, latents).prev_sample
    return latents.detach(), torch.autograd.grad(latents.square().sum(), embeddings)[0], kept


def test_latents_and_gradients_are_those_of_plain_denoising_through_the_last_steps(tiny_pipeline):
    lengths = set()
    for seed in range(6):
        expected, gradient, kept = plainly_drawn(tiny_pipeline, seed)
        empty, embeddings = some_embeddings(tiny_pipeline)
        drawing = _Drawing(tiny_pipeline, empty, STEPS, torch.Generator().manual_seed(seed))
        latents = drawing(embeddings)
        torch.testing.assert_close(latents.detach(), expected, rtol=1e-4, atol=1e-4)
        (found,) = torch.autograd.grad(latents.square().sum(), embeddings)
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))
        lengths.add(kept)
    assert lengths == {1, 2, 3}


def test_nothing_moves_where_every_score_is_below_the_floor(tiny_pipeline):
    factors, progress = finish(train(context(tiny_pipeline), replace(RECIPES["object"], floor=1e3)))
    assert [event.losses["forget"] for event in progress if event.phase == "train"] == [0.0, 0.0]
    assert all(pair.b.abs().max() == 0 for pair in factors.pairs.values())


def test_the_score_of_what_is_drawn_falls(tiny_pipeline):
    recipe = replace(RECIPES["object"], floor=-10.0, retain_weight=0.0, rows=8)
    _, progress = finish(train(context(tiny_pipeline, steps=12), recipe))
    losses = [event.losses["forget"] for event in progress if event.phase == "train"]
    assert sum(losses[-4:]) < sum(losses[:4])


def test_the_operators_detector_is_the_one_that_looks(tiny_pipeline, tmp_path, monkeypatch):
    looked: list[object] = []

    class Detector:
        def __init__(self, pipeline, folder, concept, anchor):
            looked.append((folder, concept[0], set(anchor)))

        def __call__(self, latents):
            return latents.mean(dim=(1, 2, 3)) + 5

    monkeypatch.setattr("unsee_core.methods.reward.ClipDetector", Detector)
    _, progress = finish(train(replace(context(tiny_pipeline), detector=tmp_path), RECIPES["object"]))
    assert looked == [(tmp_path, "cat", {""})]
    assert progress[-1].losses["forget"] == pytest.approx(5, abs=2)


def test_a_detector_that_reads_names_is_refused_a_concept_without_one(tiny_pipeline: Pipeline) -> None:
    unnamed = context(tiny_pipeline)
    word = PseudoWord(placeholder(0), torch.zeros(1, tiny_pipeline.encoder_width))
    job = replace(unnamed.job, concept=Concept(word.placeholder))
    with pytest.raises(InvalidRequestError, match=r"concept.name: got none, .* the CLIP detector needs a name"):
        finish(train(replace(unnamed, job=job, words=(word,), detector=Path("clip")), RECIPES["object"]))
