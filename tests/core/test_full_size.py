"""Stable Diffusion 2 at its full size, with random weights: the same code, the real architecture."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from tests.core.factors import random_factors
from tests.core.original_layout import save_original
from unsee_core.checkpoint import config_folder
from unsee_core.conditioning import AppliedAdapter, Conditioner
from unsee_core.denoise import DenoiseRun, decode_image, denoise_step
from unsee_core.job import GenerateJob
from unsee_core.parts import ModelParts
from unsee_core.pipeline import Pipeline, load_pipeline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """SD 2 with 1.29 billion random weights, loaded from a single float16 file of 2.6 GB."""
    path = tmp_path_factory.mktemp("full") / "768-v.safetensors"
    torch.manual_seed(0)
    with config_folder("768-v") as folder:
        parts = ModelParts(
            tokenizer=CLIPTokenizerFast.from_pretrained(folder / "tokenizer"),
            text_encoder=CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")).half(),
            unet=UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")).half(),
            vae=AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")).half(),
            scheduler=DDIMScheduler(),
        )
    save_original(parts, path)
    del parts
    loaded = load_pipeline(str(path), variant="768-v", device="cpu")
    path.unlink()
    return loaded


def test_its_facts_are_those_of_sd_2(full_size: Pipeline) -> None:
    assert (full_size.default_size, full_size.size_multiple, full_size.max_tokens) == (768, 8, 77)
    assert (full_size.encoder_layers, full_size.encoder_width) == (23, 1024)
    assert full_size.prediction_type == "v_prediction"


def test_it_draws_as_diffusers_does_with_and_without_an_adapter_in_one_batch(full_size: Pipeline) -> None:
    adapter = AppliedAdapter("sha256:1", random_factors(full_size, 21, 22, rank=4), 1.0)
    job = GenerateJob("a photo of a cat", steps=2, guidance_scale=7.5, width=64, height=64, seed=1)
    conditioner = Conditioner(full_size)
    runs = []
    for adapters in ((), (adapter,)):
        cond, uncond = conditioner.encode([job.prompt, job.negative_prompt], adapters).split(1)
        runs.append(DenoiseRun(full_size, job, cond, uncond))
    while not runs[0].done:
        denoise_step(full_size, runs, max_batch=16)
    plain, changed = (run.latents for run in runs)

    reference = StableDiffusionPipeline(
        vae=full_size.vae,
        text_encoder=full_size.text_encoder,
        tokenizer=full_size.tokenizer,
        unet=full_size.unet,
        scheduler=full_size.make_scheduler(None),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    reference.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(1)]
    output = reference(
        job.prompt, num_inference_steps=2, width=64, height=64, generator=generator, output_type="latent"
    )
    torch.testing.assert_close(plain, output.images, rtol=0, atol=1e-4)
    assert (changed - plain).abs().max() > 1e-3
    assert decode_image(full_size, changed).size == (64, 64)
