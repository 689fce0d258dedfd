"""A model's parts as they are read, and their digests, by which adapters and images tell what they were made on."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizerFast

from unsee_core.errors import ModelUnavailableError


@dataclass(frozen=True)
class ModelParts:
    """What Stable Diffusion 2 consists of; weights on the CPU until they are made resident.

    Attributes:
        unet: a UNet2DConditionModel; diffusers' classes tell type checkers nothing.
        vae: an AutoencoderKL.
        scheduler: any SchedulerMixin.
    """

    tokenizer: CLIPTokenizerFast
    text_encoder: CLIPTextModel
    unet: Any
    vae: Any
    scheduler: Any

    def check(self, model: str) -> None:
        """Raise ModelUnavailableError unless the parts belong together."""
        text, unet, vae = self.text_encoder.config, self.unet.config, self.vae.config
        for what, first, second in (
            ("tokens of tokenizer and text_encoder", len(self.tokenizer), text.vocab_size),
            ("width of text_encoder and unet", text.hidden_size, unet.cross_attention_dim),
            ("latent channels of unet and vae", unet.in_channels, vae.latent_channels),
        ):
            if first != second:
                raise ModelUnavailableError(f"model: {model} does not fit together: {what} are {first} and {second}")


@dataclass(frozen=True)
class ModelDigests:
    """Digests of the four parts that hold something learned, each ``sha256:`` and hex."""

    tokenizer: str
    text_encoder: str
    unet: str
    vae: str

    @classmethod
    def of(cls, parts: ModelParts) -> "ModelDigests":
        """Return the digests of parts in float32 or float16, on the CPU.

        The text encoder's names always have the level ``text_model``, which transformers 5 leaves out.
        """
        return cls(
            tokenizer=_tokenizer_digest(parts.tokenizer),
            text_encoder=_weights_digest(parts.text_encoder, prefix="text_model."),
            unet=_weights_digest(parts.unet),
            vae=_weights_digest(parts.vae),
        )

    @property
    def model(self) -> str:
        """The digest over the four."""
        return _prefixed("\n".join((self.tokenizer, self.text_encoder, self.unet, self.vae)).encode())


def _tokenizer_digest(tokenizer: CLIPTokenizerFast) -> str:
    """Return the digest of what decides a prompt's token numbers: vocabulary, special tokens, length."""
    facts = {
        "vocabulary": tokenizer.get_vocab(),
        "start": tokenizer.bos_token_id,
        "end": tokenizer.eos_token_id,
        "padding": tokenizer.pad_token_id,
        "length": tokenizer.model_max_length,
    }
    return _prefixed(json.dumps(facts, sort_keys=True).encode())


def _weights_digest(module: nn.Module, *, prefix: str = "") -> str:
    """Return the digest of a module's parameters by name, rounded to float16.

    Rounded, because float32 weights and the float16 copy of them are published as one model.
    """
    total = hashlib.sha256()
    named = {prefix + name.removeprefix(prefix): value for name, value in module.named_parameters()}
    for name in sorted(named):
        value = named[name].detach().half().contiguous()
        total.update(f"{name} {tuple(value.shape)}\n".encode())
        total.update(value.view(torch.uint8).numpy().data)
    return f"sha256:{total.hexdigest()}"


def _prefixed(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
