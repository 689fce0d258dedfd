"""Ablation against its formula."""

from dataclasses import replace

import torch

from tests.core.erasing import a_context, finish
from unsee_core.image_loss import Denoiser
from unsee_core.job import Concept
from unsee_core.methods.ablation import RECIPES, train
from unsee_core.methods.base import EraseContext
from unsee_core.methods.training import towards
from unsee_core.pipeline import Pipeline

SMALL = {"layers": 2, "pictures": 2, "drawing_steps": 2}


def context(pipeline: Pipeline, **changes: object) -> EraseContext:
    return a_context(pipeline, method="ablation", options=SMALL, **changes)


def test_a_concept_that_is_its_own_anchor_has_nothing_to_go_to(tiny_pipeline):
    itself = context(tiny_pipeline, concept=Concept("cat"), steps=1)
    itself = replace(itself, job=replace(itself.job, anchor="cat"))  # a request of this kind is refused earlier
    _, progress = finish(train(itself, RECIPES["object"]))
    assert progress[-1].losses["forget"] < 1e-10  # float32: rows are encoded in batches of other sizes
    other = context(tiny_pipeline, concept=Concept("cat"), anchor="zebra", steps=1)
    _, progress = finish(train(other, RECIPES["object"]))
    assert progress[-1].losses["forget"] > 1e-8


def test_the_concepts_prediction_comes_nearer_to_the_anchors(tiny_pipeline):
    recipe = replace(RECIPES["object"], retain_weight=0.0)
    _, progress = finish(train(context(tiny_pipeline, anchor="zebra", steps=25), recipe))
    losses = [event.losses["forget"] for event in progress if event.phase == "train"]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_the_pull_is_the_mean_squared_distance_and_its_gradient(tiny_pipeline):
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 4, 8, 8, generator=generator)
    target = torch.randn(2, 4, 8, 8, generator=generator)
    embeddings = torch.randn(2, 77, tiny_pipeline.encoder_width, generator=generator).requires_grad_()
    timesteps = torch.tensor([10, 700])
    loss, gradient = towards(Denoiser(tiny_pipeline), noisy, timesteps, target)(embeddings)
    expected = (tiny_pipeline.unet(noisy, timesteps, embeddings).sample - target).square().mean()
    assert loss == expected.item()
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, embeddings)[0])
