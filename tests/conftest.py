"""Models that tests share: the embedded one, and a tiny one with random weights in the same layout."""

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from unsee_core.checkpoint import clip_vocabulary
from unsee_core.pipeline import Pipeline, load_pipeline

EMOJI = Path(__file__).parents[1] / "models" / "emoji"
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Let pass what diffusers' schedulers do with numpy 2; every other warning is an error."""
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning:diffusers.schedulers")


@pytest.fixture(scope="session")
def emoji() -> Path:
    """The embedded model's folder; UNSEE_TEST_MODEL stands in for it."""
    folder = Path(os.environ.get("UNSEE_TEST_MODEL") or EMOJI)
    how = "set UNSEE_TEST_MODEL to a folder in Stable Diffusion 2's layout"
    assert (folder / "model_index.json").is_file(), f"{folder} is no model; {how}"
    return folder


@pytest.fixture(scope="session")
def pipeline(emoji: Path) -> Pipeline:
    """The embedded model, resident on the CPU; no test may change it."""
    return load_pipeline(str(emoji), device="cpu")


@pytest.fixture(scope="session")
def reference(emoji: Path) -> StableDiffusionPipeline:
    """The embedded model in diffusers' own pipeline, float32; a test that loads LoRAs into it unloads them."""
    loaded = StableDiffusionPipeline.from_pretrained(emoji, tokenizer=None, local_files_only=True)
    loaded.tokenizer = CLIPTokenizerFast.from_pretrained(emoji / "tokenizer")
    loaded.to(torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in Stable Diffusion 2's layout with random weights: 3 encoder layers, 16 px."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    CLIPTextModel(CLIPTextConfig(**TINY_TEXT)).save_pretrained(folder / "text_encoder")
    UNet2DConditionModel(**TINY_UNET).save_pretrained(folder / "unet")
    AutoencoderKL(**TINY_VAE).save_pretrained(folder / "vae")
    DDIMScheduler(prediction_type="v_prediction", clip_sample=False, steps_offset=1).save_pretrained(
        folder / "scheduler"
    )
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline(tiny: Path) -> Pipeline:
    """The tiny model, resident on the CPU; no test may change it."""
    return load_pipeline(str(tiny), device="cpu")


TINY_TEXT = {
    "vocab_size": 514,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "projection_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 512,
    "eos_token_id": 513,
}
TINY_UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": (2, 4),
    "cross_attention_dim": 32,
    "use_linear_projection": True,
}
TINY_VAE = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
}


def write_tiny_tokenizer(folder: Path) -> None:
    """Write CLIP's tokenizer without its merges: a token is a letter."""
    folder.mkdir(parents=True)
    letters = list(clip_vocabulary()[0])[:512]
    vocabulary = {token: number for number, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "!"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
