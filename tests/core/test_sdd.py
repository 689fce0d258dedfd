"""Safe self-distillation: where its latents come from, and what they are driven to."""

from dataclasses import replace

import pytest
import torch

from tests.core.erasing import a_context, finish
from unsee_core.methods.base import EraseContext
from unsee_core.methods.sdd import RECIPES, _Average, _OnTheirWay, train
from unsee_core.methods.tail_lora import TailLora
from unsee_core.methods.training import Training
from unsee_core.pipeline import Pipeline


def context(pipeline: Pipeline, **options: object) -> EraseContext:
    return a_context(pipeline, method="sdd", steps=25, options={"layers": 2, "drawing_steps": 4, **options})


def on_their_way(pipeline: Pipeline, rows: int) -> tuple[_OnTheirWay, Training]:
    generator = torch.Generator().manual_seed(0)
    training = Training(context(pipeline), learning_rate=1e-2, retain_weight=1.0, generator=generator)
    return _OnTheirWay(context(pipeline), training, rows, generator), training


def test_latents_are_spread_over_the_steps_and_move_one_step_at_a_time(tiny_pipeline):
    latents, _ = on_their_way(tiny_pipeline, 4)
    assert list(latents.begin()) == [1, 2, 3, 4]
    _, first = latents.latents()
    assert first.tolist() == sorted(set(first.tolist()), reverse=True)
    latents.advance()
    _, then = latents.latents()
    assert then.tolist() == [*first.tolist()[1:], first.tolist()[0]]  # the last one was done and began anew


def test_every_prompt_has_its_turn_before_one_comes_again(tiny_pipeline):
    latents, training = on_their_way(tiny_pipeline, 1)
    seen = [int(latents.prompts[0])]
    while len(seen) < len(training.forget.hidden):
        latents.advance()
        if latents.latents()[1].item() > 700:
            seen.append(int(latents.prompts[0]))
    assert sorted(seen) == list(range(len(training.forget.hidden)))


@pytest.mark.parametrize(("decay", "share"), [(0.0, 1.0), (0.75, 0.25)])
def test_the_average_follows_by_its_decay(tiny_pipeline, decay, share):
    lora = TailLora(tiny_pipeline, layers=1, rank=2, train_final_norm=False, generator=torch.Generator().manual_seed(0))
    average, hidden = _Average(lora, decay), torch.randn(1, 77, tiny_pipeline.encoder_width)
    before = lora(hidden).detach()
    for module in lora.tail.modules():
        if hasattr(module, "lora_B"):
            torch.nn.init.ones_(module.lora_B["default"].weight)
    torch.testing.assert_close(average(hidden), before)
    average.follow()
    for module in lora.tail.modules():
        if hasattr(module, "lora_B"):
            torch.nn.init.constant_(module.lora_B["default"].weight, share)
    torch.testing.assert_close(average(hidden), lora(hidden).detach())


def test_the_concepts_prediction_comes_nearer_to_the_empty_prompts(tiny_pipeline):
    _, progress = finish(train(context(tiny_pipeline), replace(RECIPES["object"], retain_weight=0.0)))
    losses = [event.losses["forget"] for event in progress if event.phase == "train"]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
