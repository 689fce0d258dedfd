"""Conditioning: equal to the resident encoder without adapters, to diffusers with them, and cached."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from tests.core.factors import random_factors
from unsee_core.adapter import AdapterMetadata, to_bytes
from unsee_core.conditioning import AppliedAdapter, Conditioner
from unsee_core.denoise import DenoiseRun, decode_image, denoise_step
from unsee_core.job import GenerateJob
from unsee_core.lora import LoraFactors
from unsee_core.pipeline import Pipeline, load_pipeline

PROMPTS = ["a photo of a cat", ""]


def applied(pipeline: Pipeline, *layers: int, seed: int = 0, weight: float = 1.0, norm: bool = False) -> AppliedAdapter:
    return AppliedAdapter(f"sha256:{seed}", random_factors(pipeline, *layers, seed=seed, norm=norm), weight)


def adapter_bytes(pipeline: Pipeline, factors: LoraFactors) -> bytes:
    metadata = AdapterMetadata(
        concept=None,
        method="test",
        strength=1.0,
        rank=factors.rank,
        steps=0,
        seed=0,
        settings={},
        base_model=pipeline.base_model,
        versions={},
    )
    return to_bytes(factors, metadata)


def encode_with_diffusers(reference: StableDiffusionPipeline) -> torch.Tensor:
    prompt, negative = PROMPTS
    with torch.no_grad():
        pair = reference.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=True, negative_prompt=negative)
    return torch.cat(pair)


@pytest.mark.parametrize("weights", [(), (0.0,)])
def test_without_adapters_embeddings_are_diffusers_own_bit_for_bit(
    pipeline: Pipeline, reference: StableDiffusionPipeline, weights: tuple[float, ...]
) -> None:
    adapters = [applied(pipeline, 5, weight=weight) for weight in weights]
    assert torch.equal(Conditioner(pipeline).encode(PROMPTS, adapters), encode_with_diffusers(reference))


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_weighted_adapters_give_what_diffusers_gives_with_the_same_loras(
    pipeline: Pipeline, reference: StableDiffusionPipeline, tmp_path: Path
) -> None:
    adapters = [applied(pipeline, 4, 5, seed=1, weight=0.7), applied(pipeline, 5, seed=2, weight=-1.2)]
    for adapter in adapters:
        name = adapter.digest.removeprefix("sha256:")
        (tmp_path / f"{name}.safetensors").write_bytes(adapter_bytes(pipeline, adapter.factors))
        reference.load_lora_weights(tmp_path, weight_name=f"{name}.safetensors", adapter_name=name)
    reference.set_adapters(["1", "2"], [0.7, -1.2])
    expected = encode_with_diffusers(reference)
    reference.unload_lora_weights()
    output = Conditioner(pipeline).encode(PROMPTS, adapters)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)  # merged here, beside the weights there
    assert (output - encode_with_diffusers(reference)).abs().max() > 0.03


def test_an_embedding_does_not_depend_on_what_else_is_encoded_or_cached(pipeline: Pipeline) -> None:
    adapter, deeper = applied(pipeline, 5), applied(pipeline, 2, seed=1)
    alone = Conditioner(pipeline).encode(["a dog"], [adapter])
    busy = Conditioner(pipeline)
    busy.encode(["a dog", "x"], [deeper])
    assert torch.equal(busy.encode(["a cat", "a dog", ""], [adapter])[1:2], alone)


def test_a_prompt_is_encoded_once_for_each_set_of_weighted_adapters(tiny_pipeline: Pipeline) -> None:
    conditioner = Conditioner(tiny_pipeline)
    adapter = applied(tiny_pipeline, 2)
    half = AppliedAdapter(adapter.digest, adapter.factors, 0.5)
    first = [conditioner.encode(["a", "b"], adapters) for adapters in ([], [adapter], [half])]
    assert (conditioner.cache_hits, conditioner.cache_misses) == (0, 6)
    again = [conditioner.encode(["a", "b"], adapters) for adapters in ([], [adapter], [half])]
    assert (conditioner.cache_hits, conditioner.cache_misses) == (6, 6)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert len({tuple(output.flatten().tolist()) for output in first}) == 3


def test_the_cache_forgets_what_was_not_used_for_longest(tiny_pipeline: Pipeline) -> None:
    conditioner = Conditioner(tiny_pipeline, cache_size=2)
    for prompt in ("a", "b", "a", "c", "a"):
        conditioner.encode([prompt])
    assert (conditioner.cache_hits, conditioner.cache_misses) == (2, 3)
    conditioner.encode(["b"])
    assert (conditioner.cache_hits, conditioner.cache_misses) == (2, 4)
    assert len(conditioner.encode(["d", "e", "f", "d"])) == 4


def test_embeddings_come_in_the_models_dtype(tiny: Path) -> None:
    half = load_pipeline(str(tiny), device="cpu", dtype="bfloat16")
    for adapters in ([], [applied(half, 1, norm=True)]):
        assert Conditioner(half).encode(PROMPTS, adapters).dtype == torch.bfloat16


def test_an_adapter_with_weight_zero_is_none_in_half_precision_too(tiny: Path) -> None:
    half = load_pipeline(str(tiny), device="cpu", dtype="bfloat16")
    without, off = (Conditioner(half).encode(PROMPTS, a) for a in ([], [applied(half, 0, weight=0.0)]))
    assert torch.equal(without, off)


def test_the_final_norms_change_is_applied_with_its_weight(tiny_pipeline: Pipeline) -> None:
    adapter = applied(tiny_pipeline, 2, norm=True)
    without = AppliedAdapter("sha256:without", LoraFactors(adapter.factors.pairs), 1.0)
    plain, normed = (Conditioner(tiny_pipeline).encode(["a"], [a]) for a in (without, adapter))
    norm, resident = adapter.factors.final_norm, tiny_pipeline.text_encoder
    assert norm is not None
    layer = getattr(resident, "text_model", resident).final_layer_norm
    before = (plain - layer.bias) / layer.weight
    expected = before * (layer.weight + norm.weight) + layer.bias + norm.bias
    torch.testing.assert_close(normed, expected, rtol=0, atol=1e-4)


def test_encoding_and_denoising_leave_every_weight_of_the_resident_model_as_it_was(tiny_pipeline: Pipeline) -> None:
    modules = (tiny_pipeline.text_encoder, tiny_pipeline.unet, tiny_pipeline.vae)
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    adapters = [applied(tiny_pipeline, 0, 2, norm=True), applied(tiny_pipeline, 1, seed=1, weight=-2.0)]
    cond, uncond = Conditioner(tiny_pipeline).encode(["a", ""], adapters).split(1)
    run = DenoiseRun(tiny_pipeline, GenerateJob("a", steps=2), cond, uncond)
    while not run.done:
        denoise_step(tiny_pipeline, [run], max_batch=4)
    decode_image(tiny_pipeline, run.latents)
    for module, weights in zip(modules, before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


def test_threads_with_different_adapters_do_not_read_each_others(tiny_pipeline: Pipeline) -> None:
    first_layer = tiny_pipeline.encoder_layers - 2
    adapters = [applied(tiny_pipeline, first_layer, first_layer + 1, seed=seed) for seed in range(4)]
    alone = [Conditioner(tiny_pipeline).encode(PROMPTS, [adapter]) for adapter in adapters]

    def differs(number: int) -> int:
        encoded = (Conditioner(tiny_pipeline).encode(PROMPTS, [adapters[number]]) for _ in range(200))
        return sum(not torch.equal(one, alone[number]) for one in encoded)

    with ThreadPoolExecutor(len(adapters)) as pool:
        assert list(pool.map(differs, range(len(adapters)))) == [0] * len(adapters)
    assert torch.equal(Conditioner(tiny_pipeline).encode(PROMPTS, [adapters[0]]), alone[0])
