"""Writes a model in the key layout that Stable Diffusion 2 was first published in, from diffusers' modules."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unsee_core.parts import ModelParts

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.resnets.1": "middle_block.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
TEXT = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def save_original(parts: ModelParts, path: Path) -> dict[str, Tensor]:
    """Write the parts' weights to one file and return what was written."""
    weights = {f"model.diffusion_model.{_unet_key(k)}": v for k, v in parts.unet.state_dict().items()}
    for key, value in parts.vae.state_dict().items():
        name = _vae_key(key, len(parts.vae.config.block_out_channels))
        is_projection = ".attn_1." in name and name.endswith("weight") and ".norm." not in name
        weights[f"first_stage_model.{name}"] = value[:, :, None, None] if is_projection else value
    weights |= {f"cond_stage_model.model.{key}": value for key, value in _text(parts.text_encoder)}
    weights = {key: value.contiguous() for key, value in weights.items()}
    save_file(weights, path)
    return weights


def _unet_key(key: str) -> str:
    for ours, theirs in UNET.items():
        if key.startswith(f"{ours}."):
            return _inside(theirs + key.removeprefix(ours))
    side, block, kind, number, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", key).groups()  # type: ignore[union-attr]
    if kind == "downsamplers":
        return f"input_blocks.{3 * int(block) + 3}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{3 * int(block) + 2}.{1 if block == '0' else 2}.{rest}"
    place = 3 * int(block) + int(number) + (side == "down")
    name = f"{'input' if side == 'down' else 'output'}_blocks.{place}.{1 if kind == 'attentions' else 0}"
    return _inside(f"{name}.{rest}")


def _inside(key: str) -> str:
    for ours, theirs in RESNET.items():
        if f".{ours}." in key and "transformer_blocks" not in key:
            return key.replace(ours, theirs)
    return key


def _vae_key(key: str, levels: int) -> str:
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0." in key:
        start, inner = key.split("mid_block.attentions.0.")
        name, _, end = inner.rpartition(".")
        return f"{start}mid.attn_1.{VAE_ATTENTION[name]}.{end}"
    return key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _text(encoder: Any) -> list[tuple[str, Tensor]]:
    """Return OpenCLIP's weights, with the last layer, which Stable Diffusion 2 leaves out, as noise."""
    model = getattr(encoder, "text_model", encoder)
    width, layers = encoder.config.hidden_size, list(model.encoder.layers)
    named = [
        ("token_embedding.weight", model.embeddings.token_embedding.weight),
        ("positional_embedding", model.embeddings.position_embedding.weight),
        ("ln_final.weight", model.final_layer_norm.weight),
        ("ln_final.bias", model.final_layer_norm.bias),
        ("text_projection", torch.randn(width, width)),
        ("logit_scale", torch.tensor(4.6)),
    ]
    for number, layer in enumerate([*layers, layers[0]]):
        at = f"transformer.resblocks.{number}"
        for kind in ("weight", "bias"):
            stacked = [getattr(getattr(layer.self_attn, f"{x}_proj"), kind) for x in "qkv"]
            named.append((f"{at}.attn.in_proj_{kind}", torch.cat(stacked)))
            named += [
                (f"{at}.{theirs}.{kind}", getattr(layer.get_submodule(ours), kind)) for ours, theirs in TEXT.items()
            ]
    return [(name, value.detach().clone()) for name, value in named]
