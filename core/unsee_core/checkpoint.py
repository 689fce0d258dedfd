"""Single-file checkpoints of Stable Diffusion 2.x: the configurations that such a file lacks, and how it is loaded."""

import gzip
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from transformers import CLIPTokenizerFast

from unsee_core.errors import InvalidRequestError, ModelUnavailableError
from unsee_core.parts import ModelParts

Variant = Literal["768-v", "2-base", "2.1", "2.1-base"]

_ASSETS = files("unsee_core") / "sd2"
# What tells the four apart, from their published configurations.
_DIFFERENCES: Mapping[Variant, tuple[dict[str, Any], dict[str, Any]]] = {
    "768-v": ({"sample_size": 96}, {"prediction_type": "v_prediction"}),
    "2-base": ({"sample_size": 64}, {"_class_name": "PNDMScheduler", "prediction_type": "epsilon"}),
    "2.1": ({"sample_size": 96, "upcast_attention": True}, {"prediction_type": "v_prediction"}),
    "2.1-base": (
        {"sample_size": 64, "upcast_attention": True},
        {"_class_name": "PNDMScheduler", "prediction_type": "epsilon"},
    ),
}
_KEYS_OF_EACH_PART = (
    "model.diffusion_model.input_blocks.0.0.weight",
    "first_stage_model.decoder.conv_in.weight",
    "cond_stage_model.model.positional_embedding",
)


def load_checkpoint(path: Path, variant: Variant | None) -> ModelParts:
    """Read a ``.safetensors`` file in SD 2.x's original key layout, in float32, without the network.

    Args:
        path: the file.
        variant: which of the four it is; a file cannot tell v-prediction from epsilon, and a wrong guess draws noise.

    Raises:
        InvalidRequestError: the variant is missing or unknown.
        ModelUnavailableError: the file is no SD 2.x checkpoint in safetensors.
    """
    if variant is None or variant not in get_args(Variant):
        allowed = ", ".join(get_args(Variant))
        raise InvalidRequestError.of("variant", f"got {variant!r} for the file {path.name}, allowed {allowed}")
    with config_folder(variant) as folder:
        return load_with_config(path, folder)


def load_with_config(path: Path, config: Path) -> ModelParts:
    """Read a checkpoint by the configurations of a folder in diffusers' layout; errors as in ``load_checkpoint``."""
    from diffusers import StableDiffusionPipeline  # here, because it complains at once where torchvision is missing

    _check_is_sd2(path)
    try:
        loaded = StableDiffusionPipeline.from_single_file(
            str(path),
            config=str(config),
            torch_dtype=torch.float32,
            local_files_only=True,
            tokenizer=CLIPTokenizerFast.from_pretrained(config / "tokenizer", local_files_only=True),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnavailableError(f"model: {path.name} does not fit Stable Diffusion 2.x: {error}") from error
    parts = ModelParts(loaded.tokenizer, loaded.text_encoder, loaded.unet, loaded.vae, loaded.scheduler)
    _check_is_complete(path, parts)
    return parts


@contextmanager
def config_folder(variant: Variant) -> Iterator[Path]:
    """Give a folder in diffusers' layout with everything of a variant but its weights; gone afterwards."""
    unet, difference = _DIFFERENCES[variant]
    scheduler = _shared("scheduler") | difference
    with tempfile.TemporaryDirectory(prefix="unsee-sd2-") as name:
        folder = Path(name)
        _write(
            folder / "model_index.json", _shared("model_index") | {"scheduler": ["diffusers", scheduler["_class_name"]]}
        )
        _write(folder / "unet" / "config.json", _shared("unet") | unet)
        _write(folder / "vae" / "config.json", _shared("vae"))
        _write(folder / "text_encoder" / "config.json", _shared("text_encoder"))
        _write(folder / "scheduler" / "scheduler_config.json", scheduler)
        _write(folder / "tokenizer" / "tokenizer_config.json", _shared("tokenizer_config"))
        vocabulary, merges = clip_vocabulary()
        _write(folder / "tokenizer" / "vocab.json", vocabulary)
        text = "\n".join(["#version: 0.2", *merges]) + "\n"
        (folder / "tokenizer" / "merges.txt").write_text(text, encoding="utf-8")
        yield folder


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """Return CLIP's 49,408 tokens with their ids, and its 48,894 merges in order.

    The ids follow from the merges: bytes, bytes that end a word, merges, start and end of text.
    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, arXiv:2103.00020.
    """
    packed = (_ASSETS / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    merges = gzip.decompress(packed).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = _byte_letters()
    joined = ["".join(merge.split()) for merge in merges]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *joined, "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def _byte_letters() -> list[str]:
    """Return the characters that stand for the 256 bytes: printable bytes as they are, then stand-ins from 256 on."""
    printable = [chr(byte) for byte in range(256) if chr(byte).isprintable() and chr(byte) != " " and byte != 0xAD]
    return printable + [chr(256 + i) for i in range(256 - len(printable))]


def _check_is_sd2(path: Path) -> None:
    try:
        with safe_open(str(path), framework="pt") as file:
            keys = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelUnavailableError(f"model: {path.name} is no safetensors file: {error}") from error
    for key in _KEYS_OF_EACH_PART:
        if key not in keys:
            message = (
                f"model: {path.name} lacks {key!r}; allowed: a checkpoint of SD 2.x with U-Net, VAE and text encoder"
            )
            raise ModelUnavailableError(message)


def _check_is_complete(path: Path, parts: ModelParts) -> None:
    """Raise ModelUnavailableError where a weight was not in the file: it has a shape then, but no storage."""
    for part in ("text_encoder", "unet", "vae"):
        missing = [name for name, value in getattr(parts, part).named_parameters() if value.is_meta]
        if missing:
            raise ModelUnavailableError(
                f"model: {path.name} lacks {len(missing)} weights of {part} ({missing[0]}, ...)"
            )


def _shared(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((_ASSETS / f"{name}.json").read_text(encoding="utf-8"))
    return config


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
