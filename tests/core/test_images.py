"""Pictures in and out: what is accepted, what is refused and how that reads."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from unsee_core.errors import InvalidRequestError
from unsee_core.images import encode_image, open_image, to_pixels
from unsee_core.job import ImageFormat, Limits

LIMITS = Limits(max_image_bytes=200_000, max_image_pixels=10_000)


def noise(mode: str = "RGB", size: tuple[int, int] = (24, 16)) -> Image.Image:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8))
    return image.convert(mode) if "A" in mode else image.convert("RGB").convert(mode)


def encoded(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def refusal(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        open_image(data, "images[2]", limits)
    assert [violation.field for violation in caught.value.violations] == ["images[2]"]
    assert ", allowed " in str(caught.value)
    return str(caught.value)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, and whose pixels would be zeros if anybody unpacked them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min((width + 1) * height, 10**7)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_read_as_rgb(image_format: str):
    image = open_image(encoded(noise(), image_format), "images[0]", LIMITS)
    assert (image.mode, image.size) == ("RGB", (24, 16))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_a_png_of_any_mode_is_read_as_rgb(mode: str):
    image = open_image(encoded(noise(mode)), "images[0]", LIMITS)
    assert image.mode == "RGB"
    if mode not in {"RGBA", "LA"}:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(noise(mode).convert("RGB")))


def test_sixteen_bits_of_grey_keep_their_shades():
    grey = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    image = open_image(encoded(grey), "images[0]", LIMITS)
    np.testing.assert_array_equal(np.asarray(image)[..., 0], np.arange(256, dtype=np.uint8).reshape(16, 16))


def test_what_is_transparent_becomes_white():
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    opened = open_image(encoded(image), "images[0]", LIMITS)
    assert opened.getpixel((0, 0)) == (255, 0, 0)
    assert opened.getpixel((7, 7)) == (255, 255, 255)


def test_a_picture_is_turned_upright_by_its_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    assert open_image(encoded(noise(), "JPEG", exif=exif), "images[0]", LIMITS).size == (16, 24)


@pytest.mark.parametrize("image_format", ["BMP", "GIF", "TIFF", "PPM"])
def test_other_formats_are_refused_though_pillow_reads_them(image_format: str):
    assert "PNG, JPEG, WEBP" in refusal(encoded(noise(), image_format))


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a picture", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_what_is_no_picture_is_refused(data: bytes):
    refusal(data)


def test_too_many_bytes_are_refused():
    assert "got 200001 bytes, allowed 1-200000" in refusal(bytes(200_001))


@pytest.mark.parametrize("size", [(101, 100), (20_000, 1), (1, 1), (7, 9)])
def test_too_many_and_too_few_pixels_are_refused(size: tuple[int, int]):
    assert f"got {size[0]} x {size[1]} pixels" in refusal(png_of_size(*size))


def test_a_decompression_bomb_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    assert "pixels" in refusal(png_of_size(30_000, 30_000))
    assert "pixels" in refusal(png_of_size(3_000, 3_000))


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_an_animation_is_refused(image_format: str):
    frames = [noise(), noise().rotate(90)]
    data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:])
    assert "animation of 2 frames" in refusal(data)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_file_is_refused(image_format: str):
    data = encoded(noise(size=(60, 60)), image_format)
    refusal(data[: len(data) // 2])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(image_format: str):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(noise("RGB"), image_format, exif=exif)
    refused = 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(int(rng.choice((1, 2, 8)))):
            data[rng.integers(min(len(data), 150))] = int(rng.choice((0, 255, rng.integers(256))))
        try:
            assert open_image(bytes(data), "images[0]", LIMITS).mode == "RGB"
        except InvalidRequestError:
            refused += 1
    assert refused > 50


def test_pixels_are_scaled_and_cut_evenly():
    wide = Image.new("RGB", (40, 20), "black")
    wide.paste("white", (10, 0, 30, 20))
    pixels = to_pixels([wide, Image.new("RGB", (20, 20), "red")], 20)
    assert (pixels.shape, pixels.dtype) == ((2, 3, 20, 20), torch.float32)
    assert pixels[0].min() > 0.9
    torch.testing.assert_close(pixels[1, :, 0, 0], torch.tensor([1.0, -1.0, -1.0]))


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_an_encoded_image_can_be_opened_again(image_format: ImageFormat):
    smooth = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
    data = encode_image(smooth, image_format, {"seed": 1})
    opened = open_image(data, "images[0]", LIMITS)
    difference = np.abs(np.asarray(opened, dtype=int) - np.asarray(smooth, dtype=int))
    assert difference.max() <= (0 if image_format == "png" else 8)
    assert data == encode_image(smooth, image_format, {"seed": 1})


def test_a_png_carries_its_metadata_only_if_there_are_any():
    metadata = {"prompt": "ein Bär 🐻", "seed": 3, "adapters": [{"name": "no-cat", "weight": 1.0}]}
    carried = Image.open(io.BytesIO(encode_image(noise(), "png", metadata)))
    assert json.loads(carried.text["unsee"]) == metadata
    assert Image.open(io.BytesIO(encode_image(noise(), "png"))).text == {}
