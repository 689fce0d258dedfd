"""Safetensors files: written so that the same content is the same bytes, read so that nothing in them is trusted.

The library's own ``save`` orders several metadata keys at random, so the header is written here: eight bytes of length,
JSON with sorted keys, then the tensors in the order of their names. https://huggingface.co/docs/safetensors
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from unsee_core.errors import AdapterFormatError

MAX_HEADER_BYTES = 2**20
_DTYPES = ("F32", "F16", "BF16")


def write_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file of the tensors in float32: same content, same bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts = []
    offset = 0
    for name, value in sorted(tensors.items()):
        part = value.detach().float().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes()
        end = offset + len(part)
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, end]}
        parts.append(part)
        offset = end
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the tensors to begin at a multiple of 8
    return b"".join((struct.pack("<Q", len(text)), text, *parts))


def read_tensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file in float32, and its metadata.

    Raises:
        AdapterFormatError: no safetensors file, or one with numbers that are no finite F32, F16 or BF16.
    """
    header = _header(data)
    for name, entry in header.items():
        if name != "__metadata__":
            _check_dtype(name, entry)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise AdapterFormatError(f"adapter: no readable safetensors file: {str(error)[:200]}") from error
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise AdapterFormatError(f"adapter: {name[:120]!r} holds numbers that are not finite")
    return {name: value.float() for name, value in tensors.items()}, header.get("__metadata__", {})


def read_object(text: bytes | str, what: str) -> dict[str, Any]:
    """Return the JSON object in ``text``, which ``what`` names in errors.

    Raises:
        AdapterFormatError: no JSON object, a key stands there twice, or a number is NaN or infinite.
    """
    try:
        content = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise AdapterFormatError(f"adapter: {what}: no JSON: {error}") from error
    if not isinstance(content, dict):
        raise AdapterFormatError(f"adapter: {what}: got JSON {type(content).__name__}, allowed an object")
    return content


def _header(data: bytes) -> dict[str, Any]:
    length = struct.unpack("<Q", data[:8])[0] if len(data) > 8 else 0
    most = min(MAX_HEADER_BYTES, len(data) - 8)
    if not 2 <= length <= most:
        raise AdapterFormatError(
            f"adapter: no safetensors file: got {len(data)} bytes that announce a header of {length}, "
            f"allowed 2-{max(most, 2)}"
        )
    return read_object(data[8 : 8 + length], "the safetensors header")


def _check_dtype(name: str, entry: Any) -> None:
    dtype = entry.get("dtype") if isinstance(entry, dict) else None
    if dtype not in _DTYPES:
        raise AdapterFormatError(f"adapter: {name[:120]!r} is {str(dtype)[:20]}, allowed {', '.join(_DTYPES)}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key stands there twice")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
