"""peft's folder, as a zip: the weights and ``adapter_config.json``."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from unsee_core.errors import AdapterFormatError
from unsee_core.lora import LoraFactors
from unsee_core.tensor_file import read_object

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MAX_CONFIG_BYTES = 2**20
# Its first two bytes alone can also begin a safetensors file; as a header's length, all four are more than is allowed.
ZIP_MAGIC = b"PK\x03\x04"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def pack(weights: bytes, factors: LoraFactors, base_model: str) -> bytes:
    """Return a zip, stored and without times, of what ``PeftModel.from_pretrained`` reads for a CLIPTextModel."""
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "lora_dropout": 0.0,
        "bias": "none",
        **scales(factors),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(CONFIG), json.dumps(config, indent=2, sort_keys=True))
        archive.writestr(zipfile.ZipInfo(WEIGHTS), weights)
    return packed.getvalue()


def scales(factors: LoraFactors) -> dict[str, Any]:
    """Return in peft's words which modules change, by what ranks, and that nothing scales them."""
    # Whole names would miss transformers 5, which leaves the level text_model out; the end of a name fits both.
    ranks = {path.removeprefix("text_model."): pair.rank for path, pair in factors.pairs.items()}
    odd = {name: rank for name, rank in ranks.items() if rank != factors.rank}
    return {
        "r": factors.rank,
        "lora_alpha": factors.rank,
        "target_modules": sorted(ranks),
        "rank_pattern": odd,
        "alpha_pattern": odd,
    }


def unpack(data: bytes, *, max_bytes: int) -> tuple[bytes, Mapping[str, Any]]:
    """Return the weights file and the configuration in such a zip.

    Raises:
        AdapterFormatError: no zip, a file is missing, or it unpacks to more than ``max_bytes``.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            config = _read(archive, CONFIG, MAX_CONFIG_BYTES)
            weights = _read(archive, WEIGHTS, max_bytes)
    except (
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        RuntimeError,
        OSError,
        EOFError,
        struct.error,
        zlib.error,
    ) as error:
        raise AdapterFormatError(f"adapter: no zip of {CONFIG} and {WEIGHTS}: {str(error)[:200]}") from error
    return weights, read_object(config, CONFIG)


def _read(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > max_bytes:  # reading stops there too, whatever the compressed data hold
        raise AdapterFormatError(f"adapter: {name} unpacks to {info.file_size} bytes, allowed {max_bytes}")
    if info.compress_type not in _METHODS:
        raise AdapterFormatError(
            f"adapter: {name} is packed by method {info.compress_type}, allowed stored or deflated"
        )
    return archive.read(name)
