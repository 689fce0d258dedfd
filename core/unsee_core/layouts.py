"""The key layouts that LoRA files for a text encoder come in, told from the keys.

diffusers  text_encoder.text_model.encoder.layers.22.mlp.fc2.lora_linear_layer.down.weight, .up.weight
peft       base_model.model.text_model.encoder.layers.22.mlp.fc2.lora_A.weight
kohya      lora_te_text_model_encoder_layers_22_mlp_fc2.lora_down.weight, .lora_up.weight, .alpha

transformers 5 dropped the level ``text_model.``, so files written with it may lack it in the first two. diffusers says
``lora_A`` and ``lora_B``, too, but reads these only where the attention changes as well.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from unsee_core.errors import AdapterFormatError
from unsee_core.lora import LoraFactors, LoraPair, NormDelta
from unsee_core.scaling import Scaling

MAX_RANK = 320
MODULES = ("mlp.fc1", "mlp.fc2", "self_attn.k_proj", "self_attn.out_proj", "self_attn.q_proj", "self_attn.v_proj")
_PATH = r"encoder\.layers\.(?:0|[1-9][0-9]?)\.(?:" + "|".join(re.escape(module) for module in MODULES) + ")"
_LEVEL = "text_model."
_DOTTED_PARTS = {"lora_A": "A", "lora_B": "B", "lora_linear_layer.down": "A", "lora_linear_layer.up": "B"}
_PARTS = "|".join(map(re.escape, _DOTTED_PARTS))
_DOTTED = re.compile(rf"(?:text_encoder|base_model\.model)\.(?:text_model\.)?({_PATH})\.({_PARTS})\.weight\Z")
_KOHYA = {
    f"lora_te_text_model_encoder_layers_{i}_{module.replace('.', '_')}": f"text_model.encoder.layers.{i}.{module}"
    for i in range(100)
    for module in MODULES
}
_KOHYA_PARTS = {"lora_down.weight": "A", "lora_up.weight": "B", "alpha": "alpha"}
# No text-encoder key, so that readers leave it alone; "lora" in it, since diffusers refuses files with other keys.
_NORM = {"unsee_lora.final_layer_norm.weight": "weight", "unsee_lora.final_layer_norm.bias": "bias"}


def to_diffusers(factors: LoraFactors) -> dict[str, Tensor]:
    """Return the tensors by their keys in diffusers' layout; the final norm's change under keys of our own."""
    part = {"A": "lora_linear_layer.down", "B": "lora_linear_layer.up"}
    tensors = {f"text_encoder.{path}.{part[letter]}.weight": value for path, letter, value in _each(factors)}
    if factors.final_norm is not None:
        tensors |= {key: getattr(factors.final_norm, part) for key, part in _NORM.items()}
    return tensors


def to_peft(factors: LoraFactors) -> dict[str, Tensor]:
    """Return the tensors by their keys in peft's layout, each with and without the level ``text_model.``.

    peft passes over keys that fit no module, and takes a missing one for zero with no more than a warning. One file
    that works with transformers 4 and 5 therefore holds both.
    """
    named = {f"{path}.lora_{letter}.weight": value for path, letter, value in _each(factors)}
    short = {name.removeprefix(_LEVEL): value for name, value in named.items()}
    return {f"base_model.model.{name}": value for name, value in (named | short).items()}


def to_kohya(factors: LoraFactors) -> dict[str, Tensor]:
    """Return the tensors by their keys in kohya's layout, with alpha as the rank."""
    names = {path: name for name, path in _KOHYA.items()}
    part = {letter: key for key, letter in _KOHYA_PARTS.items()}
    tensors = {f"{names[path]}.{part[letter]}": value for path, letter, value in _each(factors)}
    alphas = {f"{names[path]}.alpha": torch.tensor(float(pair.rank)) for path, pair in factors.pairs.items()}
    return tensors | alphas


