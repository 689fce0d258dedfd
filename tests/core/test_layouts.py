"""Files that other programs write: their keys, their scale, and what is refused with its reason."""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from unsee_core.adapter import from_bytes
from unsee_core.errors import AdapterFormatError
from unsee_core.layouts import MODULES
from unsee_core.tensor_file import write_tensors

A, B = torch.arange(6.0).reshape(2, 3), torch.arange(8.0).reshape(4, 2)
PATH = "text_model.encoder.layers.22.mlp.fc2"
LONG, SHORT = "text_model.encoder.layers.22.mlp.fc2", "encoder.layers.22.mlp.fc2"
KOHYA = "lora_te_text_model_encoder_layers_22_mlp_fc2"


def dotted(prefix: str, **extra: Tensor) -> dict[str, Tensor]:
    return {f"{prefix}.lora_A.weight": A, f"{prefix}.lora_B.weight": B, **extra}


def kohya(alpha: float | None = None) -> dict[str, Tensor]:
    alphas = {} if alpha is None else {f"{KOHYA}.alpha": torch.tensor(alpha)}
    return {f"{KOHYA}.lora_down.weight": A, f"{KOHYA}.lora_up.weight": B, **alphas}


def file_of(tensors: Mapping[str, Tensor], **metadata: str) -> bytes:
    return write_tensors(tensors, {"format": "pt", **metadata})


def zip_of(config: object, tensors: Mapping[str, Tensor], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("README.md", "as peft writes it")
        archive.writestr("adapter_config.json", json.dumps(config))
        archive.writestr("adapter_model.safetensors", file_of(tensors))
    return packed.getvalue()


def change(data: bytes) -> Tensor:
    """Return the change of the one module that ``data`` changes."""
    factors, metadata = from_bytes(data)
    assert metadata is None
    (pair,) = (factors.pairs[PATH],)
    return pair.b @ pair.a


def test_both_ways_in_which_diffusers_names_factors_are_read() -> None:
    parts = {"down": A, "up": B}
    tensors = {f"text_encoder.{LONG}.lora_linear_layer.{part}.weight": value for part, value in parts.items()}
    torch.testing.assert_close(change(file_of(tensors)), B @ A)


@pytest.mark.parametrize(
    "prefix", [f"{p}.{path}" for p in ("text_encoder", "base_model.model") for path in (LONG, SHORT)]
)
def test_keys_of_diffusers_and_peft_are_read_with_and_without_the_level_text_model(prefix: str) -> None:
    torch.testing.assert_close(change(file_of(dotted(prefix))), B @ A)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_key_in_kohyas_layout(module: str) -> None:
    name = f"lora_te_text_model_encoder_layers_7_{module.replace('.', '_')}"
    factors, _ = from_bytes(file_of({f"{name}.lora_down.weight": A, f"{name}.lora_up.weight": B}))
    assert list(factors.pairs) == [f"text_model.encoder.layers.7.{module}"]


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (2.0, 1.0), (1.0, 0.5), (8.0, 4.0)])
def test_kohyas_alpha_over_rank_is_folded_in(alpha: float | None, scale: float) -> None:
    torch.testing.assert_close(change(file_of(kohya(alpha))), scale * (B @ A))


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 2}, 1.0),
        ({"lora_alpha": 6.0}, 3.0),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / 2**0.5),
        ({"lora_alpha": 2, "alpha_pattern": {"mlp.fc2": 10}}, 5.0),
        ({"lora_alpha": 2, "alpha_pattern": {"p.fc2": 10, "fc": 3}}, 1.0),
    ],
)
def test_the_scale_in_pefts_configuration_is_folded_in(config: dict[str, Any], scale: float) -> None:
    tensors = dotted(f"base_model.model.{LONG}")
    torch.testing.assert_close(change(zip_of({"peft_type": "LORA", **config}, tensors)), scale * (B @ A))


