"""Detectors: what their scores mean, and that gradients flow through them."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from tests.conftest import TINY_TEXT, write_tiny_tokenizer
from unsee_core.denoise import decode_image
from unsee_core.detector import ClipDetector, DiffusionDetector
from unsee_core.encoder import tokenize
from unsee_core.errors import ModelUnavailableError
from unsee_core.image_loss import encode_latents
from unsee_core.images import to_pixels
from unsee_core.pipeline import Pipeline

TINY_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "projection_dim": 32,
}
PIXELS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector") / "clip"
    write_tiny_tokenizer(folder)
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=TINY_TEXT, vision_config=TINY_VISION, projection_dim=32)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return folder


def some_latents(rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def diffusion_detector(pipeline: Pipeline, *, swapped: bool = False) -> DiffusionDetector:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 4, 77, pipeline.encoder_width, generator=generator)
    concept, anchor = (second, first) if swapped else (first, second)
    return DiffusionDetector(pipeline, concept, anchor, generator)


def test_concept_and_anchor_in_each_others_place_turn_the_score_round(tiny_pipeline):
    score = diffusion_detector(tiny_pipeline)(some_latents())
    assert score.shape == (3,)
    assert score.abs().min() > 0
    torch.testing.assert_close(diffusion_detector(tiny_pipeline, swapped=True)(some_latents()), -score)


def test_latents_that_the_concept_explains_better_score_higher(pipeline):
    folder = Path(__file__).parents[2] / "bench" / "images"
    ids, _ = tokenize(pipeline, ["a photo of a cat", "a photo of a dog"])
    cat, dog = pipeline.text_encoder(ids)[0].split(1)
    scores = []
    for name in ("cat", "dog"):
        detector = DiffusionDetector(pipeline, cat, dog, torch.Generator().manual_seed(0))
        pictures = [Image.open(path).convert("RGB") for path in sorted((folder / name).glob("*.png"))]
        with torch.no_grad():
            scores.append(detector(encode_latents(pipeline, pictures)).mean().item())
    assert scores[0] > 0 > scores[1]


def test_clips_score_is_the_difference_of_its_own_cosines(tiny_pipeline, clip_folder):
    detector = ClipDetector(tiny_pipeline, clip_folder, ["a cat"], ["a dog"])
    clip = CLIPModel.from_pretrained(clip_folder).eval()
    ids = [tiny_pipeline.tokenizer(text).input_ids for text in ("a cat", "a dog")]
    pictures = [decode_image(tiny_pipeline, latents[None]) for latents in some_latents()]
    mean, spread = (torch.tensor(PIXELS[name]).view(1, 3, 1, 1) for name in ("image_mean", "image_std"))
    pixels = (to_pixels(pictures, 16) / 2 + 0.5 - mean) / spread
    with torch.no_grad():
        logits = clip(input_ids=torch.tensor(ids), pixel_values=pixels).logits_per_image / clip.logit_scale.exp()
        score = detector(some_latents())
    torch.testing.assert_close(score, logits[:, 0] - logits[:, 1], rtol=0, atol=1e-3)  # pictures have 8 bits


@pytest.mark.parametrize("kind", ["diffusion", "clip"])
def test_gradients_reach_the_latents(tiny_pipeline, clip_folder, kind):
    clip = ClipDetector(tiny_pipeline, clip_folder, ["a cat"], ["a dog"])
    detector = clip if kind == "clip" else diffusion_detector(tiny_pipeline)
    latents = some_latents().requires_grad_()
    detector(latents).sum().backward()
    assert (latents.grad.abs().amax(dim=(1, 2, 3)) > 0).all()


@pytest.mark.parametrize("missing", ["preprocessor_config.json", "model.safetensors", "config.json", "vocab.json"])
def test_a_folder_that_holds_no_whole_model_is_told(tiny_pipeline, clip_folder, tmp_path, missing):
    for file in clip_folder.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelUnavailableError, match=r"detector: .* is no CLIPModel"):
        ClipDetector(tiny_pipeline, tmp_path, ["a cat"], ["a dog"])


def test_a_model_that_lacks_weights_is_told_and_not_filled_up_at_random(tiny_pipeline, clip_folder, tmp_path):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnavailableError, match=r"lacks visual_projection.weight"):
        ClipDetector(tiny_pipeline, tmp_path, ["a cat"], ["a dog"])
