"""The erasing methods: their table, the checks before any work, and what few_shot_lora does to a real model."""

import re
from dataclasses import replace

import pytest
import torch

from tests.core.erasing import a_context, a_job, finish, weights_digest
from unsee_core.errors import InvalidRequestError
from unsee_core.job import Concept
from unsee_core.methods import DEFAULT_METHOD, METHODS, Settings, check_job
from unsee_core.methods.base import MethodOption
from unsee_core.methods.few_shot_lora import Recipe, run, train
from unsee_core.pipeline import load_pipeline


def test_every_method_is_listed_by_its_own_name_and_the_default_is_one_of_them():
    assert all(METHODS[name].name == name for name in METHODS)
    assert DEFAULT_METHOD in METHODS


OPTIONS = [(method, option) for method in METHODS.values() for option in method.options]


@pytest.mark.parametrize(("method", "option"), OPTIONS, ids=[f"{m.name}.{o.name}" for m, o in OPTIONS])
def test_a_default_is_allowed_and_what_lies_beyond_is_refused(method, option):
    if option.default is not None:
        option.check(option.name, option.default)
    bad = "yes" if option.type == "bool" else option.most + 1
    with pytest.raises(InvalidRequestError, match=re.escape(f"allowed {option.allowed}")):
        option.check(option.name, bad)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (MethodOption("n", "int", 1, "", 1, 8), 0),
        (MethodOption("n", "int", 1, "", 1, 8), 1.5),
        (MethodOption("n", "int", 1, "", 1, 8), True),
        (MethodOption("n", "float", 1.0, "", 0, 2, above=True), 0.0),
        (MethodOption("n", "float", 1.0, "", 0, 2), float("nan")),
        (MethodOption("n", "bool", False, ""), 1),
    ],
)
def test_an_option_of_another_type_or_at_an_open_end_is_refused(option, value):
    with pytest.raises(InvalidRequestError, match="got"):
        option.check("n", value)


def test_settings_are_the_methods_defaults_where_the_job_says_nothing(tiny_pipeline):
    settings = check_job(a_job(method="few_shot_lora"), tiny_pipeline)
    assert settings == Settings("few_shot_lora", 1.0, 8, 40, {"layers": 2, "train_final_norm": False})


def test_settings_are_the_jobs_own_where_it_says_something(tiny_pipeline):
    options = {"layers": 1, "train_final_norm": True}
    job = a_job(method="few_shot_lora", strength=0.5, rank=3, steps=7, options=options)
    settings = check_job(job, tiny_pipeline)
    assert settings == Settings("few_shot_lora", 0.5, 3, 7, options)
    assert settings.as_text() == {"layers": "1", "train_final_norm": "true"}


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"method": "magic"}, "method", "allowed few_shot_lora"),
        ({"images": ()}, "images", "got 0"),
        ({"anchor": "dog"}, "anchor", "got 'dog'"),
        ({"anchor": ""}, "anchor", "got ''"),
        ({"options": {"layers": 4}}, "few_shot_lora.layers", "got 4, allowed 1-3"),
        ({"options": {"words": 4}}, "few_shot_lora.words", "got 4, allowed nothing"),
        ({"steps": 2001}, "steps", "got 2001, allowed 1-2000"),
        (
            {"method": "surgical", "options": {"pictures": 8}},
            "surgical.pictures",
            "got 8, allowed nothing: the images are used, and none are drawn",
        ),
        ({"method": "surgical", "options": {"drawing_steps": 8}}, "surgical.drawing_steps", "got 8, allowed nothing"),
        ({"concept": Concept("x " * 70)}, "concept.name", "allowed 77"),
        ({"concept": Concept("cat", ("kitty", "x " * 70))}, "concept.synonyms[1]", "allowed 77"),
        ({"retain_prompts": ("a dog", "A photo of  a kitten")}, "retain_prompts[1]", "do not ask for the concept"),
    ],
)
def test_what_does_not_fit_method_or_model_is_refused_by_field(tiny_pipeline, changes, field, words):
    with pytest.raises(InvalidRequestError) as caught:
        check_job(a_job(**changes), tiny_pipeline)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert words in str(caught.value)


def test_a_setting_that_the_method_does_not_read_is_refused(tiny_pipeline, monkeypatch):
    bare = replace(METHODS["few_shot_lora"], name="bare", options=())
    monkeypatch.setattr("unsee_core.methods.METHODS", {"bare": bare})
    with pytest.raises(InvalidRequestError, match=r"steps: got 5, allowed nothing: bare does not read it"):
        check_job(a_job(method="bare", steps=5), tiny_pipeline)
    assert check_job(a_job(method="bare"), tiny_pipeline).steps == 0


