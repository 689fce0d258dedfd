"""What every method that trains on its own drawings keeps to: progress, seed, cancel, strength, an untouched model."""

import pytest
import torch

from tests.core.erasing import a_context, finish, weights_digest
from unsee_core.job import Concept
from unsee_core.methods import METHODS, retaining
from unsee_core.methods.base import EraseContext
from unsee_core.methods.retaining import EncodedPrompts, Retaining
from unsee_core.methods.tail_lora import TailLora
from unsee_core.pipeline import Pipeline, load_pipeline

SMALL = {
    "ablation": {"layers": 2, "pictures": 2, "drawing_steps": 2},
    "sdd": {"layers": 2, "drawing_steps": 3},
    "surgical": {"layers": 2, "pictures": 2, "drawing_steps": 2},
    "reward": {"layers": 2, "drawing_steps": 2},
}
EACH = pytest.mark.parametrize("method", SMALL)


def a_small_context(pipeline: Pipeline, method: str, **changes: object) -> EraseContext:
    return a_context(pipeline, method=method, images=(), **{"steps": 2, "options": SMALL[method], **changes})


@EACH
def test_it_erases_without_images_and_with_the_asked_rank_and_layers(tiny_pipeline, method):
    factors, progress = finish(METHODS[method].run(a_small_context(tiny_pipeline, method, rank=3)))
    assert (factors.rank, factors.layers) == (3, (1, 2))
    assert all(pair.b.abs().max() > 0 for pair in factors.pairs.values())
    assert factors.final_norm is None
    assert {event.phase for event in progress} == {"prepare", "train"}
    for phase in ("prepare", "train"):
        events = [event for event in progress if event.phase == phase]
        assert [event.step for event in events] == list(range(1, events[0].total + 1))
    assert all(set(event.losses) == {"forget", "retain"} for event in progress if event.phase == "train")


def test_other_names_of_the_concept_are_not_held(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    held: list[str] = []
    encoded = EncodedPrompts.of.__func__

    def of(cls, pipeline, lora, prompts, words=()):
        held.extend(prompts)
        return encoded(cls, pipeline, lora, prompts, words)

    monkeypatch.setattr(EncodedPrompts, "of", classmethod(of))
    generator = torch.Generator().manual_seed(0)
    lora = TailLora(pipeline, layers=2, rank=2, train_final_norm=False, generator=generator)
    context = a_context(pipeline, method="sdd", concept=Concept("ink sketch", kind="style"))
    Retaining(context, lora, rows=4, empty_rows=1, generator=generator)
    assert len(held) > 300
    assert not [prompt for prompt in held if "in sketch style" in prompt or "line drawing" in prompt]
    assert [prompt for prompt in held if "watercolor" in prompt]


def test_where_every_word_names_the_concept_the_empty_prompt_is_held(
    tiny_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retaining, "retain_prompts", lambda *_: ())
    generator = torch.Generator().manual_seed(0)
    lora = TailLora(tiny_pipeline, layers=1, rank=2, train_final_norm=False, generator=generator)
    term = Retaining(a_context(tiny_pipeline, method="sdd"), lora, rows=4, empty_rows=1, generator=generator)
    assert term.loss() == 0


@EACH
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tiny_pipeline, method):
    def factors(seed: int) -> dict[str, bytes]:
        torch.manual_seed(seed + 1)
        found, _ = finish(METHODS[method].run(a_small_context(tiny_pipeline, method, seed=seed)))
        return {path: pair.b.numpy().tobytes() for path, pair in found.pairs.items()}

    first = factors(1)
    torch.manual_seed(77)
    assert factors(1) == first
    assert factors(2) != first


@EACH
def test_strength_scales_the_change(tiny_pipeline, method):
    whole, half = (
        finish(METHODS[method].run(a_small_context(tiny_pipeline, method, strength=s)))[0] for s in (1.0, 0.5)
    )
    for path, pair in whole.pairs.items():
        torch.testing.assert_close(half.pairs[path].b @ half.pairs[path].a, 0.5 * pair.b @ pair.a)


@EACH
def test_closing_stops_at_once(tiny_pipeline, method):
    steps = METHODS[method].run(a_small_context(tiny_pipeline, method, steps=2000))
    for _ in range(6):
        next(steps)
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)


@EACH
def test_the_resident_model_is_only_read(tiny_pipeline, method):
    before = weights_digest(tiny_pipeline)
    finish(METHODS[method].run(a_small_context(tiny_pipeline, method)))
    assert weights_digest(tiny_pipeline) == before
    assert not any(value.requires_grad or value.grad is not None for value in tiny_pipeline.unet.parameters())


@EACH
def test_a_half_precision_model_trains_float32_factors_that_are_finite(tiny, method):
    half = load_pipeline(str(tiny), device="cpu", dtype="bfloat16")
    factors, _ = finish(METHODS[method].run(a_small_context(half, method)))
    for pair in factors.pairs.values():
        assert pair.b.dtype == torch.float32
        assert pair.b.isfinite().all()
        assert pair.b.abs().max() > 0


@pytest.mark.parametrize("method", ["ablation", "surgical", "reward"])
def test_the_anchor_changes_where_the_concept_goes(tiny_pipeline, method):
    plain, anchored = (
        finish(METHODS[method].run(a_small_context(tiny_pipeline, method, anchor=anchor)))[0]
        for anchor in (None, "zebra")
    )
    assert any(not torch.equal(pair.b, anchored.pairs[path].b) for path, pair in plain.pairs.items())