def test_the_scale_that_diffusers_notes_beside_the_tensors_is_folded_in() -> None:
    noted = {"text_encoder.lora_alpha": 8, "text_encoder.peft_type": "LORA", "unet.lora_alpha": 64}
    tensors = dotted(f"text_encoder.{LONG}")
    torch.testing.assert_close(change(file_of(tensors, lora_adapter_metadata=json.dumps(noted))), 4 * (B @ A))
    only_unet = json.dumps({"unet.lora_alpha": 64})
    torch.testing.assert_close(change(file_of(tensors, lora_adapter_metadata=only_unet)), B @ A)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(dtype: torch.dtype) -> None:
    from safetensors.torch import save

    tensors = {key: value.to(dtype) for key, value in kohya(1.0).items()}
    torch.testing.assert_close(change(save(tensors)), 0.5 * (B @ A))


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({}, "no factors"),
        ({"lora_unet_down_blocks_0.lora_down.weight": A}, "lora_unet_down.*a change of the U-Net"),
        ({"unet.down_blocks.0.lora_A.weight": A}, "a change of the U-Net"),
        ({f"{KOHYA.replace('te', 'te1', 1)}.lora_down.weight": A}, "made for SDXL"),
        ({"lora_te2_text_model_encoder_layers_22_mlp_fc2.alpha": A}, "made for SDXL"),
        ({f"text_encoder_2.{LONG}.lora_A.weight": A}, "made for SDXL"),
        ({f"text_encoder.{LONG}.lora_magnitude_vector": A}, "allowed: factors of mlp.fc1"),
        ({"text_encoder.text_model.embeddings.token_embedding.lora_A.weight": A}, "allowed: factors"),
        ({f"text_encoder.{LONG.replace('22', '022')}.lora_A.weight": A}, "allowed: factors"),
        ({f"text_encoder.{LONG.replace('22', '٢٢')}.lora_A.weight": A}, "allowed: factors"),
        ({f"text_encoder.{LONG}.lora_A.weight": A}, "has A alone"),
        ({f"{KOHYA}.alpha": torch.tensor(1.0)}, "has alpha alone"),
        (kohya() | {f"{KOHYA}.alpha": torch.ones(2)}, r"alpha .*shape \(2,\)"),
        (kohya() | {f"{KOHYA}.lora_up.weight": B.T}, r"\(2, 3\) and \(2, 4\)"),
        (kohya() | {f"{KOHYA}.lora_up.weight": torch.ones(2)}, "allowed .r, d_in."),
        (kohya() | {f"{KOHYA}.lora_up.weight": torch.ones(0, 2)}, r"\(0, 2\)"),
        ({f"{KOHYA}.lora_down.weight": torch.ones(321, 1), f"{KOHYA}.lora_up.weight": torch.ones(1, 321)}, "r 1-320"),
        (kohya() | dotted(f"text_encoder.{LONG}") | {f"{KOHYA}.lora_down.weight": A + 1}, "two different factors A"),
        (kohya() | {"unsee_lora.final_layer_norm.weight": torch.ones(4)}, "final norm"),
        (kohya() | {f"unsee_lora.final_layer_norm.{p}": torch.ones(4, 1) for p in ("bias", "weight")}, "final norm"),
        (kohya(float("nan")), "not finite"),
        (kohya() | {f"{KOHYA}.lora_down.weight": A / 0}, "lora_down.weight' holds numbers that are not finite"),
        (kohya(1e38) | {f"{KOHYA}.lora_up.weight": B * 1e3}, "not finite"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(tensors: dict[str, Tensor], why: str) -> None:
    with pytest.raises(AdapterFormatError, match=why):
        from_bytes(file_of(tensors))


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64, torch.float8_e4m3fn, torch.bool])
def test_other_numbers_than_floats_of_16_and_32_bits_are_refused(dtype: torch.dtype) -> None:
    from safetensors.torch import save

    with pytest.raises(AdapterFormatError, match="allowed F32, F16, BF16"):
        from_bytes(save({key: value.to(dtype) for key, value in kohya().items()}))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ([], "allowed an object"),
        ({}, "lora_alpha is None"),
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"lora_alpha": float("inf")}, "no JSON"),
        ({"lora_alpha": 10**400}, "allowed a number up to"),
        ({"lora_alpha": 2, "peft_type": "LOHA"}, "peft_type is 'LOHA', allowed 'LORA'"),
        ({"lora_alpha": 2, "use_dora": True}, "use_dora"),
        ({"lora_alpha": 2, "alpha_pattern": {"(a+)+$": 1}}, "regular expressions"),
        ({"lora_alpha": 2, "alpha_pattern": [1]}, "alpha_pattern"),
        ({"lora_alpha": 2, "alpha_pattern": {"mlp.fc2": "1"}}, r"alpha_pattern\[mlp.fc2\] is 1"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_refused(config: object, why: str) -> None:
    with pytest.raises(AdapterFormatError, match=why):
        from_bytes(zip_of(config, dotted(f"base_model.model.{LONG}")))


def test_a_zip_that_unpacks_to_more_than_is_allowed_is_refused_before_it_is_unpacked() -> None:
    zeros = {f"{KOHYA}.lora_down.weight": torch.zeros(64, 4096), f"{KOHYA}.lora_up.weight": torch.zeros(4, 64)}
    bomb = zip_of({"lora_alpha": 2}, zeros)
    assert len(bomb) < 10_000
    with pytest.raises(AdapterFormatError, match=r"unpacks to 10.* bytes, allowed 500000"):
        from_bytes(bomb, max_bytes=500_000)


def test_a_zip_packed_in_rare_ways_or_without_the_files_is_refused() -> None:
    with pytest.raises(AdapterFormatError, match="allowed stored or deflated"):
        from_bytes(zip_of({"lora_alpha": 2}, dotted(f"base_model.model.{LONG}"), zipfile.ZIP_LZMA))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("adapter_model.bin", b"")
    with pytest.raises(AdapterFormatError, match=r"no zip of adapter_config\.json"):
        from_bytes(packed.getvalue())


def test_more_bytes_than_allowed_are_refused() -> None:
    data = file_of(kohya())
    with pytest.raises(AdapterFormatError, match=f"got {len(data)} bytes, allowed {len(data) - 1}"):
        from_bytes(data, max_bytes=len(data) - 1)
    from_bytes(data, max_bytes=len(data))
