"""Single files of Stable Diffusion 2.x: the architecture at a fraction of its width, and the original key layout."""

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from tests.core.original_layout import save_original
from unsee_core.checkpoint import Variant, clip_vocabulary, config_folder, load_checkpoint, load_with_config
from unsee_core.errors import InvalidRequestError, ModelUnavailableError
from unsee_core.parts import ModelDigests, ModelParts
from unsee_core.pipeline import load_pipeline

NARROW = {
    "unet": {
        "block_out_channels": [8, 16, 16, 16],
        "attention_head_dim": [1, 2, 2, 2],
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
    },
    "vae": {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4},
    "text_encoder": {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2},
}
VARIANTS: tuple[Variant, ...] = get_args(Variant)


def narrow(folder: Path) -> None:
    """Make every layer narrower and leave their number and kind."""
    for part, changes in NARROW.items():
        file = folder / part / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def random_parts(folder: Path) -> ModelParts:
    torch.manual_seed(0)
    return ModelParts(
        tokenizer=CLIPTokenizerFast.from_pretrained(folder / "tokenizer"),
        text_encoder=CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
        unet=UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
        vae=AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
        scheduler=DDIMScheduler(),
    )


def test_a_single_file_gives_the_weights_that_were_written_into_it(tmp_path: Path) -> None:
    with config_folder("768-v") as folder:
        narrow(folder)
        parts = random_parts(folder)
        save_original(parts, tmp_path / "model.safetensors")
        loaded = load_with_config(tmp_path / "model.safetensors", folder)
    assert ModelDigests.of(loaded) == ModelDigests.of(parts)
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    input_ids = torch.tensor([loaded.tokenizer("a photo of a cat").input_ids])
    torch.testing.assert_close(loaded.text_encoder(input_ids)[0], parts.text_encoder.eval()(input_ids)[0])


@pytest.mark.parametrize(
    "lost",
    [
        "model.diffusion_model.middle_block.1.proj_in.weight",
        "first_stage_model.decoder.norm_out.bias",
        "cond_stage_model.model.transformer.resblocks.22.mlp.c_proj.weight",
    ],
)
def test_a_file_that_lacks_a_weight_is_refused(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "model.safetensors"
    with config_folder("2-base") as folder:
        narrow(folder)
        weights = save_original(random_parts(folder), path)
        del weights[lost]
        save_file(weights, path)
        with pytest.raises(ModelUnavailableError, match=r"model\.safetensors"):
            load_with_config(path, folder)


def test_a_file_of_other_shapes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "narrow.safetensors"
    with config_folder("2.1") as folder:
        narrow(folder)
        save_original(random_parts(folder), path)
    with pytest.raises(ModelUnavailableError, match=r"narrow\.safetensors does not fit"):
        load_checkpoint(path, "2.1")


def test_a_file_of_something_else_is_refused_by_the_key_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({"lora_te_text_model.lora_down.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelUnavailableError, match=r"lacks 'model\.diffusion_model\.input_blocks"):
        load_pipeline(str(path), variant="2.1")
    path.write_bytes(b"\x80\x02 a pickle")
    with pytest.raises(ModelUnavailableError, match="no safetensors file"):
        load_pipeline(str(path), variant="2.1")


@pytest.mark.parametrize("variant", [None, "1.5"])
def test_a_single_file_needs_a_known_variant(tmp_path: Path, variant: Variant | None) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InvalidRequestError, match=r"variant.*allowed 768-v, 2-base, 2\.1, 2\.1-base"):
        load_pipeline(str(tmp_path / "model.safetensors"), variant=variant)


@pytest.mark.parametrize(
    ("variant", "size", "prediction", "scheduler"),
    [
        ("768-v", 96, "v_prediction", "DDIMScheduler"),
        ("2-base", 64, "epsilon", "PNDMScheduler"),
        ("2.1", 96, "v_prediction", "DDIMScheduler"),
        ("2.1-base", 64, "epsilon", "PNDMScheduler"),
    ],
)
def test_the_variants_differ_in_size_and_prediction(
    variant: Variant, size: int, prediction: str, scheduler: str
) -> None:
    with config_folder(variant) as folder:
        unet = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
        own = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    assert (unet["sample_size"], own["prediction_type"], own["_class_name"]) == (size, prediction, scheduler)
    assert index["scheduler"] == ["diffusers", scheduler]


def test_the_full_size_architecture_has_the_published_number_of_weights() -> None:
    with config_folder("768-v") as folder, torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae"))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
    counts = [sum(p.numel() for p in module.parameters()) for module in (unet, vae, text_encoder)]
    assert counts == [865_910_724, 83_653_863, 340_387_840]


def test_the_vocabulary_is_clips() -> None:
    vocabulary, merges = clip_vocabulary()
    assert (len(vocabulary), len(merges)) == (49408, 48894)
    assert (vocabulary["!"], vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]) == (0, 49406, 49407)
    with config_folder("2.1") as folder:
        tokenizer = CLIPTokenizerFast.from_pretrained(folder / "tokenizer")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.model_max_length) == ("!", 0, 77)
