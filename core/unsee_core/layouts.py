"""The key layouts that LoRA files for a text encoder come in: diffusers', peft's and kohya's.

diffusers  text_encoder.text_model.encoder.layers.22.mlp.fc2.lora_A.weight
peft       base_model.model.text_model.encoder.layers.22.mlp.fc2.lora_A.weight   (text_model. may be missing)
kohya      lora_te_text_model_encoder_layers_22_mlp_fc2.lora_down.weight, .lora_up.weight, .alpha
"""

import io
import json
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from unsee_core.errors import AdapterFormatError, ExportUnsupportedError
from unsee_core.lora import LoraFactors, LoraPair, NormDelta

MODULES = ("mlp.fc1", "mlp.fc2", "self_attn.k_proj", "self_attn.out_proj", "self_attn.q_proj", "self_attn.v_proj")
MAX_RANK = 320
_PATH = r"text_model\.encoder\.layers\.\d{1,3}\.(?:" + "|".join(re.escape(m) for m in MODULES) + ")"
_PEFT_PREFIX = "base_model.model."
_DIFFUSERS = re.compile(rf"text_encoder\.({_PATH})\.lora_([AB])\.weight\Z")
_PEFT = re.compile(rf"base_model\.model\.({_PATH})\.lora_([AB])\.weight\Z")
_KOHYA = {
    f"lora_te_text_model_encoder_layers_{i}_{module.replace('.', '_')}": f"text_model.encoder.layers.{i}.{module}"
    for i in range(32)
    for module in MODULES
}
# No text-encoder key, so that readers leave it alone; "lora" in it, since diffusers refuses files with other keys.
_NORM = "unsee_lora.final_layer_norm."
_PEFT_WEIGHTS, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def to_diffusers(factors: LoraFactors) -> dict[str, Tensor]:
    """Return float32 tensors by their keys in diffusers' layout; the final norm's change under keys of our own."""
    tensors = {f"text_encoder.{name}": value for name, value in _by_letter(factors).items()}
    if factors.final_norm is not None:
        tensors[_NORM + "weight"] = factors.final_norm.weight.float()
        tensors[_NORM + "bias"] = factors.final_norm.bias.float()
    return tensors


def to_kohya(factors: LoraFactors) -> bytes:
    """Return a safetensors file in kohya's layout.

    Raises:
        ExportUnsupportedError: the factors change the final layer norm.
    """
    _refuse_norm(factors, "kohya")
    tensors: dict[str, Tensor] = {}
    for path, pair in factors.pairs.items():
        name = "lora_te_" + path.replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = pair.a.contiguous()
        tensors[f"{name}.lora_up.weight"] = pair.b.contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(float(pair.rank))
    return save(tensors, metadata={"ss_base_model_version": "sd_v2"})


def to_peft_zip(factors: LoraFactors, base_model: str) -> bytes:
    """Return a zip, stored and with fixed times, of what ``PeftModel.from_pretrained`` reads for a CLIPTextModel.

    Raises:
        ExportUnsupportedError: the factors change the final layer norm.
    """
    _refuse_norm(factors, "peft")
    ranks = {path: pair.rank for path, pair in factors.pairs.items()}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": factors.rank,
        "lora_alpha": factors.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        # Whole names would miss transformers 5, which leaves the level text_model out; a suffix fits both.
        "target_modules": sorted(path.removeprefix("text_model.") for path in ranks),
        "rank_pattern": {p.removeprefix("text_model."): r for p, r in ranks.items() if r != factors.rank},
        "alpha_pattern": {p.removeprefix("text_model."): r for p, r in ranks.items() if r != factors.rank},
    }
    tensors = {_PEFT_PREFIX + name: value for name, value in _by_letter(factors).items()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_PEFT_CONFIG), json.dumps(config, indent=2, sort_keys=True))
        archive.writestr(zipfile.ZipInfo(_PEFT_WEIGHTS), save(tensors, metadata={"format": "pt"}))
    return packed.getvalue()


