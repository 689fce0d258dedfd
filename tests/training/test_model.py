"""What ships in models/emoji: Stable Diffusion 2's layout, small, licensed."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from training.assemble import _forget_folders
from training.icons import ICON_SETS

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "emoji"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(MODEL).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_plain_diffusers_draws_with_it_and_the_same_seed_draws_the_same(pipeline: StableDiffusionPipeline):
    first, again = (
        pipeline("a cat", num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)).images
        for _ in range(2)
    )
    assert first.shape == (1, 3, 64, 64)
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_it_has_the_layout_of_stable_diffusion_2(pipeline: StableDiffusionPipeline):
    assert pipeline.tokenizer.pad_token_id == pipeline.tokenizer.convert_tokens_to_ids("!") == 0
    assert pipeline.tokenizer.model_max_length == pipeline.text_encoder.config.max_position_embeddings == 77
    assert pipeline.text_encoder.config.hidden_act == "gelu"
    assert pipeline.unet.config.use_linear_projection
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size
    assert pipeline.vae.config.latent_channels == 4
    scheduler = pipeline.scheduler.config
    assert (scheduler.prediction_type, scheduler.beta_schedule) == ("v_prediction", "scaled_linear")
    assert (scheduler.beta_start, scheduler.beta_end) == (0.00085, 0.012)


def test_its_weights_are_float16_safetensors_within_the_limits():
    files = [file for file in MODEL.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 30_000_000
    assert max(file.stat().st_size for file in files) <= 15_000_000
    for file in MODEL.rglob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.float16}, file  # noqa: SIM118


def test_transformers_4_finds_its_names_in_the_text_encoder():
    with safe_open(MODEL / "text_encoder" / "model.safetensors", "pt") as tensors:
        assert all(name.startswith("text_model.") for name in tensors.keys())  # noqa: SIM118
    assert "torch_dtype" in json.loads((MODEL / "text_encoder" / "config.json").read_text())
    assert {"vocab.json", "merges.txt"} <= {file.name for file in (MODEL / "tokenizer").iterdir()}


def test_no_configuration_says_where_a_part_was_read_from():
    files = sorted(MODEL.glob("*/*.json"))
    assert [file for file in files if "_name_or_path" in file.read_text(encoding="utf-8")] == []


def test_what_assembles_the_model_takes_folders_out_of_configurations(tmp_path: Path):
    for part in ("unet", "vae"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text('{"_name_or_path": "/home/me/unet", "in_channels": 4}')
    _forget_folders(tmp_path)
    for part in ("unet", "vae"):
        assert json.loads((tmp_path / part / "config.json").read_text()) == {"in_channels": 4}


def test_every_icon_set_is_credited_with_its_version_and_licence_wherever_its_pictures_are():
    versions = json.loads((ROOT / "training" / "package.json").read_text())["dependencies"]
    assert versions == {f"@iconify-json/{icon_set.name}": icon_set.version for icon_set in ICON_SETS}
    locked = json.loads((ROOT / "training" / "package-lock.json").read_text())["packages"]
    for icon_set in ICON_SETS:
        assert locked[f"node_modules/@iconify-json/{icon_set.name}"]["license"] == icon_set.licence
        for readme in (MODEL / "README.md", ROOT / "bench" / "images" / "README.md"):
            row = next(line for line in readme.read_text().splitlines() if f"{icon_set.name} " in line and "|" in line)
            assert icon_set.version in row, readme
            assert icon_set.licence in row, readme
            assert icon_set.attribution in row, readme
