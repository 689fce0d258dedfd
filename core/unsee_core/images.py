"""Encoded pictures to pixels and back; what comes in is trusted in nothing."""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from unsee_core.errors import InvalidRequestError
from unsee_core.job import ImageFormat, Limits

FORMATS = ("PNG", "JPEG", "WEBP")
MIN_SIDE = 8
METADATA_KEY = "unsee"
_JPEG_QUALITY = 95
_WEBP_QUALITY = 95

# All that Pillow raises on broken files; OSError includes "unidentified" and "truncated".
_BROKEN = (OSError, SyntaxError, ValueError)
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def open_image(data: bytes, field: str, limits: Limits) -> Image.Image:
    """Return an encoded picture as RGB: upright by its EXIF orientation, what is transparent on white.

    Format, bytes, frames and pixels are checked from the header, before anything is decoded.

    Args:
        data: a PNG, JPEG or WebP file.
        field: name of the request's field, for the error.
        limits: ``max_image_bytes`` and ``max_image_pixels`` are read.

    Raises:
        InvalidRequestError: the file is not a whole still picture of an allowed format and size.
    """
    if not 0 < len(data) <= limits.max_image_bytes:
        raise InvalidRequestError.of(field, f"got {len(data)} bytes, allowed 1-{limits.max_image_bytes}")
    image = _read_header(data, field, limits)
    width, height = image.size
    if width * height > limits.max_image_pixels or min(width, height) < MIN_SIDE:
        allowed = f"at least {MIN_SIDE} pixels a side and up to {limits.max_image_pixels} in all"
        raise InvalidRequestError.of(field, f"got {width} x {height} pixels, allowed {allowed}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise InvalidRequestError.of(field, f"got an animation of {frames} frames, allowed a still picture")
    try:
        return _to_rgb(image)
    except _BROKEN as error:
        message = f"got a broken {image.format} file of {len(data)} bytes ({_reason(error)}), allowed a whole one"
        raise InvalidRequestError.of(field, message) from error


def _read_header(data: bytes, field: str, limits: Limits) -> Image.Image:
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except _TOO_LARGE as error:
        message = f"got a picture of too many pixels ({error}), allowed up to {limits.max_image_pixels}"
        raise InvalidRequestError.of(field, message) from error
    except _BROKEN as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({_reason(error)})"
        allowed = f"allowed a whole file in {', '.join(FORMATS)} format"
        message = f"got {len(data)} bytes that begin with {data[:8]!r}{reason}, {allowed}"
        raise InvalidRequestError.of(field, message) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _reason(error: BaseException) -> str:
    return str(error)[:80] or type(error).__name__


def to_pixels(images: Sequence[Image.Image], size: int) -> Tensor:
    """Return RGB pictures as ``(n, 3, size, size)`` float32 in [-1, 1]: resized, with what overhangs cut off evenly."""
    fitted = [ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS) for image in images]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in fitted]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def encode_image(image: Image.Image, image_format: ImageFormat, metadata: Mapping[str, object] | None = None) -> bytes:
    """Return the encoded picture; a PNG carries ``metadata`` as JSON in the text chunk "unsee"."""
    out = BytesIO()
    if image_format == "png":
        text = PngImagePlugin.PngInfo()
        if metadata is not None:
            text.add_itxt(METADATA_KEY, json.dumps(metadata, ensure_ascii=False, sort_keys=True))
        image.save(out, "PNG", pnginfo=text)
    elif image_format == "jpeg":
        image.save(out, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        image.save(out, "WEBP", quality=_WEBP_QUALITY)
    return out.getvalue()