def from_tensors(tensors: Mapping[str, Tensor], scaling: Scaling | None) -> LoraFactors:
    """Return the factors of a file in any of the layouts, its scale folded into B.

    Args:
        tensors: all of the file, float32 and finite.
        scaling: what the file says beside the tensors; None: alpha is the rank, but for kohya's own ``.alpha``.

    Raises:
        AdapterFormatError: a key is unknown, a factor lacks its partner, or shapes disagree.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    norm: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key in _NORM:
            norm[_NORM[key]] = value
            continue
        path, part = _place(key)
        known = parts.setdefault(path, {}).setdefault(part, value)
        if known is not value and not torch.equal(known, value):
            raise AdapterFormatError(f"adapter: {path} has two different factors {part}")
    if not parts:
        raise AdapterFormatError("adapter: it holds no factors")
    pairs = {path: _pair(path, found, scaling) for path, found in sorted(parts.items())}
    return LoraFactors(pairs, _norm_delta(norm) if norm else None)


def _each(factors: LoraFactors) -> list[tuple[str, str, Tensor]]:
    pairs = factors.pairs.items()
    return [(path, letter, value) for path, pair in pairs for letter, value in (("A", pair.a), ("B", pair.b))]


def _place(key: str) -> tuple[str, str]:
    """Return the module's path and the part, "A", "B" or "alpha", that a key stands for."""
    if found := _DOTTED.match(key):
        return _LEVEL + found[1], _DOTTED_PARTS[found[2]]
    name, _, part = key.partition(".")
    if name in _KOHYA and part in _KOHYA_PARTS:
        return _KOHYA[name], _KOHYA_PARTS[part]
    if key.startswith(("unet.", "lora_unet_")):
        raise AdapterFormatError(
            f"adapter: got {key[:120]!r}, a change of the U-Net; allowed: changes of the text encoder's layers alone"
        )
    if key.startswith(("lora_te1_", "lora_te2_", "text_encoder_2.")):
        raise AdapterFormatError(f"adapter: got {key[:120]!r}, made for SDXL; allowed: SD 2's one text encoder")
    raise AdapterFormatError(
        f"adapter: got the key {key[:120]!r}; allowed: factors of {', '.join(MODULES)} in the layers 0-99"
    )


def _pair(path: str, found: Mapping[str, Tensor], scaling: Scaling | None) -> LoraPair:
    if not {"A", "B"} <= found.keys():
        raise AdapterFormatError(f"adapter: {path} has {', '.join(sorted(found))} alone; allowed: A and B together")
    a, b = found["A"], found["B"]
    if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or not 1 <= len(a) <= MAX_RANK or 0 in (*a.shape, *b.shape):
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise AdapterFormatError(f"adapter: {path} has {shapes}, allowed (r, d_in) and (d_out, r) with r 1-{MAX_RANK}")
    scale = scaling.factor(path, len(a)) if scaling else 1.0
    if "alpha" in found:
        scale = _alpha(path, found["alpha"]) / len(a)
    if scale != 1:
        b = b * scale
        if not torch.isfinite(b).all():
            raise AdapterFormatError(f"adapter: {path} scaled by {scale} is not finite")
    return LoraPair(a=a.contiguous(), b=b.contiguous())


def _alpha(path: str, value: Tensor) -> float:
    if value.numel() != 1:
        raise AdapterFormatError(f"adapter: alpha of {path} has the shape {tuple(value.shape)}, allowed ()")
    return float(value)


def _norm_delta(norm: Mapping[str, Tensor]) -> NormDelta:
    shapes = [tuple(value.shape) for value in norm.values()]
    if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 1:
        raise AdapterFormatError(
            f"adapter: the final norm's change has {', '.join(sorted(norm))} of {str(shapes)[:80]}, "
            "allowed weight and bias of one shape (d,)"
        )
    return NormDelta(weight=norm["weight"], bias=norm["bias"])