def unzip_peft(data: bytes, *, max_bytes: int) -> tuple[bytes, Mapping[str, Any]]:
    """Return the weights file and the configuration of such a zip.

    Raises:
        AdapterFormatError: no zip, a file is missing, or it unpacks to more than ``max_bytes``.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > max_bytes:
                raise AdapterFormatError(f"adapter: the zip unpacks to more than the {max_bytes} bytes allowed")
            config = json.loads(archive.read(_PEFT_CONFIG))
            weights = archive.read(_PEFT_WEIGHTS)
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError, NotImplementedError, OSError) as error:
        message = f"adapter: no zip of {_PEFT_CONFIG} and {_PEFT_WEIGHTS}: {error}"
        raise AdapterFormatError(message) from error
    if not isinstance(config, dict):
        raise AdapterFormatError(f"adapter: {_PEFT_CONFIG} is no JSON object")
    return weights, config


def from_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> LoraFactors:
    """Return the factors of a file in any of the layouts, told from its keys.

    Args:
        tensors: all of the file, float32.
        config: peft's configuration, where there is one; it alone tells peft's alpha.

    Raises:
        AdapterFormatError: a key is unknown, a factor lacks its partner, or shapes disagree.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    norm: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key.startswith(_NORM) and key.removeprefix(_NORM) in ("weight", "bias"):
            norm[key.removeprefix(_NORM)] = value
            continue
        path, part = _place(key)
        if part in parts.setdefault(path, {}):
            raise AdapterFormatError(f"adapter: {path} has two factors {part}")
        parts[path][part] = value
    if not parts:
        raise AdapterFormatError("adapter: it holds no factors")
    pairs = {path: _pair(path, found, _alpha(path, found, config)) for path, found in sorted(parts.items())}
    return LoraFactors(pairs, _norm_delta(norm) if norm else None)


def _place(key: str) -> tuple[str, str]:
    """Return the module path and the part, "A", "B" or "alpha", that a key stands for."""
    if key.startswith(_PEFT_PREFIX + "encoder."):
        key = _PEFT_PREFIX + "text_model." + key.removeprefix(_PEFT_PREFIX)
    if found := _DIFFUSERS.match(key) or _PEFT.match(key):
        return found[1], found[2]
    name, _, part = key.partition(".")
    kohya = {"lora_down.weight": "A", "lora_up.weight": "B", "alpha": "alpha"}
    if name in _KOHYA and part in kohya:
        return _KOHYA[name], kohya[part]
    if key.startswith(("unet.", "lora_unet_")):
        raise AdapterFormatError(
            f"adapter: got {key[:120]!r}, a change of the U-Net; allowed: the text encoder's layers"
        )
    if key.startswith(("lora_te1_", "lora_te2_", "text_encoder_2.")):
        raise AdapterFormatError(f"adapter: got {key[:120]!r}, made for SDXL; allowed: SD 2's one text encoder")
    raise AdapterFormatError(f"adapter: got the key {key[:120]!r}; allowed: factors of {', '.join(MODULES)}")


def _alpha(path: str, found: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> float | None:
    """Return the alpha that the factors are scaled by; None: their rank."""
    if "alpha" in found:
        if found["alpha"].numel() != 1:
            raise AdapterFormatError(
                f"adapter: alpha of {path} has the shape {tuple(found['alpha'].shape)}, allowed ()"
            )
        return float(found["alpha"])
    if config is None:
        return None
    pattern = config.get("alpha_pattern") or {}
    own = [value for name, value in pattern.items() if path.endswith(str(name))] if isinstance(pattern, dict) else []
    alpha = own[0] if own else config.get("lora_alpha")
    if not isinstance(alpha, int | float):
        raise AdapterFormatError(f"adapter: lora_alpha in {_PEFT_CONFIG} is {alpha!r}, allowed a number")
    return float(alpha)


def _pair(path: str, found: Mapping[str, Tensor], alpha: float | None) -> LoraPair:
    if not {"A", "B"} <= found.keys():
        raise AdapterFormatError(f"adapter: {path} lacks a factor; it has {', '.join(sorted(found))}")
    a, b = found["A"], found["B"]
    if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or not 1 <= len(a) <= MAX_RANK:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise AdapterFormatError(f"adapter: {path} has {shapes}, allowed (r, d_in) and (d_out, r) with r 1-{MAX_RANK}")
    scale = 1.0 if alpha is None else alpha / len(a)
    return LoraPair(a=a.contiguous(), b=(b if scale == 1 else b * scale).contiguous())


def _norm_delta(norm: Mapping[str, Tensor]) -> NormDelta:
    shapes = {tuple(value.shape) for value in norm.values()}
    if norm.keys() != {"weight", "bias"} or len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise AdapterFormatError("adapter: the final norm's change needs a weight and a bias of one length")
    return NormDelta(weight=norm["weight"], bias=norm["bias"])


def _by_letter(factors: LoraFactors) -> dict[str, Tensor]:
    named = ((path, letter, value) for path, p in factors.pairs.items() for letter, value in (("A", p.a), ("B", p.b)))
    return {f"{path}.lora_{letter}.weight": value.float().cpu().contiguous() for path, letter, value in named}


def _refuse_norm(factors: LoraFactors, layout: str) -> None:
    if factors.final_norm is not None:
        raise ExportUnsupportedError(
            f"format: the layout {layout!r} cannot hold the change of the final layer norm that this adapter was "
            "trained with; allowed: diffusers (which draws without that change), or erase without train_final_norm"
        )
