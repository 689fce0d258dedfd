"""The encoder's two parts against the resident encoder and against diffusers' tokenising."""

from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from tests.core.factors import random_factors
from unsee_core.encoder import SHARED_TAILS, EncoderTail, apply_factors, hidden_before, shared_tail, tokenize
from unsee_core.pipeline import Pipeline, load_pipeline

PROMPTS = ["a photo of a cat", "", "Large, 3 cats; " * 30]


def test_prefix_and_tail_give_the_resident_encoders_output_wherever_it_is_cut(pipeline: Pipeline) -> None:
    input_ids, _ = tokenize(pipeline, PROMPTS)
    expected = pipeline.text_encoder(input_ids)[0]
    for layer in range(pipeline.encoder_layers + 1):
        tail = EncoderTail(pipeline, layer)
        output = tail(hidden_before(pipeline, input_ids, layer))
        # float32; same operations in the same order, but for the library's own choice of attention kernel
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


def test_tokens_are_cut_and_padded_as_diffusers_does_and_the_cut_text_is_told(pipeline: Pipeline) -> None:
    input_ids, cut_off = tokenize(pipeline, PROMPTS)
    expected = pipeline.tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    pipeline.tokenizer("")
    assert input_ids.tolist() == expected.input_ids.tolist()
    assert cut_off[:2] == ["", ""]
    kept = pipeline.tokenizer.decode(input_ids[2], skip_special_tokens=True)
    assert (kept + cut_off[2]).replace(" ", "") == pipeline.tokenizer.decode(
        pipeline.tokenizer(PROMPTS[2], verbose=False).input_ids, skip_special_tokens=True
    ).replace(" ", "")


@pytest.mark.parametrize(("words", "is_cut"), [(75, False), (76, True)])
def test_a_prompt_of_exactly_77_tokens_loses_nothing(tiny_pipeline: Pipeline, words: int, is_cut: bool) -> None:
    _, (cut_off,) = tokenize(tiny_pipeline, [" ".join("a" * words)])
    assert bool(cut_off) is is_cut


def test_submodules_carry_the_names_that_adapters_use(pipeline: Pipeline) -> None:
    tail = EncoderTail(pipeline, pipeline.encoder_layers - 1)
    resident = {name.removeprefix("text_model.") for name, _ in pipeline.text_encoder.named_parameters()}
    names = {name for name, _ in tail.named_parameters()}
    assert names <= resident
    assert f"encoder.layers.{pipeline.encoder_layers - 1}.self_attn.out_proj.weight" in names


def test_the_tail_is_a_float32_copy_that_no_change_reaches(tiny_pipeline: Pipeline) -> None:
    tail = EncoderTail(tiny_pipeline, 1)
    before = {name: value.clone() for name, value in tail.state_dict().items()}
    changed = apply_factors(tail, [(random_factors(tiny_pipeline, 1, 2, norm=True), 1.5)])
    assert {value.dtype for value in changed.values()} == {torch.float32}
    torch.testing.assert_close(dict(tail.state_dict()), before, rtol=0, atol=0)
    resident = tiny_pipeline.text_encoder.state_dict()
    addresses = {value.data_ptr() for value in resident.values()}
    assert not addresses & {value.data_ptr() for value in tail.state_dict().values()}


def test_changes_add_up_with_their_weights_on_projections_and_norm(tiny_pipeline: Pipeline) -> None:
    tail = EncoderTail(tiny_pipeline, 1)
    first, second = random_factors(tiny_pipeline, 1, norm=True), random_factors(tiny_pipeline, 1, 2, seed=1)
    changed = apply_factors(tail, [(first, 0.5), (second, -1.0)])
    parameters = dict(tail.named_parameters())
    key = "encoder.layers.1.mlp.fc1"
    one, two = first.pairs[f"text_model.{key}"], second.pairs[f"text_model.{key}"]
    expected = parameters[f"{key}.weight"] + 0.5 * one.b @ one.a - two.b @ two.a
    torch.testing.assert_close(changed[f"{key}.weight"], expected)
    assert first.final_norm is not None
    expected = parameters["final_layer_norm.bias"] + 0.5 * first.final_norm.bias
    torch.testing.assert_close(changed["final_layer_norm.bias"], expected)


def test_a_small_change_is_not_rounded_away_in_a_half_precision_model(tiny: Path) -> None:
    half = load_pipeline(str(tiny), device="cpu", dtype="bfloat16")
    tail = EncoderTail(half, 2)
    assert {value.dtype for value in tail.parameters()} == {torch.float32}
    factors = random_factors(half, 2)
    hidden = hidden_before(half, tokenize(half, ["a cat"])[0], 2)
    moved = functional_call(tail, apply_factors(tail, [(factors, 1e-5)]), (hidden,)) - tail(hidden)
    assert moved.abs().max() > 0


def test_who_only_reads_a_tail_shares_it_and_few_are_kept(pipeline: Pipeline, tiny_pipeline: Pipeline) -> None:
    first = shared_tail(pipeline, 0)
    assert shared_tail(pipeline, 0) is first
    assert shared_tail(tiny_pipeline, 0) is not first
    for layer in range(1, SHARED_TAILS + 1):
        shared_tail(pipeline, layer)
    assert shared_tail(pipeline, 0) is not first