def test_progress_counts_every_phase_and_names_the_losses(tiny_pipeline):
    _, progress = finish(run(a_context(tiny_pipeline)))
    assert [(p.phase, p.step, p.total) for p in progress] == [
        ("prepare", 1, 2), ("prepare", 2, 2), ("train", 1, 3), ("train", 2, 3), ("train", 3, 3),
    ]  # fmt: skip
    assert all(set(p.losses) == {"forget", "retain"} for p in progress if p.phase == "train")


def test_the_factors_have_the_asked_rank_and_lie_in_the_asked_layers(tiny_pipeline):
    factors, _ = finish(run(a_context(tiny_pipeline, rank=5, options={"layers": 2})))
    assert (factors.rank, factors.layers) == (5, (1, 2))
    assert len(factors.pairs) == 2 * 6
    for pair in factors.pairs.values():
        assert pair.a.dtype == pair.b.dtype == torch.float32
        assert pair.b.abs().max() > 0
    assert factors.final_norm is None


def test_the_same_job_gives_the_same_factors_bit_for_bit_and_another_seed_others(tiny_pipeline):
    first, again, other = (finish(run(a_context(tiny_pipeline, seed=seed)))[0] for seed in (1, 1, 2))
    for path, pair in first.pairs.items():
        assert torch.equal(pair.a, again.pairs[path].a)
        assert torch.equal(pair.b, again.pairs[path].b)
        assert not torch.equal(pair.a, other.pairs[path].a)


def test_the_global_generator_is_left_alone(tiny_pipeline):
    torch.manual_seed(7)
    first, _ = finish(run(a_context(tiny_pipeline)))
    torch.manual_seed(8)
    again, _ = finish(run(a_context(tiny_pipeline)))
    assert all(torch.equal(pair.b, again.pairs[path].b) for path, pair in first.pairs.items())


def test_strength_scales_the_change_and_nothing_else(tiny_pipeline):
    whole, half = (
        finish(run(a_context(tiny_pipeline, strength=s, options={"train_final_norm": True})))[0] for s in (1.0, 0.5)
    )
    for path, pair in whole.pairs.items():
        torch.testing.assert_close(half.pairs[path].b @ half.pairs[path].a, 0.5 * pair.b @ pair.a)
    torch.testing.assert_close(half.final_norm.weight, 0.5 * whole.final_norm.weight)


def test_the_final_norm_is_trained_where_asked(tiny_pipeline):
    factors, _ = finish(run(a_context(tiny_pipeline, options={"train_final_norm": True})))
    assert factors.final_norm.weight.abs().max() > 0
    assert factors.final_norm.bias.abs().max() > 0


def test_the_hinge_bounds_the_push_so_that_nothing_moves_beyond_it(tiny_pipeline):
    factors, progress = finish(train(a_context(tiny_pipeline), Recipe(margin=0.0)))
    assert [p.losses["forget"] for p in progress if p.phase == "train"] == [0.0] * 3
    assert all(pair.b.abs().max() == 0 for pair in factors.pairs.values())


def test_closing_stops_at_once(tiny_pipeline):
    steps = run(a_context(tiny_pipeline, steps=2000))
    for _ in range(4):
        next(steps)
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)


def test_one_image_is_enough_and_sixteen_are_not_too_many(tiny_pipeline):
    context = a_context(tiny_pipeline, steps=1)
    for count in (1, 16):
        images = (context.images * 4)[:count]
        finish(run(replace(context, images=images)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_half_precision_model_trains_float32_factors_in_about_the_same_direction(tiny, tiny_pipeline, dtype):
    """Adam's first step keeps only signs, so the second layer's B are compared by their signs, in 16 bits of noise."""
    half = load_pipeline(str(tiny), device="cpu", dtype=dtype)
    full, _ = finish(run(a_context(tiny_pipeline, steps=1)))
    other, _ = finish(run(a_context(half, steps=1)))
    signs = [torch.sign(pair.b) == torch.sign(other.pairs[path].b) for path, pair in full.pairs.items()]
    assert other.pairs["text_model.encoder.layers.2.mlp.fc2"].b.dtype == torch.float32
    assert torch.cat([same.flatten() for same in signs]).float().mean() > 0.8


def test_erasing_leaves_the_resident_weights_as_they_were(tiny_pipeline):
    before = weights_digest(tiny_pipeline)
    finish(run(a_context(tiny_pipeline, options={"train_final_norm": True})))
    assert weights_digest(tiny_pipeline) == before
    assert not any(p.requires_grad or p.grad is not None for p in tiny_pipeline.unet.parameters())
