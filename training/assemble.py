"""Puts the trained parts together as diffusers reads them. Run: ``python -m training.assemble``."""

import argparse
import json
import shutil
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from training.icons import WORK
from training.unet import NOISE

MODEL = Path(__file__).parent.parent / "models" / "emoji"
LARGEST_FILE = "12MB"


def assemble(work: Path, target: Path) -> None:
    """Write the pipeline in float16 to ``target``, whole or not at all; files that others put there stay.

    Args:
        work: holds ``tokenizer``, ``unet``, ``unet-text``, and ``vae-decoder`` or else ``vae``.
        target: directory, made where it is missing.
    """
    decoder = work / "vae-decoder"
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(decoder if decoder.exists() else work / "vae").half(),
        text_encoder=CLIPTextModel.from_pretrained(work / "unet-text").half(),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(work / "unet").half(),
        scheduler=DDIMScheduler(**NOISE, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    partial = target.with_name(target.name + ".partial")
    if target.exists():
        shutil.copytree(target, partial, dirs_exist_ok=True)
    for part in ("unet", "text_encoder", "tokenizer", "vae", "scheduler"):
        shutil.rmtree(partial / part, ignore_errors=True)
    pipeline.save_pretrained(partial, max_shard_size=LARGEST_FILE)
    _widen_support(partial, work)
    _forget_folders(partial)
    old = target.with_name(target.name + ".old")
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _forget_folders(directory: Path) -> None:
    """Take out of the configurations where on this machine the parts were read from."""
    for part in ("unet", "vae"):
        file = directory / part / "config.json"
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _widen_support(directory: Path, work: Path) -> None:
    """Rewrite what only transformers 5 would read: short parameter names, ``dtype``, a tokenizer in one file."""
    weights = directory / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    config_file = directory / "text_encoder" / "config.json"
    config = json.loads(config_file.read_text())
    config["torch_dtype"] = config.pop("dtype", "float16")
    config_file.write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(directory / "tokenizer")
    shutil.copytree(work / "tokenizer", directory / "tokenizer")
    for file in directory.rglob("*.safetensors"):
        file.chmod(0o644)


def main() -> None:
    """Write ``models/emoji`` from ``training/work``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=MODEL)
    args = parser.parse_args()
    assemble(WORK, args.target)


if __name__ == "__main__":
    main()
