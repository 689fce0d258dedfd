"""How much of a concept a picture's latents show, as a score that gradients flow through."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizerFast

from unsee_core.errors import ModelUnavailableError
from unsee_core.image_loss import ImageLoss
from unsee_core.pipeline import Pipeline

Detector = Callable[[Tensor], Tensor]


class DiffusionDetector:
    """The model itself as a classifier: its loss under the anchor less its loss under the concept.

    Args:
        pipeline: the resident model; read only.
        concept: ``(n, 77, d)`` embeddings of prompts that name the concept, from the frozen encoder.
        anchor: as ``concept``, row for row.
        generator: draws prompts, noise and timesteps, on the CPU.

    Source: Your Diffusion Model is Secretly a Zero-Shot Classifier, arXiv:2303.16203.
    """

    def __init__(self, pipeline: Pipeline, concept: Tensor, anchor: Tensor, generator: torch.Generator) -> None:
        self._image_loss = ImageLoss(pipeline)
        self._concept, self._anchor, self._generator = concept, anchor, generator

    def __call__(self, latents: Tensor) -> Tensor:
        """Return the score of ``(B, C, h, w)`` latents, ``(B,)`` float32; above 0: the concept explains them better."""
        rows = len(latents)
        picked = torch.randint(len(self._concept), (rows,), generator=self._generator)
        noise = torch.randn(latents.shape, generator=self._generator)
        timesteps = torch.randint(self._image_loss.num_timesteps, (rows,), generator=self._generator)
        embeddings = torch.cat([self._anchor[picked], self._concept[picked]])
        latents, noise, timesteps = (torch.cat([value, value]) for value in (latents, noise, timesteps))
        anchor, concept = self._image_loss(latents, noise, timesteps, embeddings).chunk(2)
        return anchor - concept


class ClipDetector:
    """A CLIP model of the operator's: how much nearer a picture is to the concept's texts than to the anchor's.

    Args:
        pipeline: the resident model, whose VAE turns latents into pictures; read only.
        folder: a CLIPModel with its tokenizer and ``preprocessor_config.json``, as transformers saves them.
        concept: texts that name the concept.
        anchor: texts that name what takes its place.

    Raises:
        ModelUnavailableError: the folder holds no such model.
    """

    def __init__(self, pipeline: Pipeline, folder: Path, concept: Sequence[str], anchor: Sequence[str]) -> None:
        clip, tokenizer, mean, spread = _read(folder)
        self._vae, self._device = pipeline.vae, pipeline.device
        self._clip = clip.float().eval().requires_grad_(False).to(self._device)
        self._mean, self._spread = mean.to(self._device), spread.to(self._device)
        self._size = clip.config.vision_config.image_size
        self._texts = [self._encoded(tokenizer, texts) for texts in (concept, anchor)]

    def __call__(self, latents: Tensor) -> Tensor:
        """Return the difference of the cosines for ``(B, C, h, w)`` latents, ``(B,)`` float32, in [-2, 2]."""
        decoded = self._vae.decode(latents.to(self._vae.dtype) / self._vae.config.scaling_factor).sample.float()
        pixels = (decoded / 2 + 0.5).clamp(0, 1)
        resized = F.interpolate(pixels, (self._size, self._size), mode="bicubic", antialias=True)
        vision = self._clip.vision_model((resized - self._mean) / self._spread).pooler_output
        seen = F.normalize(self._clip.visual_projection(vision), dim=-1)
        concept, anchor = (seen @ text for text in self._texts)
        return concept - anchor

    @torch.no_grad()
    def _encoded(self, tokenizer: CLIPTokenizerFast, texts: Sequence[str]) -> Tensor:
        """Return the mean direction of texts, ``(d,)`` of length 1."""
        tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self._device)
        pooled = self._clip.text_model(**tokens).pooler_output
        mean = F.normalize(self._clip.text_projection(pooled), dim=-1).mean(0)
        return F.normalize(mean, dim=0)


def _read(folder: Path) -> tuple[CLIPModel, CLIPTokenizerFast, Tensor, Tensor]:
    """Return model, tokenizer, and the mean and spread of pixels that the model expects, ``(1, 3, 1, 1)`` each."""
    local = {"local_files_only": True}
    try:
        clip, info = CLIPModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **local)
        vocabulary = (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()
        tokenizer = CLIPTokenizerFast.from_pretrained(folder, **local)
        pixels = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        mean, spread = (torch.tensor(pixels[name]).view(1, 3, 1, 1) for name in ("image_mean", "image_std"))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelUnavailableError(f"detector: {folder} is no CLIPModel that can be read: {error}") from error
    lacking = [*sorted(info["missing_keys"]), *([] if vocabulary else ["a vocabulary"])]
    if lacking:
        raise ModelUnavailableError(f"detector: {folder} is no CLIPModel that can be used: it lacks {lacking[0]}")
    return clip, tokenizer, mean, spread
