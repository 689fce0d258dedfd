"""The baselines follow their papers' formulas and leave the resident model untouched."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.baselines import BASELINES, esd_x, few_shot_unlearning, uce
from bench.baselines.base import bytes_of
from bench.editing import ALL_METHODS, edit, job_of, timed
from bench.erasing import client_images
from unsee_core.conditioning import Conditioner
from unsee_core.encoder import tokenize
from unsee_core.image_loss import ImageLoss, encode_latents
from unsee_core.images import open_image
from unsee_core.job import Concept, EraseJob, Limits
from unsee_core.methods import EraseContext, Settings
from unsee_core.pipeline import Pipeline, load_pipeline


def context_of(pipeline: Pipeline, name: str = "dog", kind: str = "object") -> EraseContext:
    images = tuple(open_image(data, "images", Limits()) for data in client_images("dog")[:4])
    job = EraseJob(Concept(name, kind=kind))
    return EraseContext(pipeline, job, images, Settings("", 1.0, 0, 0, {}))


def embeddings(rows: int, seed: int, d: int = 12) -> torch.Tensor:
    return torch.randn(rows, d, generator=torch.Generator().manual_seed(seed))


WEIGHT = embeddings(7, seed=1)


def test_uce_reads_sources_as_targets_and_what_is_retained_as_before():
    sources, targets, retained = embeddings(2, 2), embeddings(2, 3), embeddings(6, 4)
    edited = uce.edit_projection(WEIGHT, sources, targets, retained, uce.Recipe(ridge=1e-7))
    torch.testing.assert_close(sources @ edited.T, targets @ WEIGHT.T, atol=1e-3, rtol=0)
    torch.testing.assert_close(retained @ edited.T, retained @ WEIGHT.T, atol=1e-3, rtol=0)


def test_uce_of_concepts_onto_themselves_changes_nothing():
    sources, retained = embeddings(5, 2), embeddings(40, 4)
    edited = uce.edit_projection(WEIGHT, sources, sources, retained, uce.Recipe())
    torch.testing.assert_close(edited, WEIGHT, atol=1e-5, rtol=1e-5)


def test_uce_is_the_minimum_of_its_objective():
    sources, targets, retained, recipe = (
        embeddings(4, 2),
        embeddings(4, 3),
        embeddings(30, 4),
        uce.Recipe(0.7, 2.0, 0.1),
    )
    edited = uce.edit_projection(WEIGHT, sources, targets, retained, recipe).requires_grad_()
    moved = (sources @ edited.T - targets @ WEIGHT.T).square().sum(1).mean()
    stayed = (retained @ edited.T - retained @ WEIGHT.T).square().sum(1).mean()
    pull = recipe.ridge * retained.square().mean() * (edited - WEIGHT).square().sum()
    (gradient,) = torch.autograd.grad(recipe.erase * moved + recipe.preserve * stayed + pull, edited)
    assert gradient.abs().max() < 1e-4


def test_uce_changes_nothing_but_the_projections_of_text(tiny_pipeline: Pipeline):
    changed, _ = timed(uce.run(context_of(tiny_pipeline), uce.Recipe()))
    before, after = tiny_pipeline.unet.state_dict(), changed.pipeline.unet.state_dict()
    names = {name for name in before if not torch.equal(before[name], after[name])}
    assert names == {name for name in before if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))}
    assert changed.size_bytes == bytes_of(before[name] for name in names)


def test_uce_starts_at_the_concepts_first_token_and_a_style_leaves_its_thing(tiny_pipeline: Pipeline):
    assert uce.first_token(tiny_pipeline, "dog", ["dog"]) == 1
    assert uce.first_token(tiny_pipeline, "ab dog", ["dog"]) == 3  # a token is a letter there
    with pytest.raises(ValueError, match="must hold one of dog"):
        uce.first_token(tiny_pipeline, "a cat", ["dog"])
    sources, targets = uce.concept_positions(tiny_pipeline, context_of(tiny_pipeline, "sepia", "style"))
    assert sources.shape == targets.shape
    assert not torch.equal(sources, targets)


def test_esd_aims_away_from_the_concept_by_as_much_as_the_concept_adds():
    unconditional, conditional = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])
    assert esd_x.negated_guidance(unconditional, conditional, 0.0).tolist() == [1.0, 2.0]
    assert esd_x.negated_guidance(unconditional, conditional, 1.0).tolist() == [-1.0, 3.0]


def test_esd_comes_nearer_to_its_target(tiny_pipeline: Pipeline):
    recipe = esd_x.Recipe(steps=15, learning_rate=3e-3)
    changed, _ = timed(esd_x.run(context_of(tiny_pipeline), recipe))
    conditioner = Conditioner(tiny_pipeline)
    cond, uncond = conditioner.encode(["dog"]), conditioner.encode([""])
    rows = esd_x.partly_drawn(tiny_pipeline, cond, uncond, recipe, torch.Generator().manual_seed(7))
    assert rows.latents.shape == (recipe.rows, 4, 8, 8)
    assert len(set(rows.timesteps.tolist())) > 1
    frozen = [esd_x.predict(tiny_pipeline, rows, prompt) for prompt in (uncond, cond)]
    target = esd_x.negated_guidance(*frozen, recipe.eta)
    with torch.no_grad():
        edited = esd_x.predict(changed.pipeline, rows, cond)
    assert (edited - target).square().mean() < (frozen[1] - target).square().mean()


def test_few_shot_unlearning_raises_the_error_on_the_pictures(tiny_pipeline: Pipeline):
    context = context_of(tiny_pipeline)
    changed, _ = timed(few_shot_unlearning.run(context, few_shot_unlearning.Recipe(learning_rate=3e-3, epochs=10)))
    latents, image_loss = encode_latents(tiny_pipeline, context.images), ImageLoss(tiny_pipeline)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    tokens, _ = tokenize(tiny_pipeline, ["a photo of a dog"] * len(latents))
    with torch.no_grad():
        errors = [
            image_loss(latents, noise, torch.full((len(latents),), 600), pipeline.text_encoder(tokens)[0]).mean()
            for pipeline in (tiny_pipeline, changed.pipeline)
        ]
    assert errors[1] > errors[0]


def test_few_shot_unlearning_trains_all_mlps_and_the_last_attention(tiny_pipeline: Pipeline):
    changed, _ = timed(few_shot_unlearning.run(context_of(tiny_pipeline), few_shot_unlearning.Recipe()))
    before, after = tiny_pipeline.text_encoder.state_dict(), changed.pipeline.text_encoder.state_dict()
    names = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if ".mlp." in name} <= names
    assert {name for name in names if ".mlp." not in name} <= {name for name in before if "layers.2.self_attn" in name}
    assert any("layers.2.self_attn" in name for name in names)


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_baseline_leaves_the_resident_model_untouched_and_repeats_itself(
    name: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
):
    short = replace(esd_x.BASELINE, recipe=esd_x.Recipe(steps=2, drawing_steps=3))
    monkeypatch.setitem(BASELINES, "esd_x", short)
    pipeline = load_pipeline(str(tiny), device="cpu")
    before = snapshot(pipeline)
    first, again = (edit(pipeline, name, job_of("dog", name)) for _ in range(2))
    assert all(torch.equal(old, new) for old, new in zip(before, snapshot(pipeline), strict=True))
    assert not any(weight.requires_grad for weight in pipeline.unet.parameters())
    weights = zip(snapshot(first.model.pipeline), snapshot(again.model.pipeline), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)
    assert not all(torch.equal(old, new) for old, new in zip(before, snapshot(first.model.pipeline), strict=True))
    assert {"prepare", "train"} <= set(first.phase_seconds)
    assert first.size_bytes > 0


def snapshot(pipeline: Pipeline) -> list[torch.Tensor]:
    modules = (pipeline.unet, pipeline.text_encoder)
    return [weight.detach().clone() for module in modules for weight in module.parameters()]


def test_every_baseline_cites_its_paper_and_has_a_name_of_its_own():
    assert len(set(ALL_METHODS)) == len(ALL_METHODS)
    assert all(baseline.source.startswith("arXiv:") for baseline in BASELINES.values())
    assert [baseline.name for baseline in BASELINES.values()] == list(BASELINES)
