"""Pictures and files: what callers have <-> the bytes that go over the wire."""

import io
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from unsee.errors import InvalidArgumentError

ImageInput = str | os.PathLike[str] | bytes | Image.Image
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}


class Picture:
    """A picture as an encoded file."""

    data: bytes

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file and return its path.

        Example:
            >>> client.generate("a dog", seed=1)[0].save("dog.png")
            PosixPath('dog.png')
        """
        return write_file(Path(path), self.data)

    def to_pil(self) -> Image.Image:
        """Return the picture for PIL.

        Example:
            >>> client.generate("a dog", seed=1)[0].to_pil().size
            (64, 64)
        """
        return Image.open(io.BytesIO(self.data))


@dataclass(frozen=True)
class ReportImage(Picture):
    """A picture that was drawn for an erasure's report.

    Attributes:
        prompt: what was drawn.
        seed: of its starting noise; the same without and with the adapter.
        with_adapter: drawn with the adapter, beside those in force when it was made; else by the unedited model.
        of_concept: the prompt asks for the concept; else it must stay.
        data: the encoded file, a PNG.
    """

    prompt: str
    seed: int
    with_adapter: bool
    of_concept: bool
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class GeneratedImage(Picture):
    """A finished picture.

    Attributes:
        index: which one of the request, from 0.
        seed: of its generator.
        format: "png", "jpeg" or "webp".
        data: the encoded file.
    """

    index: int
    seed: int
    format: str
    width: int
    height: int
    data: bytes = field(repr=False)


def image_bytes(image: ImageInput, field: str) -> bytes:
    """Return an encoded file of the picture: a path's content, bytes as they are, a PIL image as PNG.

    Raises:
        InvalidArgumentError: the path cannot be read, or it is none of these.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        return _png(image, field)
    if not isinstance(image, str | os.PathLike):
        raise InvalidArgumentError.of(field, f"got {type(image).__name__}, allowed a path, bytes or a PIL image")
    return read_file(Path(image), field)


def _png(image: Image.Image, field: str) -> bytes:
    packed = io.BytesIO()
    try:
        (image if image.mode in _PNG_MODES else image.convert("RGB")).save(packed, format="PNG")
    except OSError as error:  # PIL reads files late
        raise InvalidArgumentError.of(field, f"the picture cannot be read: {error}") from error
    return packed.getvalue()


def read_file(path: Path, field: str) -> bytes:
    """Return a file's content.

    Raises:
        InvalidArgumentError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgumentError.of(field, f"{path} cannot be read: {error.strerror}") from error


def write_file(path: Path, data: bytes) -> Path:
    """Write a file so that it is there as a whole or not at all, and return its path.

    Raises:
        InvalidArgumentError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InvalidArgumentError.of("path", f"{path} cannot be written: {error.strerror}") from error
    return path
