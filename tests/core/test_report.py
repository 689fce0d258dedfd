"""The report's figures: nothing for no change, the right sign for an erasure, the same for the same job."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from unsee_core.answers import Report
from unsee_core.image_loss import ImageLoss, encode_latents
from unsee_core.job import Concept, EraseJob
from unsee_core.lora import LoraFactors
from unsee_core.methods import METHODS, EraseContext, check_job, closed_form
from unsee_core.metric import cross_attention_metric, seen_distance
from unsee_core.near_words import vocabulary_names
from unsee_core.neighbours import names_of
from unsee_core.pipeline import Pipeline
from unsee_core.prompts import held_out_prompts
from unsee_core.report import make_report
from unsee_core.spellings import plural, spellings

CLIENT_IMAGES = Path(__file__).parents[2] / "bench" / "images"


def a_context(pipeline: Pipeline, **changes: object) -> EraseContext:
    job = replace(EraseJob(Concept("cat", ("kitten",)), images=(b"",), method="few_shot_lora", steps=3), **changes)
    images = tuple(Image.open(path).convert("RGB") for path in sorted((CLIENT_IMAGES / "cat").glob("*.png")))
    return EraseContext(pipeline, job, images, check_job(job, pipeline))


def finish(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def erased(context: EraseContext) -> tuple[LoraFactors, Report]:
    factors = finish(METHODS["few_shot_lora"].run(context)).factors
    return factors, finish(make_report(context, factors))


def test_a_change_of_strength_zero_is_reported_as_none(tiny_pipeline):
    context = a_context(tiny_pipeline)
    factors, _ = erased(context)
    report = finish(make_report(context, factors.scaled(0.0)))
    assert report.concept_drift.max == report.retain_drift.max == report.empty_drift == 0.0
    assert report.image_loss_after == report.image_loss_before > 0
    assert report.erase_ratio == pytest.approx(1, abs=1e-4)
    assert set(report.spelling_ratios) >= {"plural", "upper case", "dropped letter", "neighbour key"}
    assert list(report.spelling_ratios.values()) == pytest.approx([1.0] * len(report.spelling_ratios), abs=1e-4)
    assert report.worst_erase_ratio > 1.001


def test_the_worst_neighbours_may_be_retain_prompts_and_stored_concepts_but_not_the_concept(tiny_pipeline):
    context = a_context(tiny_pipeline, retain_prompts=("a very special thing",))
    factors, plain = erased(context)
    stored = finish(make_report(context, factors, ("cat", "Kitten", "a zeppelin over Delft")))
    assert stored.retain_drift.prompts == plain.retain_drift.prompts + 1
    drifts = [one.drift for one in stored.worst_neighbours]
    assert len(drifts) == 5
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[0] <= stored.retain_drift.max
    assert not {"cat", "kitten"} & {one.name.lower() for one in stored.worst_neighbours}


def test_images_of_something_else_are_told(pipeline):
    for name, folder, warned in (("cat", "cat", 0), ("rose", "cat", 1)):
        images = tuple(Image.open(path).convert("RGB") for path in sorted((CLIENT_IMAGES / folder).glob("*.png")))
        context = replace(a_context(pipeline, concept=Concept(name), steps=1), images=images)
        _, report = erased(context)
        assert len(report.warnings) == warned


def test_an_erasure_that_moves_what_must_stay_is_told(pipeline):
    """With a common word among the synonyms nearly every prompt names the concept, and next to nothing is held."""
    for synonyms, warned in (((), 0), (("a", "the"), 1)):
        job = EraseJob(Concept("owl", synonyms), method="closed_form")
        context = EraseContext(pipeline, job, (), check_job(job, pipeline))
        factors = finish(closed_form.run(context)).factors
        told = [one for one in finish(make_report(context, factors)).warnings if "must stay moves" in one]
        assert len(told) == warned


def test_misspellings_follow_their_rules():
    assert spellings("rose") == {
        "plural": "roses", "upper case": "ROSE", "title case": "Rose", "dropped letter": "roe",
        "doubled letter": "rosse", "swapped letters": "rsoe", "neighbour key": "rode",
    }  # fmt: skip
    assert [plural(word) for word in ("cherry", "fox", "boy", "pixel art")] == [
        "cherries",
        "foxes",
        "boys",
        "pixel arts",
    ]


def test_the_report_counts_all_prompts_and_names_the_worst(tiny_pipeline):
    context = a_context(tiny_pipeline, retain_prompts=("a very special thing",))
    _, report = erased(context)
    concept = context.job.concept
    assert report.concept_drift.prompts == len(held_out_prompts(concept))
    names = {name.lower() for name in vocabulary_names(tiny_pipeline)}
    assert report.retain_drift.prompts == len(names - names_of(context)) + 1
    assert report.concept_drift.worst_prompt in held_out_prompts(concept)
    for drift in (report.concept_drift, report.retain_drift):
        assert 0 < drift.p50 <= drift.p95 <= drift.max


def test_the_report_is_the_same_for_the_same_job_and_yields_its_steps(tiny_pipeline):
    context = a_context(tiny_pipeline)
    factors, report = erased(context)
    assert finish(make_report(context, factors)) == report
    assert [(p.phase, p.step, p.total) for p in make_report(context, factors)] == [("report", i, 3) for i in (1, 2, 3)]


def test_without_images_there_is_no_image_loss(tiny_pipeline):
    context = a_context(tiny_pipeline)
    factors, _ = erased(context)
    report = finish(make_report(replace(context, images=()), factors))
    assert report.image_loss_before is None
    assert report.image_loss_after is None


def test_erasing_makes_the_images_hard_to_draw_and_moves_the_concept_far_more_than_the_rest(pipeline):
    _, report = erased(a_context(pipeline, steps=None))
    assert report.image_loss_after > 1.3 * report.image_loss_before
    assert report.concept_drift.p50 > 5 * report.retain_drift.p50
    assert report.empty_drift < 0.1


class CrossAttention(nn.Module):
    def __init__(self, *weights: torch.Tensor) -> None:
        super().__init__()
        self.attn2 = nn.ModuleDict({"to_k": nn.Linear(3, 2, bias=False), "to_v": nn.Linear(3, 2, bias=False)})
        for name, weight in zip(("to_k", "to_v"), weights, strict=True):
            self.attn2[name].weight.data = weight


def test_the_metric_does_not_see_what_no_projection_reads():
    blind = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    metric = cross_attention_metric(CrossAttention(blind, 5 * blind))
    torch.testing.assert_close(metric, torch.diag(torch.tensor([1.5, 1.5, 0.0])))
    unseen = torch.tensor([[[0.0, 0.0, 9.0]]])
    assert seen_distance(metric, unseen, torch.zeros(1, 1, 3)) == 0
    seen = torch.tensor([[[2.0, 0.0, 0.0]]])
    torch.testing.assert_close(seen_distance(metric, seen, torch.zeros(1, 1, 3)), torch.tensor([6.0**0.5]))


def test_the_metric_counts_every_cross_attention_and_no_self_attention(tiny_pipeline):
    metric = cross_attention_metric(tiny_pipeline.unet)
    assert metric.shape == (tiny_pipeline.encoder_width,) * 2
    torch.testing.assert_close(metric.trace(), torch.tensor(float(tiny_pipeline.encoder_width)))
    assert torch.linalg.eigvalsh(metric).min() > -1e-5


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_image_loss_is_zero_for_a_perfect_prediction(tiny_pipeline, prediction_type):
    class Perfect(nn.Module):
        def forward(self, noisy, timesteps, embeddings):
            return type("Output", (), {"sample": answers[prediction_type]})()

    config = dict(tiny_pipeline.scheduler_config) | {"prediction_type": prediction_type}
    model = replace_parts(tiny_pipeline, unet=Perfect(), scheduler_config=config, prediction_type=prediction_type)
    loss = ImageLoss(model)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 999])
    betas = torch.linspace(config["beta_start"], config["beta_end"], 1000)
    if config["beta_schedule"] == "scaled_linear":
        betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, 1000) ** 2
    alphas = (1 - betas).cumprod(0)[timesteps].view(2, 1, 1, 1)
    answers = {"epsilon": noise, "v_prediction": alphas.sqrt() * noise - (1 - alphas).sqrt() * latents}
    torch.testing.assert_close(loss(latents, noise, timesteps, torch.zeros(2, 77, 32)), torch.zeros(2))
    answers[prediction_type] = answers[prediction_type] + torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(loss(latents, noise, timesteps, torch.zeros(2, 77, 32)), torch.tensor([1.0, 4.0]))


def replace_parts(pipeline: Pipeline, **parts: object) -> Pipeline:
    """Return a model of other parts, without computing its digests."""
    other = object.__new__(Pipeline)
    other.__dict__ |= vars(pipeline) | parts
    return other


def test_latents_are_of_the_models_size_whatever_the_images_sizes_are(tiny_pipeline):
    images = [Image.new("RGB", size, "red") for size in ((8, 8), (300, 20), (64, 64))]
    latents = encode_latents(tiny_pipeline, images)
    assert (latents.shape, latents.dtype) == ((3, 4, 8, 8), torch.float32)
    assert not latents.requires_grad
