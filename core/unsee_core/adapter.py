"""An adapter: low-rank factors for the text encoder, what they were made of, and their one canonical form in bytes.

The bytes are a safetensors file in diffusers' layout, with the header written here: its keys are sorted, and it holds
nothing but what request, seed and versions determine, so that the same adapter is the same bytes and has one digest.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from unsee_core import layouts
from unsee_core.encoder import KEY_PREFIX
from unsee_core.errors import AdapterFormatError, BaseMismatchError, InvalidRequestError
from unsee_core.job import BaseModel, Concept
from unsee_core.lora import LoraFactors, LoraPair, NormDelta
from unsee_core.pipeline import Pipeline

__all__ = [
    "AdapterMetadata", "LoraFactors", "LoraPair", "NormDelta",
    "check_base", "digest", "export", "from_bytes", "to_bytes",
]  # fmt: skip

FORMAT_VERSION = "1"
MAX_HEADER_BYTES = 2**20


@dataclass(frozen=True)
class AdapterMetadata:
    """What an adapter was made of; all of it decided by request, seed and versions.

    Attributes:
        settings: of the method, as text.
        versions: of the libraries that the factors depend on.
    """

    concept: Concept | None
    method: str
    strength: float
    rank: int
    steps: int
    seed: int
    settings: Mapping[str, str]
    base_model: BaseModel
    versions: Mapping[str, str]


def to_bytes(factors: LoraFactors, metadata: AdapterMetadata) -> bytes:
    """Return the canonical bytes: same factors and metadata, same bytes."""
    tensors = {name: value.contiguous() for name, value in sorted(layouts.to_diffusers(factors).items())}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "unsee": _metadata_text(metadata)}}
    offset = 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # safetensors aligns the data to 8 bytes
    data = b"".join(value.numpy().tobytes() for value in tensors.values())
    return struct.pack("<Q", len(text)) + text + data


def from_bytes(data: bytes, *, max_bytes: int | None = None) -> tuple[LoraFactors, AdapterMetadata | None]:
    """Read an adapter that nobody vouches for, in any of the three layouts, told from its keys.

    Args:
        data: a safetensors file in diffusers', peft's or kohya's layout, or a zip as ``export`` makes for peft.
        max_bytes: refused above; None: no limit.

    Returns:
        The factors in float32, and the metadata; None where another program wrote the file.

    Raises:
        AdapterFormatError: no safetensors, unknown keys, unfitting shapes, numbers that are not finite.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise AdapterFormatError(f"adapter: got {len(data)} bytes, allowed {max_bytes}")
    config: Mapping[str, Any] | None = None
    if data[:2] == b"PK":
        data, config = layouts.unzip_peft(data, max_bytes=max_bytes or 2**30)
    header = _header(data)
    try:
        tensors = load_tensors(data)
    except Exception as error:
        raise AdapterFormatError(f"adapter: no readable safetensors file: {error}") from error
    factors = layouts.from_tensors({name: _checked(name, value) for name, value in tensors.items()}, config)
    text = header.get("__metadata__", {}).get("unsee")
    return factors, None if text is None else _metadata(text)


def digest(data: bytes) -> str:
    """Return ``sha256:`` and the hex digest of the bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def export(data: bytes, layout: Literal["diffusers", "peft", "kohya"]) -> bytes:
    """Return a stored adapter in another layout.

    Raises:
        ExportUnsupportedError: it changes the final layer norm, which the layout cannot hold.
    """
    if layout == "diffusers":
        return data
    factors, metadata = from_bytes(data)
    name = metadata.base_model.name if metadata else ""
    return layouts.to_peft_zip(factors, name) if layout == "peft" else layouts.to_kohya(factors)


def check_base(factors: LoraFactors, metadata: AdapterMetadata | None, pipeline: Pipeline) -> bool:
    """Return True if the adapter was made on a text encoder with another digest, or does not say on which.

    Raises:
        BaseMismatchError: another tokenizer, or modules and shapes that this encoder lacks.
    """
    named = pipeline.text_encoder.named_parameters()
    shapes = {KEY_PREFIX + name.removeprefix(KEY_PREFIX): tuple(weight.shape) for name, weight in named}
    for path, pair in factors.pairs.items():
        given, needed = (len(pair.b), pair.a.shape[1]), shapes.get(f"{path}.weight")
        if given != needed:
            raise BaseMismatchError(
                f"adapter: {path} has the shape {given}, allowed {needed or 'none: no such module'}"
            )
    norm = factors.final_norm
    if norm is not None and norm.weight.shape != (pipeline.encoder_width,):
        raise BaseMismatchError(
            f"adapter: the final norm has {len(norm.weight)} values, allowed {pipeline.encoder_width}"
        )
    if metadata is None:
        return True
    made_on, here = metadata.base_model, pipeline.digests
    if made_on.tokenizer_digest != here.tokenizer:
        raise BaseMismatchError(f"adapter: made for the tokenizer {made_on.tokenizer_digest}, allowed {here.tokenizer}")
    return made_on.text_encoder_digest != here.text_encoder


def _metadata_text(metadata: AdapterMetadata) -> str:
    return json.dumps({"version": FORMAT_VERSION, **asdict(metadata)}, sort_keys=True, separators=(",", ":"))


def _metadata(text: str) -> AdapterMetadata:
    try:
        content = json.loads(text)
        concept = content["concept"]
        return AdapterMetadata(
            concept=concept and Concept(concept["name"], tuple(concept["synonyms"]), concept["kind"]),
            method=str(content["method"]),
            strength=float(content["strength"]),
            rank=int(content["rank"]),
            steps=int(content["steps"]),
            seed=int(content["seed"]),
            settings={str(k): str(v) for k, v in content["settings"].items()},
            base_model=BaseModel(**{k: str(v) for k, v in content["base_model"].items()}),
            versions={str(k): str(v) for k, v in content["versions"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, InvalidRequestError) as error:
        raise AdapterFormatError(f"adapter: its metadata are not what this program writes: {error!r}") from error


def _header(data: bytes) -> dict[str, Any]:
    """Return the safetensors header, after checking that it is one and of a sane size."""
    length = struct.unpack("<Q", data[:8])[0] if len(data) > 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise AdapterFormatError(f"adapter: no safetensors file with a header of up to {MAX_HEADER_BYTES} bytes")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise AdapterFormatError(f"adapter: its header is no JSON: {error}") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise AdapterFormatError("adapter: its header is no JSON object")
    return header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands there twice")
    return content


def _checked(name: str, value: Tensor) -> Tensor:
    if value.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise AdapterFormatError(f"adapter: {name} is {value.dtype}, allowed float32, float16, bfloat16")
    if not torch.isfinite(value).all():
        raise AdapterFormatError(f"adapter: {name} holds values that are not finite")
    return value.float()
