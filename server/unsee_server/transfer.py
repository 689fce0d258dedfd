"""An adapter's bytes on their way in and out, in pieces that are checked one by one."""

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unsee_core.errors import InvalidRequestError
from unsee_core.job import Concept

if TYPE_CHECKING:
    from unsee_core.library import Format  # imports torch, which takes longer than opening the ports may

PIECE_BYTES = 512 * 1024
MAX_PIECE_BYTES = 2**20
_MAX_HEADER_BYTES = 2**20


@dataclass(frozen=True)
class Begin:
    """What an import is to bring.

    Attributes:
        sha256: of all bytes, ``sha256:`` and hex.
        layout: None: told from the bytes.
    """

    name: str | None
    size_bytes: int
    sha256: str
    layout: "Format | None"
    replace: bool
    labels: Mapping[str, str]
    concept: Concept | None


@dataclass(frozen=True)
class Piece:
    """Some of an adapter's bytes: where they begin, and their CRC-32."""

    offset: int
    data: bytes = field(repr=False)
    crc32: int


def pieces(data: bytes, offset: int) -> Iterator[Piece]:
    """Yield what lies from ``offset`` on, in order."""
    for start in range(offset, len(data), PIECE_BYTES):
        part = data[start : start + PIECE_BYTES]
        yield Piece(start, part, zlib.crc32(part))


class Assembly:
    """Puts an import's pieces together.

    Args:
        begin: what was announced.
    """

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._data = bytearray()

    def add(self, piece: Piece) -> None:
        """Append a piece.

        Raises:
            InvalidRequestError: it is empty or too large, leaves a gap, overshoots the announced size, or was damaged.
        """
        size, had = len(piece.data), len(self._data)
        if not 0 < size <= MAX_PIECE_BYTES:
            raise InvalidRequestError.of("chunk.data", f"got {size} bytes, allowed 1-{MAX_PIECE_BYTES}")
        if piece.offset != had:
            raise InvalidRequestError.of("chunk.offset", f"got {piece.offset}, allowed {had}: chunks come in order")
        if had + size > self._begin.size_bytes:
            allowed = f"the {self._begin.size_bytes} of begin.header.size_bytes"
            raise InvalidRequestError.of("chunk.data", f"got {had + size} bytes in all, allowed {allowed}")
        if zlib.crc32(piece.data) != piece.crc32:
            allowed = f"{zlib.crc32(piece.data):08x}, that of its data"
            raise InvalidRequestError.of("chunk.crc32", f"got {piece.crc32:08x} at {piece.offset}, allowed {allowed}")
        self._data += piece.data

    def finish(self) -> bytes:
        """Return all bytes.

        Raises:
            InvalidRequestError: some are missing, they are not those that were announced, or in another layout.
        """
        begin, data = self._begin, bytes(self._data)
        if len(data) != begin.size_bytes:
            raise InvalidRequestError.of(
                "begin.header.size_bytes", f"got {len(data)} bytes, allowed {begin.size_bytes}"
            )
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != begin.sha256:
            raise InvalidRequestError.of(
                "begin.header.sha256", f"got {begin.sha256}, allowed {found}, that of the bytes"
            )
        if begin.layout not in (None, layout_of(data)):
            allowed = f"{layout_of(data)}, that of the bytes"
            raise InvalidRequestError.of("begin.header.format", f"got {begin.layout}, allowed {allowed}")
        return data


def layout_of(data: bytes) -> "Format":
    """Return the layout that the keys in the header speak for; whether the bytes are sound is not said."""
    header = data[8 : 8 + min(int.from_bytes(data[:8], "little"), _MAX_HEADER_BYTES)]
    if data.startswith(b"PK\x03\x04") or b'"base_model.' in header:
        return "peft"
    return "kohya" if b'"lora_te' in header else "diffusers"
