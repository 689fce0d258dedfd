"""The surgical method against its formula."""

import torch

from tests.core.erasing import a_context, finish
from unsee_core.image_loss import Denoiser
from unsee_core.job import Concept
from unsee_core.methods.surgical import RECIPES, Training, _pull, run
from unsee_core.pipeline import Pipeline

SMALL = {"layers": 2}


def a_training(pipeline: Pipeline, anchor: str | None) -> Training:
    context = a_context(pipeline, method="surgical", options=SMALL, concept=Concept("cat"), anchor=anchor)
    generator = torch.Generator().manual_seed(0)
    return Training(context, learning_rate=1e-2, retain_weight=1.0, generator=generator)


def test_the_pull_is_the_guidance_terms_distance_and_the_unconditional_drift(tiny_pipeline):
    training, rows = a_training(tiny_pipeline, "zebra"), torch.tensor([3, 5])
    generator = torch.Generator().manual_seed(0)
    noisy, times = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([10, 700])
    moved = torch.randn(3, 77, tiny_pipeline.encoder_width, generator=generator).requires_grad_()
    pull = _pull(training, Denoiser(tiny_pipeline), rows, (noisy, times), 3.0)
    loss, gradient = pull(moved)

    def e(embeddings: torch.Tensor) -> torch.Tensor:
        return tiny_pipeline.unet(noisy, times, embeddings.expand(2, -1, -1)).sample

    empty, anchor = training.empty.embeddings, training.anchors.embeddings[rows]
    guidance = (e(moved[:2]) - e(moved[2:])) - (e(anchor) - e(empty))
    expected = guidance.square().mean() + 3.0 * (e(moved[2:]) - e(empty)).square().mean()
    torch.testing.assert_close(torch.tensor(loss), expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, moved)[0], rtol=1e-4, atol=1e-7)


def test_without_an_anchor_the_guidance_term_goes_to_zero(tiny_pipeline):
    training, rows = a_training(tiny_pipeline, None), torch.tensor([3, 5])
    noisy, times = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 700])
    gone = training.empty.embeddings.expand(3, -1, -1).clone().requires_grad_()
    loss, _ = _pull(training, Denoiser(tiny_pipeline), rows, (noisy, times), 1.0)(gone)
    assert loss < 1e-12  # float32


def test_pictures_of_the_client_are_used_where_there_are_any(tiny_pipeline):
    context = a_context(tiny_pipeline, method="surgical", options=SMALL, steps=1)
    _, progress = finish(run(context))
    assert [(event.step, event.total) for event in progress if event.phase == "prepare"] == [(1, 1)]
    assert set(RECIPES) == {"object", "style", "person", "brand"}
