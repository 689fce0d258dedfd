"""Adapters as bytes: canonical, complete, and checked against the model they are meant for."""

import hashlib
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.core.adapters import METADATA, assert_same, small_bytes, small_factors
from tests.core.factors import random_factors
from unsee_core import adapter
from unsee_core.adapter import check_base, export, from_bytes, to_bytes
from unsee_core.errors import BaseMismatchError, ExportUnsupportedError, InvalidRequestError
from unsee_core.layouts import to_diffusers
from unsee_core.library import Format
from unsee_core.lora import LoraFactors, LoraPair
from unsee_core.pipeline import Pipeline
from unsee_core.tensor_file import write_tensors


@pytest.mark.parametrize("norm", [False, True])
def test_factors_and_metadata_come_back_as_they_were(norm: bool) -> None:
    factors = small_factors(norm=norm)
    found, metadata = from_bytes(to_bytes(factors, METADATA))
    assert_same(found, factors)
    assert metadata == METADATA


def test_another_process_writes_the_same_bytes() -> None:
    script = "from tests.core.adapters import small_bytes; import sys; sys.stdout.buffer.write(small_bytes(norm=True))"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert other.stdout == small_bytes(norm=True)


def test_the_order_in_which_things_were_collected_does_not_show() -> None:
    factors = small_factors()
    turned = LoraFactors(dict(reversed(factors.pairs.items())))
    settings = dict(reversed(METADATA.settings.items()))
    assert to_bytes(turned, replace(METADATA, settings=settings)) == to_bytes(factors, METADATA)


def test_the_header_is_sorted_and_holds_the_layout_of_diffusers_in_float32() -> None:
    data = small_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    assert length % 8 == 0
    keys = [key for key, _ in json.loads(data[8 : 8 + length], object_pairs_hook=list)]
    assert keys == sorted(keys)
    assert "text_encoder.text_model.encoder.layers.22.mlp.fc2.lora_linear_layer.down.weight" in keys


def test_safetensors_reads_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "cat.safetensors"
    path.write_bytes(small_bytes())
    factors = small_factors()
    with safe_open(path, "pt") as file:
        a = file.get_tensor("text_encoder.text_model.encoder.layers.3.mlp.fc1.lora_linear_layer.down.weight")
        assert json.loads(file.metadata()["unsee"])["method"] == "few_shot_lora"
    assert torch.equal(a, factors.pairs["text_model.encoder.layers.3.mlp.fc1"].a)


def test_a_digest_is_that_of_the_bytes() -> None:
    assert adapter.digest(b"cat") == f"sha256:{hashlib.sha256(b'cat').hexdigest()}"


@pytest.mark.parametrize("layout", ["diffusers", "peft", "kohya"])
def test_an_export_is_read_as_the_same_adapter_and_is_the_same_every_time(layout: Format) -> None:
    data = small_bytes()
    exported = export(data, layout)
    assert exported == export(data, layout)
    factors, metadata = from_bytes(exported)
    assert metadata is not None
    assert to_bytes(factors, metadata) == data


@pytest.mark.parametrize("layout", ["peft", "kohya"])
def test_a_changed_final_norm_goes_into_no_other_layout(layout: Format) -> None:
    with pytest.raises(ExportUnsupportedError, match=f"{layout}.*final layer norm"):
        export(small_bytes(norm=True), layout)
    assert export(small_bytes(norm=True), "diffusers") == small_bytes(norm=True)


def test_a_header_whose_length_reads_like_a_zips_first_bytes_is_read_all_the_same() -> None:
    tensors, wanted = to_diffusers(small_factors()), int.from_bytes(b"PK", "little")
    bare = struct.unpack("<Q", write_tensors(tensors, {"filling": ""})[:8])[0]
    data = write_tensors(tensors, {"filling": "x" * (wanted - bare)})
    assert data.startswith(b"PK")
    assert_same(from_bytes(data)[0], small_factors())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strength", float("nan")),
        ("rank", 321),
        ("steps", -1),
        ("seed", 2**63),
        ("method", "a\x00"),
        ("method", "m" * 65),
    ],
)
def test_metadata_that_no_erasure_makes_are_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidRequestError, match=field):
        replace(METADATA, **{field: value})


def test_scaled_factors_change_in_proportion_the_norm_too() -> None:
    factors = small_factors(norm=True)
    half = factors.scaled(0.5)
    for path, pair in factors.pairs.items():
        torch.testing.assert_close(half.pairs[path].b @ half.pairs[path].a, 0.5 * (pair.b @ pair.a))
    assert half.final_norm is not None
    assert factors.final_norm is not None
    torch.testing.assert_close(half.final_norm.bias, 0.5 * factors.final_norm.bias)
    assert (factors.rank, factors.layers, factors.first_layer) == (3, (3, 22), 3)


def test_an_adapter_of_this_model_fits_it(tiny_pipeline: Pipeline) -> None:
    metadata = replace(METADATA, base_model=tiny_pipeline.base_model)
    assert check_base(random_factors(tiny_pipeline, 1, 2, norm=True), metadata, tiny_pipeline) is False


def test_another_text_encoder_is_a_mismatch_another_unet_is_none(tiny_pipeline: Pipeline) -> None:
    factors, base = random_factors(tiny_pipeline, 2), tiny_pipeline.base_model
    other = replace(base, text_encoder_digest="sha256:" + "0" * 64)
    assert check_base(factors, replace(METADATA, base_model=other), tiny_pipeline) is True
    other = replace(base, unet_digest="sha256:" + "0" * 64)
    assert check_base(factors, replace(METADATA, base_model=other), tiny_pipeline) is False


def test_an_adapter_that_does_not_say_what_it_was_made_on_is_a_mismatch(tiny_pipeline: Pipeline) -> None:
    assert check_base(random_factors(tiny_pipeline, 2), None, tiny_pipeline) is True


def test_another_tokenizer_is_refused(tiny_pipeline: Pipeline) -> None:
    other = replace(tiny_pipeline.base_model, tokenizer_digest="sha256:" + "0" * 64)
    with pytest.raises(BaseMismatchError, match="tokenizer"):
        check_base(random_factors(tiny_pipeline, 2), replace(METADATA, base_model=other), tiny_pipeline)


def test_other_shapes_are_refused(tiny_pipeline: Pipeline) -> None:
    wide = LoraFactors({"text_model.encoder.layers.2.mlp.fc2": LoraPair(torch.ones(1, 65), torch.ones(32, 1))})
    deep = LoraFactors({"text_model.encoder.layers.3.mlp.fc2": LoraPair(torch.ones(1, 64), torch.ones(32, 1))})
    with pytest.raises(BaseMismatchError, match=r"has the shape \(32, 65\), allowed \(32, 64\)"):
        check_base(wide, None, tiny_pipeline)
    with pytest.raises(BaseMismatchError, match=r"layers\.3\.mlp\.fc2.*no such module"):
        check_base(deep, None, tiny_pipeline)
    norm = LoraFactors(random_factors(tiny_pipeline, 2).pairs, small_factors(norm=True).final_norm)
    with pytest.raises(BaseMismatchError, match="final norm has 6 values, allowed 32"):
        check_base(norm, None, tiny_pipeline)
