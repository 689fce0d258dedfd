"""Adapters in the hands of other programs: diffusers, peft, and what reads kohya's keys; with old and new libraries.

Every reader must arrive at the encoder whose weights are W + B A.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import load
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from tests.core.adapters import METADATA
from tests.core.factors import random_factors
from unsee_core.adapter import export, to_bytes
from unsee_core.conditioning import AppliedAdapter, Conditioner
from unsee_core.encoder import tokenize
from unsee_core.lora import LoraFactors, LoraPair
from unsee_core.pipeline import Pipeline

PROMPTS = ["a cat", ""]
TOLERANCE = {"rtol": 0, "atol": 1e-5}  # float32: x W^T + (x A^T) B^T against x (W + B A)^T

pytestmark = [
    # peft asks transformers 5 for an attribute by its old name
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture
def factors(tiny_pipeline: Pipeline) -> LoraFactors:
    """Changes of two layers, visible ones, of two ranks."""
    pairs = dict(random_factors(tiny_pipeline, 1, 2, rank=3).scaled(20).pairs)
    path = "text_model.encoder.layers.1.mlp.fc2"
    pairs[path] = LoraPair(pairs[path].a[:1], pairs[path].b[:, :1])
    return LoraFactors(pairs)


@pytest.fixture
def stored(factors: LoraFactors) -> bytes:
    return to_bytes(factors, METADATA)


@pytest.fixture
def expected(tiny: Path, tiny_pipeline: Pipeline, factors: LoraFactors) -> Tensor:
    return encode_changed(tiny, tiny_pipeline, factors)


@torch.no_grad()
def encode_changed(tiny: Path, pipeline: Pipeline, factors: LoraFactors) -> Tensor:
    """Return what the encoder with the weights W + B A makes of the prompts."""
    encoder = CLIPTextModel.from_pretrained(tiny / "text_encoder").eval()
    weights = {name.removeprefix("text_model."): value for name, value in encoder.named_parameters()}
    unchanged = encode(encoder, pipeline)
    for path, pair in factors.pairs.items():
        weights[f"{path.removeprefix('text_model.')}.weight"] += pair.b @ pair.a
    changed = encode(encoder, pipeline)
    assert (changed - unchanged).abs().max() > 0.1
    return changed


@torch.no_grad()
def encode(encoder: Any, pipeline: Pipeline) -> Tensor:
    output: Tensor = encoder(input_ids=tokenize(pipeline, PROMPTS)[0])[0]
    return output


def diffusers_pipeline(tiny: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        text_encoder=CLIPTextModel.from_pretrained(tiny / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(tiny / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(tiny / "unet"),
        vae=AutoencoderKL.from_pretrained(tiny / "vae"),
        scheduler=DDIMScheduler.from_pretrained(tiny / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def read_by_diffusers(tiny: Path, folder: Path, data: bytes) -> Tensor:
    """Return the prompts' embeddings after ``load_lora_weights`` of a file."""
    (folder / "no-cat.safetensors").write_bytes(data)
    reader = diffusers_pipeline(tiny)
    reader.load_lora_weights(folder / "no-cat.safetensors")
    with torch.no_grad():
        prompt, negative = reader.encode_prompt(PROMPTS[0], "cpu", 1, True, PROMPTS[1])
    return torch.cat([prompt, negative])


def test_our_own_conditioning_applies_it(tiny_pipeline: Pipeline, factors: LoraFactors, expected: Tensor) -> None:
    embeddings = Conditioner(tiny_pipeline).encode(PROMPTS, [AppliedAdapter("sha256:0", factors, 1.0)])
    torch.testing.assert_close(embeddings, expected, **TOLERANCE)


def test_diffusers_loads_the_stored_bytes(tiny: Path, tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    """Of one rank, as erasures are: diffusers 0.36 passes over ranks that differ between modules, 0.42 does not."""
    factors = random_factors(tiny_pipeline, 1, 2, rank=3).scaled(20)
    found = read_by_diffusers(tiny, tmp_path, to_bytes(factors, METADATA))
    torch.testing.assert_close(found, encode_changed(tiny, tiny_pipeline, factors), **TOLERANCE)


def test_diffusers_loads_the_stored_bytes_of_an_adapter_that_changes_mlps_alone(
    tiny: Path, tiny_pipeline: Pipeline, tmp_path: Path
) -> None:
    factors = random_factors(tiny_pipeline, 1, 2, rank=3).scaled(20)
    mlps = LoraFactors({path: pair for path, pair in factors.pairs.items() if path.endswith("mlp.fc2")})
    found = read_by_diffusers(tiny, tmp_path, to_bytes(mlps, METADATA))
    torch.testing.assert_close(found, encode_changed(tiny, tiny_pipeline, mlps), **TOLERANCE)


def test_diffusers_loads_ranks_that_differ(tiny: Path, tmp_path: Path, stored: bytes, expected: Tensor) -> None:
    torch.testing.assert_close(read_by_diffusers(tiny, tmp_path, stored), expected, **TOLERANCE)


def test_diffusers_loads_an_adapter_with_a_changed_norm_and_leaves_the_norm_out(
    tiny: Path, tiny_pipeline: Pipeline, tmp_path: Path
) -> None:
    factors = random_factors(tiny_pipeline, 1, 2, rank=3).scaled(20)
    norm = random_factors(tiny_pipeline, 1, norm=True).final_norm
    found = read_by_diffusers(tiny, tmp_path, to_bytes(LoraFactors(factors.pairs, norm), METADATA))
    torch.testing.assert_close(found, encode_changed(tiny, tiny_pipeline, factors), **TOLERANCE)


def test_diffusers_reads_kohyas_layout_as_the_same_change(tiny: Path, tiny_pipeline: Pipeline, tmp_path: Path) -> None:
    """Of one rank, as erasures are: with transformers 5, diffusers passes over alphas that differ between modules."""
    factors = random_factors(tiny_pipeline, 1, 2, rank=3).scaled(20)
    found = read_by_diffusers(tiny, tmp_path, export(to_bytes(factors, METADATA), "kohya"))
    torch.testing.assert_close(found, encode_changed(tiny, tiny_pipeline, factors), **TOLERANCE)


def test_peft_loads_its_folder(
    tiny: Path, tiny_pipeline: Pipeline, tmp_path: Path, stored: bytes, expected: Tensor
) -> None:
    with zipfile.ZipFile(io.BytesIO(export(stored, "peft"))) as archive:
        archive.extractall(tmp_path)
    model = PeftModel.from_pretrained(CLIPTextModel.from_pretrained(tiny / "text_encoder"), str(tmp_path)).eval()
    torch.testing.assert_close(encode(model, tiny_pipeline), expected, **TOLERANCE)


def test_kohyas_keys_are_the_modules_paths_with_underscores_and_alpha_is_the_rank(
    factors: LoraFactors, stored: bytes
) -> None:
    """A1111, Forge and ComfyUI look a module up by this name; they are not run here."""
    tensors = load(export(stored, "kohya"))
    assert len(tensors) == 3 * len(factors.pairs)
    for path, pair in factors.pairs.items():
        name = "lora_te_" + path.replace(".", "_")
        down, up, alpha = (tensors[f"{name}.{part}"] for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        assert alpha.item() == pair.rank
        torch.testing.assert_close(alpha / len(down) * (up @ down), pair.b @ pair.a, rtol=0, atol=0)
